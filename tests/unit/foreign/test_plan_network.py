import json

import pytest
from tests.nnunet_folder import changed, dataset, network_plan, plans

from seglens.foreign.json_fields import FieldError
from seglens.foreign.plans import read_plan

SETTINGS = "configurations.3d_small.architecture.arch_kwargs"
OLD = {
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 4,
    "unet_max_num_features": 6,
    "n_conv_per_stage_encoder": [2, 1, 1],
    "n_conv_per_stage_decoder": [1, 2],
    "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
}


def read(folder, described):
    (folder / "plans.json").write_text(json.dumps(described))
    (folder / "dataset.json").write_text(json.dumps(dataset()))
    return read_plan(folder, "3d_small").network


def test_the_present_format(tmp_path):
    network = read(tmp_path, plans())
    assert (network.kind, network.spatial_dims, network.features) == ("plain", 3, (4, 4, 6))
    assert network.kernels == ((1, 3, 3), (3, 3, 3), (3, 3, 3))
    assert network.strides == ((1, 1, 1), (1, 2, 2), (2, 2, 2))
    assert (network.n_blocks, network.n_decoder, network.shrinks) == ((2, 1, 1), (1, 2), (2, 4, 4))
    assert (network.norm, network.norm_settings) == ("instance", {"eps": 1e-5, "affine": True})
    assert (network.activation, network.activation_settings) == ("leaky_relu", {"inplace": True})
    assert read(tmp_path, plans(kind="residual")).kind == "residual"
    assert read(tmp_path, plans(kind="residual", n_axes=2)).spatial_dims == 2


def test_the_old_format_is_the_same_network(tmp_path):
    old = plans()
    own = old["configurations"]["3d_small"]
    del own["architecture"]
    own |= OLD
    present = changed(plans(), f"{SETTINGS}.features_per_stage", [4, 6, 6])
    assert read(tmp_path, old) == read(tmp_path, present)
    with pytest.raises(FieldError, match=r"3d_small\.UNet_class_name is 'MyUNet'; legal: PlainConvUNet, ResidualEnc"):
        read(tmp_path, changed(old, "configurations.3d_small.UNet_class_name", "MyUNet"))
    del own["UNet_class_name"]
    with pytest.raises(FieldError, match="legal: an object with architecture, or UNet_class_name in plans"):
        read(tmp_path, old)


def test_one_number_stands_for_all_stages_and_axes(tmp_path):
    described = changed(plans(), f"{SETTINGS}.kernel_sizes", 3)
    described = changed(described, f"{SETTINGS}.features_per_stage", 8)
    described = changed(described, f"{SETTINGS}.strides", [1, 2, 2])
    network = read(tmp_path, described)
    assert (network.features, network.kernels) == ((8, 8, 8), ((3, 3, 3),) * 3)
    assert network.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("architecture.network_class_name", "os.system", r"network_class_name is 'os\.system'; legal: dynamic_network"),
        ("architecture.arch_kwargs.conv_op", "os.system", r"arch_kwargs\.conv_op is 'os\.system'; legal: torch\.nn"),
        ("architecture.arch_kwargs.conv_op", "torch.nn.Conv2d", "legal: Conv3d, for patch_size has 3 axes"),
        ("architecture.arch_kwargs.norm_op", "torch.nn.InstanceNorm2d", "legal: a norm of 3 axes"),
        ("architecture.arch_kwargs.nonlin", "subprocess.run", r"nonlin is 'subprocess\.run'; legal: .*Segmenter\.wrap"),
        ("architecture.arch_kwargs.nonlin_kwargs", {"args": "rm"}, r"nonlin_kwargs\.args is 'rm'; legal: no such"),
        ("architecture.arch_kwargs.block", "my.Block", "legal: None or dynamic_network_architectures"),
        ("architecture.arch_kwargs.nonlin_first", True, "nonlin_first is True; legal: False"),
        ("architecture.arch_kwargs.device", "cuda", "device is 'cuda'; legal: no such setting"),
        ("architecture.arch_kwargs.n_stages", 10**9, "n_stages is 1000000000; legal: a whole number from 2 to 16"),
        ("architecture.arch_kwargs.features_per_stage", [4, 4], "is a list of 2; legal: a list of 3 values"),
        ("architecture.arch_kwargs.features_per_stage", [4, 4, 10**9], r"features_per_stage\.2 is 1000000000"),
        ("architecture.arch_kwargs.kernel_sizes", [2, 3, 3], "legal: odd sizes"),
        ("architecture.arch_kwargs.strides", [[1, 1, 1], [0, 1, 1], [1, 1, 1]], r"strides\.1\.0 is 0; legal"),
        (
            "architecture.arch_kwargs.strides",
            [[2, 2, 2], [1, 1, 1], [1, 1, 1]],
            r"strides\.0 is a list of 3; legal: 1 al",
        ),
        ("architecture.arch_kwargs.strides", 2, r"strides is 2; legal: 1 along each axis"),
        ("architecture.arch_kwargs.conv_bias", "yes", "conv_bias is 'yes'; legal: true or false"),
    ],
)
def test_what_is_not_in_the_tables_is_refused_by_its_key(tmp_path, key, value, said):
    with pytest.raises(FieldError, match=said):
        read(tmp_path, changed(plans(), f"configurations.3d_small.{key}", value))


def test_settings_without_meaning_for_a_trained_network_are_passed_over(tmp_path):
    own = network_plan()
    own["arch_kwargs"] |= {"deep_supervision": True, "squeeze_excitation": False, "stochastic_depth_p": 0.0}
    described = changed(plans(), "configurations.3d_small.architecture", own)
    assert read(tmp_path, described) == read(tmp_path, plans())
    own["arch_kwargs"]["dropout_op"] = "torch.nn.Dropout3d"
    assert read(tmp_path, described).dropout
