import numpy as np
import pytest
import torch
from tests.nnunet_folder import NAME, REGIONS, changed, network_of, plans, repeated, write_checkpoint, write_folder

from seglens.foreign.plans import read_plan
from seglens.foreign.tensors import WeightsError
from seglens.segmenters.nnunet import codes_of, each_once, labels_of, open_folder, results_folders


def test_a_folder_is_opened_as_it_is(tmp_path):
    folder = write_folder(tmp_path, folds=("0", "2", "10", "all"))
    opened = open_folder(folder)
    assert (list(opened.folds), opened.trainer, opened.mirror_axes) == (["0", "2", "10"], "nnUNetTrainer", (0, 1, 2))
    assert opened.plan.configuration == "3d_small"
    own = network_of(opened.plan, 1).state_dict()
    found = opened.folds["2"].network.state_dict()
    assert list(found) == list(own) and all(torch.equal(found[name], own[name]) for name in own)
    assert not opened.folds["0"].network.training
    assert list(open_folder(folder, ["all"]).folds) == ["all"]


def test_a_data_set_s_folder_with_one_configuration(tmp_path):
    folder = write_folder(tmp_path)
    assert results_folders(folder.parent) == results_folders(folder) == [folder]
    assert open_folder(folder.parent).folder == folder
    folder.rename(folder.with_name("a__b__3d_small"))
    write_folder(tmp_path / "other").rename(folder)
    with pytest.raises(ValueError, match=f"holds a__b__3d_small, {NAME}; give the path of one"):
        open_folder(folder.parent)
    with pytest.raises(ValueError, match="is not a folder; give nnU-Net's results folder"):
        open_folder(tmp_path / "nowhere")


def test_folds_that_are_not_there(tmp_path):
    folder = write_folder(tmp_path)
    with pytest.raises(ValueError, match=r"fold 3 has no checkpoint_final\.pth; there are folds 0: name one"):
        open_folder(folder, ["3"])
    with pytest.raises(ValueError, match=r"fold 0 has no checkpoint_best\.pth; there are no fold"):
        open_folder(folder, checkpoint="checkpoint_best.pth")


def test_folds_that_do_not_belong_together(tmp_path):
    folder = write_folder(tmp_path, folds=("0", "1"))
    plan = read_plan(folder, "3d_small")
    write_checkpoint(folder / "fold_1", network_of(plan, 1), mirrors=None, trainer_name="nnUNetTrainerBN")
    with pytest.raises(ValueError, match=r"of several configurations or trainers .* open one fold"):
        open_folder(folder)


def test_weights_of_another_network_name_the_trainer(tmp_path):
    folder = write_folder(tmp_path)
    plan = read_plan(folder, "3d_small")
    write_checkpoint(folder / "fold_0", torch.nn.Linear(2, 2), mirrors=None, trainer_name="nnUNetTrainer_Primus_M")
    with pytest.raises(
        ValueError, match=r"\(trainer nnUNetTrainer_Primus_M\): these weights are not of this network: "
    ):
        open_folder(folder)
    other = network_of(plan, 0).state_dict()
    other["decoder.seg_layers.1.weight"] = torch.zeros(7, 4, 1, 1, 1)
    assert repeated(other)["decoder.seg_layers.1.weight"].shape[0] == 7


@pytest.mark.parametrize("axes", [(3,), (0, 0), "all", (0.5,)])
def test_mirrors_that_are_no_axes(tmp_path, axes):
    folder = write_folder(tmp_path, mirrors=axes)
    with pytest.raises(ValueError, match="inference_allowed_mirroring_axes in its checkpoint is"):
        open_folder(folder)


def test_files_of_old_versions_have_no_mirrors(tmp_path):
    assert open_folder(write_folder(tmp_path, mirrors=None)).mirror_axes == ()


def test_repeated_names_are_one_tensor(tmp_path):
    plan = read_plan(write_folder(tmp_path), "3d_small")
    weights = network_of(plan, 0).state_dict()
    many = repeated(weights)
    assert len(many) > 2 * len(weights)
    found = each_once(many, plan.network, "here")
    assert set(found) == set(weights)
    wrapped = each_once(
        {f"module._orig_mod.{name}": value.half() for name, value in weights.items()}, plan.network, "a"
    )
    assert set(wrapped) == set(weights) and all(value.dtype == torch.float32 for value in wrapped.values())
    many["decoder.encoder.stages.0.0.convs.0.conv.weight"] = torch.zeros(4, 2, 1, 3, 3)
    with pytest.raises(WeightsError, match=r"here: encoder\.\S+ and decoder\.encoder\.\S+ are two names of one"):
        each_once(many, plan.network, "here")


def test_labels_have_names_that_tables_can_show(tmp_path):
    plan = read_plan(write_folder(tmp_path, labels={"background": 0, "foreground": 1, "b": 2}), "3d_small")
    assert labels_of(plan) == {0: "background", 1: "foreground_1", 2: "b"}
    assert codes_of(plan) == {0: 0, 1: 1, 2: 2}
    plan = read_plan(write_folder(tmp_path / "regions", labels=REGIONS), "3d_small")
    assert (labels_of(plan), codes_of(plan)) == ({0: "background", 1: "whole", 2: "core"}, {0: 0, 1: 1, 2: 2})


def test_dropout_counts_in_the_numbers_of_names(tmp_path):
    described = changed(
        plans(), "configurations.3d_small.architecture.arch_kwargs.dropout_op", "torch.nn.modules.dropout.Dropout3d"
    )
    plan = read_plan(write_folder(tmp_path, described=described), "3d_small")
    weights = network_of(plan, 0).state_dict()
    many = {name.replace(".norm.", ".all_modules.2."): value for name, value in weights.items()}
    assert set(each_once(many, plan.network, "here")) == set(weights)
    assert np.prod(plan.patch) == 8 * 12 * 12


def test_dropout_of_a_residual_block_is_in_its_first_convolution_only(tmp_path):
    described = changed(
        plans(kind="residual"), "configurations.3d_small.architecture.arch_kwargs.dropout_op", "torch.nn.Dropout3d"
    )
    plan = read_plan(write_folder(tmp_path, described=described), "3d_small")
    weights = network_of(plan, 0).state_dict()
    many = {}
    for name, value in weights.items():
        number = 1 if ".conv2." in name or ".skip." in name else 2
        many[name.replace(".conv.", ".all_modules.0.").replace(".norm.", f".all_modules.{number}.")] = value
    assert sum(".skip.1.all_modules.1." in name for name in many) == 2
    assert set(each_once(many, plan.network, "here")) == set(weights)


def test_a_checkpoint_without_its_last_head_says_so(tmp_path):
    folder = write_folder(tmp_path)
    plan = read_plan(folder, "3d_small")
    own = network_of(plan, 0).state_dict()
    for name in ("weight", "bias"):
        del own[f"decoder.seg_layers.1.{name}"]
    write_checkpoint(folder / "fold_0", network_of(plan, 0), mirrors=None, network_weights=own)
    with pytest.raises(ValueError, match=r"decoder\.seg_layers\.1\.\w+ is missing"):
        open_folder(folder)


@pytest.mark.parametrize(("name", "said"), [("x" * 201, "a text of 201 characters"), (["a"], "list"), (7, "int")])
def test_trainers_that_are_no_names(tmp_path, name, said):
    folder = write_folder(tmp_path)
    plan = read_plan(folder, "3d_small")
    write_checkpoint(folder / "fold_0", network_of(plan, 0), mirrors=None, trainer_name=name)
    with pytest.raises(ValueError, match=f"trainer_name in its checkpoint is {said}; legal: a text of at most 200"):
        open_folder(folder)


def test_names_of_trainers_are_printed_with_escapes(tmp_path):
    folder = write_folder(tmp_path)
    write_checkpoint(folder / "fold_0", torch.nn.Linear(2, 2), mirrors=None, trainer_name="a\x1b[2J\nb")
    with pytest.raises(ValueError, match=r"\(trainer a\\x1b\[2J\\nb\)"):
        open_folder(folder)
