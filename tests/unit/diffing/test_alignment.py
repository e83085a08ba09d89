import pytest
import torch

from seglens.artifacts import new_artifact, read_artifact
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.alignment import Alignment, calibrated_share
from seglens.diffing.sharing import align


@pytest.fixture
def alignment():
    alive = torch.ones(9, dtype=torch.bool)
    alive[0] = False
    source, target = SparseAutoencoder(4, 9, k=1), SparseAutoencoder(4, 6, k=1, seed=1)
    target.W_dec.data[:3] = source.W_dec.data[3:6]
    target.W_enc.data = target.W_dec.data.T.clone()
    return align(source, target, alive_source=alive, source_name="adult", target_name="pediatric")


@pytest.mark.parametrize(
    ("raw", "floor", "ceiling", "expected"),
    [
        (0.54, 0.14, 0.79, (0.54 - 0.14) / 0.65),
        (0.79, 0.14, 0.79, 1.0),
        (0.1, 0.14, 0.79, -0.04 / 0.65),
        (0.9, 0.96, 0.96, None),
        (0.9, 0.9, 0.5, None),
        (0.5, None, 0.9, None),
        (0.5, 0.1, None, None),
    ],
)
def test_calibrated_share(raw, floor, ceiling, expected):
    got = calibrated_share(raw, floor, ceiling)
    assert got is None if expected is None else got == pytest.approx(expected)


def test_figures_are_filled_in_on_a_copy(alignment):
    bounded = alignment.with_figures(floor=0.1, ceiling=0.9, functional=0.4)
    assert alignment.calibrated is None and alignment.floor is None
    assert bounded.calibrated == pytest.approx((bounded.shared_share - 0.1) / 0.8)
    with pytest.raises(ValueError, match=r"unknown figures flor; .*floor"):
        alignment.with_figures(flor=0.1)
    noted = alignment.with_notes({"same_sae_seed": True}).with_notes({"same_segmenter_start": False})
    assert noted.notes == {"same_sae_seed": True, "same_segmenter_start": False}


def test_written_and_read_it_is_the_same(alignment, tmp_path):
    whole = alignment.with_figures(floor=0.25, function=-0.1).with_notes({"same_sae_seed": False, "comment": "ä"})
    with new_artifact(tmp_path / "a", kind="alignment", inputs={}) as draft:
        whole.write(draft)
    back = Alignment.read(read_artifact(tmp_path / "a", "alignment"))
    assert back.pairs.equals(whole.pairs)
    assert {k: v for k, v in vars(back).items() if k != "pairs"} == {
        k: v for k, v in vars(whole).items() if k != "pairs"
    }
    assert (
        len(back.unmatched_source) == 2 and back.dead_source == 1 and back.shared.height == alignment.shared.height > 0
    )


def test_it_shows_its_figures(alignment):
    page = alignment.with_figures(floor=0.25)._repr_html_()
    assert "Alignment of adult and pediatric by hungarian_dual, tau 0.8" in page
    assert "<td>&quot;floor&quot;</td><td>0.25</td>" in page and "<td>&quot;ceiling&quot;</td><td>null</td>" in page
