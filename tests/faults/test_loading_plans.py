"""Results folders of nnU-Net that others made: plans and checkpoints that are hostile, absurd or do not fit."""

import json
import re
from collections import OrderedDict

import pytest
import torch
from tests.nnunet_folder import NAME, changed, network_of, plans, repeated, write_case, write_checkpoint, write_folder

from seglens import cli
from seglens.cohorts.case import Case, ImageRef
from seglens.foreign.json_fields import FieldError
from seglens.foreign.plans import read_plan
from seglens.foreign.tensors import WeightsError
from seglens.segmenters.opened import open_model

ARCHITECTURE = "configurations.3d_small.architecture"


class Evil:
    """Leaves a file where it was asked to, when it is unpickled."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return exec, (f"open({self.place!r}, 'w').close()",)


def with_plans(folder, described):
    (folder / "plans.json").write_text(json.dumps(described))
    return folder


@pytest.mark.parametrize(
    "key",
    [
        f"{ARCHITECTURE}.network_class_name",
        f"{ARCHITECTURE}.arch_kwargs.conv_op",
        f"{ARCHITECTURE}.arch_kwargs.norm_op",
        f"{ARCHITECTURE}.arch_kwargs.nonlin",
        f"{ARCHITECTURE}.arch_kwargs.dropout_op",
        "configurations.3d_small.preprocessor_name",
        "configurations.3d_fullres.resampling_fn_data",
        "configurations.3d_fullres.resampling_fn_probabilities",
        "image_reader_writer",
    ],
)
def test_row_90_plans_that_name_code(tmp_path, monkeypatch, capsys, key):
    """Plans that name os.system in any place are refused by the key, with what is legal; nothing is imported."""
    folder = with_plans(write_folder(tmp_path), changed(plans(), key, "os.system"))
    monkeypatch.setattr("sys.argv", ["seglens", "open", str(folder), "--device", "cpu"])
    monkeypatch.setattr("os.system", lambda *_: pytest.fail("it was run"))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    place = key.replace("3d_fullres", "3d_small")
    assert ended.value.code == cli.REFUSED
    assert f"plans.json: {place} is 'os.system'; legal: " in said


def test_row_90_names_to_be_imported_are_not_looked_at(tmp_path):
    """The list of names to be imported that plans carry means nothing here."""
    folder = with_plans(write_folder(tmp_path), changed(plans(), f"{ARCHITECTURE}._kw_requires_import", ["os.system"]))
    assert open_model(folder).labels[1] == "edema"


@pytest.mark.parametrize("n", [1, 2, 40])
def test_row_90_plans_that_inherit_in_a_circle(tmp_path, n):
    """Configurations that inherit from each other, or through a chain without end, are refused with the way."""
    described = plans()
    for place in range(n):
        described["configurations"][f"c{place}"] = {"inherits_from": f"c{(place + 1) % n}"}
    folder = with_plans(write_folder(tmp_path), described)
    with pytest.raises(FieldError, match=r"configurations\.c0\.inherits_from leads round: c0 -> .*legal: a chain"):
        read_plan(folder, "c0")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("patch_size", [10**9, 10**9, 10**9]),
        ("patch_size", [2048, 2048, 2048]),
        ("patch_size", [0, 12, 12]),
        ("patch_size", [7, 12, 12]),
        ("median_image_size_in_voxels", [1e5, 1e5, 1e5]),
        ("spacing", [1e-300, 1.0, 1.0]),
        ("architecture.arch_kwargs.features_per_stage", [10**12] * 3),
        ("architecture.arch_kwargs.n_conv_per_stage", [10**9] * 3),
        ("architecture.arch_kwargs.kernel_sizes", [[9999, 3, 3]] * 3),
        ("architecture.arch_kwargs.strides", [[10**6] * 3] * 3),
    ],
)
def test_row_90_absurd_sizes(tmp_path, key, value):
    """Absurd patches, medians, spacings, widths, kernels and strides are refused by their key before any allocation."""
    folder = with_plans(write_folder(tmp_path), changed(plans(), f"configurations.3d_small.{key}", value))
    with pytest.raises(FieldError, match=re.escape(f"configurations.3d_small.{key}")):
        read_plan(folder, "3d_small")


def test_row_90_widths_that_are_legal_and_not_the_file_s(tmp_path):
    """Plans of a network of terabytes cost no memory: its sizes are compared with the file's first."""
    wide = changed(plans(), f"{ARCHITECTURE}.arch_kwargs.features_per_stage", [8192] * 3)
    wide = changed(wide, f"{ARCHITECTURE}.arch_kwargs.kernel_sizes", 31)
    folder = with_plans(write_folder(tmp_path), wide)
    with pytest.raises(ValueError, match=r"are not of this network: .* needs \(8192, 2, 31, 31, 31\); .* and 25 more"):
        open_model(folder)


def test_row_90_folder_of_another_version(tmp_path):
    """A folder of nnU-Net version 1, or plans of another format, are refused as such, with what to do."""
    folder = write_folder(tmp_path)
    with_plans(folder, {"plans_per_stage": {}, "base_num_features": 32})
    with pytest.raises(
        FieldError, match="legal: configurations, as nnU-Net v2 writes them; another version of nnU-Net"
    ):
        open_model(folder)
    (folder / "plans.json").unlink()
    (folder / "plans.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(FieldError, match=r"plans\.pkl, of nnU-Net version 1; legal: the plans\.json of version 2"):
        open_model(folder)


def test_row_90_data_of_other_channels(tmp_path):
    """A case with a channel too few, or plans of another number than their own data set, are refused with both."""
    folder = write_folder(tmp_path)
    model = open_model(folder)
    paths = write_case(tmp_path / "images", "a")
    case = Case("a", "a", "a", "toy", {"T1": ImageRef(paths[0])}, None, {})
    with pytest.raises(ValueError, match="it has no FLAIR; add its file"):
        model.read(case)
    described = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(described | {"channel_names": {"0": "T1"}}))
    with pytest.raises(FieldError, match=r"normalization_schemes is a list of 2; legal: 1, one for each channel"):
        open_model(folder)


@pytest.mark.parametrize("place", ["logging", "network_weights", "init_args", "trainer_name"])
def test_row_91_checkpoint_that_runs_code(tmp_path, place):
    """A checkpoint that wants to run code, wherever in it, is refused, and nothing of it has run."""
    folder = write_folder(tmp_path)
    network = network_of(read_plan(folder, "3d_small"), 0)
    evil = Evil(tmp_path / "ran")
    content = {"network_weights": OrderedDict(a=evil)} if place == "network_weights" else {place: [evil]}
    write_checkpoint(folder / "fold_0", network, mirrors=None, **content)
    with pytest.raises(WeightsError, match=r"checkpoint_final\.pth: cannot be read as plain weights .*'\w+\.exec'"):
        open_model(folder)
    assert not (tmp_path / "ran").exists()


def test_row_91_weights_that_do_not_fit(tmp_path):
    """Weights of another network are refused with what is missing, unknown or of another shape, and the trainer."""
    folder = write_folder(tmp_path)
    plan = read_plan(folder, "3d_small")
    own = network_of(plan, 0).state_dict()
    for change, said in (
        ({"encoder.stages.9.0.convs.0.conv.weight": torch.ones(1)}, r"stages\.9\.0\.convs\.0\.conv\.weight is unknown"),
        ({"decoder.stages.0.convs.0.norm.bias": torch.ones(5)}, r"norm\.bias is \(5,\), the network needs \(4,\)"),
        ({"decoder.seg_layers.1.bias": torch.full((3,), torch.nan)}, r"not finite in decoder\.seg_layers\.1\.bias"),
    ):
        write_checkpoint(
            folder / "fold_0", network_of(plan, 0), mirrors=None, network_weights=repeated({**own, **change})
        )
        with pytest.raises(ValueError, match=said):
            open_model(folder)
    del own["encoder.stages.0.0.convs.0.conv.weight"]
    write_checkpoint(folder / "fold_0", network_of(plan, 0), mirrors=None, network_weights=own)
    with pytest.raises(ValueError, match=r"\(trainer nnUNetTrainer\): these weights .*conv\.weight is missing"):
        open_model(folder)


def test_row_91_two_names_of_one_tensor_that_differ(tmp_path):
    """Two names that nnU-Net has for one tensor, with different values, are refused with both."""
    folder = write_folder(tmp_path)
    plan = read_plan(folder, "3d_small")
    many = repeated(network_of(plan, 0).state_dict())
    name = "decoder.encoder.stages.1.0.convs.0.norm.weight"
    many[name] = many[name] + 1
    write_checkpoint(folder / "fold_0", network_of(plan, 0), mirrors=None, network_weights=many)
    with pytest.raises(WeightsError, match=rf"{re.escape(name)} are two names of one tensor"):
        open_model(folder)


def test_row_91_metadata_that_is_no_metadata(tmp_path):
    """A configuration, or mirrors, that a checkpoint names and that are none are refused by their key."""
    folder = write_folder(tmp_path)
    network = network_of(read_plan(folder, "3d_small"), 0)
    for content, said in (
        ({"init_args": {"configuration": 3}}, r"init_args\.configuration in its checkpoint is int; legal: a text"),
        ({"init_args": {"configuration": "../../x"}}, r"there is no configuration '\.\./\.\./x'; legal: 3d_fullres"),
        ({"inference_allowed_mirroring_axes": (7,)}, r"inference_allowed_mirroring_axes in its checkpoint is \(7,\)"),
    ):
        write_checkpoint(folder / "fold_0", network, mirrors=None, **content)
        with pytest.raises(ValueError, match=said):
            open_model(folder)
    assert folder.name == NAME
