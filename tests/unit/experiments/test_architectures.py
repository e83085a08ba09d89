import polars as pl
import pytest

from seglens.experiments import architectures
from seglens.studies.demo import demo_settings


def test_architectures_need_two_on_one_cohort():
    assert architectures.comparable(demo_settings().segmenters) == ["adult", "adult-unet"]
    one = {name: own for name, own in demo_settings().segmenters.items() if name != "adult-unet"}
    assert architectures.comparable(one) == []


@pytest.mark.parametrize(
    ("grids", "middle"),
    [
        ({"stage1": 1024, "stage2": 256, "stage3": 64, "stage4": 16}, "stage3"),
        ({"encoder0": 4096, "encoder1": 1024, "encoder2": 256, "encoder3": 64, "encoder4": 16, "decoder4": 64,
          "decoder3": 256, "decoder2": 1024, "decoder1": 4096}, "encoder2"),
        ({"only": 4}, "only"),
    ],
)  # fmt: skip
def test_networks_are_opened_in_the_middle_of_their_encoders(grids, middle):
    """Not at the first layer of a U-Net, which alone its skip connections leave an effect."""
    assert architectures.middle_stage(list(grids), grids) == middle


def test_a_tumour_share_stands_beside_that_of_random_weights():
    rows = [
        ("adult", "adult", "segformer-b0", weights, category, share)
        for weights, shares in (("trained", (0.3, 0.7)), ("untrained", (0.35, 0.65)))
        for category, share in zip(("foreground", "background"), shares, strict=True)
    ]
    columns = ("cohort", "segmenter", "architecture", "weights", "category", "share of activation mass")
    table = pl.DataFrame(rows, schema=columns, orient="row")
    assert architectures.headlines(table) == {
        "tumour share, adult (segformer-b0)": 0.3,
        "tumour share, adult (segformer-b0), untrained": 0.35,
    }
    (words,) = architectures.floor_words(table)
    assert "30.0% of the activation lies in tumour latents, 35.0% in one draw of random weights." in words
