from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from tests.unit.audit.conftest import FIT, PATIENTS, SEQUENCES, network

from seglens.audit.probes import fit_reconstructions
from seglens.audit.volume_samples import SampleReader
from seglens.audit.volume_table import TableMaker, folds_of
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.normalisation_groups import groups_of
from seglens.segmenters.volume_scores import evaluate_volumes


def test_true_dice_is_that_of_whole_volumes(source, labelled):
    """Every slice is looked at here, and nothing is resized: `evaluate_volumes` must agree."""
    scores = evaluate_volumes(network(), read_cohort(labelled, sequences=SEQUENCES)).table
    for region in ("edema", "enhancing"):
        rows = scores.filter(pl.col("region") == region).sort("volume")
        expected = (2 * rows["tp"] / (rows["predicted"] + rows["truth"])).to_list()
        assert source.rows.sort("volume")[f"truth.{region}"].to_list() == pytest.approx(expected)
    assert source.rows["truth.necrotic_core"].null_count() == 10  # no mask has any: no Dice, never 1
    mean = source.values(["truth.edema", "truth.enhancing"]).mean(1)
    assert source.values(["truth.dice"])[:, 0] == pytest.approx(mean)


def test_without_masks_there_is_no_truth_and_the_rest_is_the_same(maker, labelled, source):
    units = groups_of(read_cohort(labelled, sequences=SEQUENCES).cases)[:2]
    bare = maker.table(units, folds=folds_of(PATIENTS))
    assert not bare.family("truth.")
    others = [name for name in bare.rows.columns if name in source.rows.columns]
    assert bare.rows.equals(source.rows.select(others).head(2))
    assert np.array_equal(bare.dense, source.dense[:2])


def test_a_patient_has_one_fold_and_the_order_does_not_matter():
    names = [f"p{number % 7}" for number in range(20)]
    found = folds_of(names)
    assert found == folds_of(names[::-1]) and set(found) == set(names)
    assert sorted(Counter(found.values()).values()) == [1, 1, 1, 2, 2]
    assert set(folds_of(["a", "b"]).values()) == {0, 1}


def test_a_fold_is_distorted_by_what_was_fitted_without_it(maker, labelled, source, target):
    assert sorted(maker.of_fold) == [-1, 0, 1, 2, 3, 4]
    hashes = {fold: own.dictionary.hash for fold, own in maker.of_fold.items()}
    assert len(set(hashes.values())) == 6
    samples = maker.reader.read(groups_of(read_cohort(labelled, sequences=SEQUENCES).cases)[0])
    first, other = maker.features(samples, int(source.folds[0])), maker.features(samples, None)
    column = "distortion.dictionary_entropy"
    assert first.numbers[column] == source.values([column])[0, 0] != other.numbers[column]
    assert np.array_equal(first.latents, other.latents)
    assert set(target.folds) == {-1}


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(maker, unlabelled, tmp_path):
    cases = read_cohort(unlabelled, sequences=SEQUENCES, with_masks=False).cases
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no scan")
    images = {name: replace(ref, path=broken) for name, ref in cases[0].images.items()}
    table = maker.table([[replace(cases[0], images=images)], [cases[1]]])
    assert list(table.lost) == ["q0"] and "broken.nii.gz" in table.lost["q0"]
    assert table.rows["volume"].to_list() == ["q1"]


def test_components_explain_as_much_as_the_dictionary():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 200, 8, generator=generator) * torch.arange(1.0, 9)
    found = fit_reconstructions(list(tokens), "features", settings=FIT)
    everything = tokens.flatten(0, 1)
    variances = torch.linalg.eigvalsh(torch.cov(everything.T)).flip(0)
    shares = [float(variances[:n].sum() / variances.sum()) for n in range(9)]
    assert found.n_components == next(n for n, share in enumerate(shares) if n and share >= found.explained)
    by_name = {probe.name: probe.reconstruct(everything) for probe in found.probes}
    rest = (by_name["components"] - everything).square().sum() / (everything - everything.mean(0)).square().sum()
    assert 1 - float(rest) == pytest.approx(shares[found.n_components], abs=1e-4)
    assert not torch.equal(by_name["dictionary"], by_name["untrained"])


def test_both_tables_beside_each_other(source, target):
    both = source.beside(target)
    assert len(both) == 16 and both.rows["truth.dice"].null_count() == 6
    assert np.array_equal(both.dense[:10], source.dense) and np.array_equal(both.latents[10:], target.latents)


def test_a_network_without_hookpoints_is_refused(labelled):
    units = groups_of(read_cohort(labelled, sequences=SEQUENCES).cases)
    bare = replace(network(), hookpoints={})
    with pytest.raises(ValueError, match="no hookpoint"):
        TableMaker.fitted(SampleReader(bare), units, folds_of(PATIENTS))
