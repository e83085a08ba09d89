from pathlib import Path

import numpy as np
import pytest
from cyclopts.exceptions import CycloptsError
from PIL import Image

from seglens.cli import app
from seglens.verbs.data import FileOptions, pairs


@pytest.mark.parametrize("text", ["a", "a=1,b"])
def test_pairs_must_be_pairs(text):
    with pytest.raises(ValueError, match="name=value"):
        pairs(text)


def test_a_pair_stands_there_once_and_numbers_are_numbers(tmp_path):
    with pytest.raises(ValueError, match="0 stands there twice"):
        pairs("0=a,0=b")
    with pytest.raises(CycloptsError, match="'tumour' is no whole number; give --labels as 0=background"):
        app(["check", str(tmp_path), "--labels", "tumour=1"], exit_on_error=False, print_error=False)


def test_every_option_of_a_source_is_one_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (9, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"i{number}.png")
        Image.fromarray(pixels[..., 0]).save(tmp_path / f"m{number}.png")
    command = ["check", str(tmp_path), "--images", "i{number}.png", "--masks", "m{number}.png", "--patient", "[01]"]
    command += ["--labels", "0=background,1=polyp", "--mask-threshold", "128", "--channels", "green=1"]
    done = app(command, exit_on_error=False, print_error=False, result_action="return_value")
    assert (done, "2 cases" in capsys.readouterr().out) == (0, True)
    _, bound, _ = app.parse_args(command, exit_on_error=False, print_error=False)
    assert bound.arguments["files"] == FileOptions(
        images="i{number}.png",
        masks="m{number}.png",
        patient="[01]",
        labels={0: "background", 1: "polyp"},
        mask_threshold=128.0,
        channels={"green": 1},
    )
