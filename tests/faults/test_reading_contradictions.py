"""Tables, names and settings that contradict themselves: refused with both places, never decided in silence."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.faults.scans import codes, head, write_cohort, write_nifti
from tests.faults.test_loading_settings import STUDY

from seglens.cohorts.case import Case, Cohort
from seglens.cohorts.checks import check_cohort
from seglens.cohorts.expressions import MAX_SECONDS
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.source_options import SourceOptions
from seglens.foreign import json_text
from seglens.foreign.plain_numbers import whole_number
from seglens.runs import Stage
from seglens.segmenters.scoring import pooled_dice
from seglens.steering.edit_files import read_edits
from seglens.studies.settings import SettingsError, StudySettings

BLIND = torch.tensor([[[50, 50, 50], [10, 10, 10], [0, 0, 10]]])
"""Counts of a network that is perfect on label 1 and blind to label 2."""


@pytest.fixture
def nnunet(tmp_path: Path):
    """Write a data set of small volumes in nnU-Net's layout, its tables as text or as values."""

    def write(n: int = 3, *, test: int = 0, splits: Any = None, **changes: Any) -> Path:
        image, mask = head(shape=(4, 5, 3), enhancing=1)
        for number in range(n + test):
            part, case = ("Tr", f"c{number}") if number < n else ("Ts", f"t{number - n}")
            write_nifti(tmp_path / f"images{part}" / f"{case}_0000.nii.gz", image + number)
            write_nifti(tmp_path / f"labels{part}" / f"{case}.nii.gz", mask)
        table = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "a": 1, "b": 2}, **changes}
        (tmp_path / "dataset.json").write_text(json.dumps(table))
        if splits is not None:
            (tmp_path / "splits_final.json").write_text(json.dumps(splits))
        return tmp_path

    return write


def pictures(root: Path, *names: str) -> Path:
    """Small pictures that all differ."""
    for number, name in enumerate(names):
        path = root / "im" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(path)
    return root


def cohort_with(labels: Mapping[int, str]) -> Cohort:
    """A cohort without cases."""
    return Cohort("c", (), ("T1",), labels, {})


def test_row_62_every_class_keeps_its_own_dice() -> None:
    """Figures of a class are never overwritten by another's: labels of one name, or called foreground, are refused."""
    assert pooled_dice(BLIND, {0: "bg", 1: "alpha", 2: "beta"}) == {"alpha": 1.0, "beta": 0.0, "foreground": 0.5}
    for labels in ({0: "bg", 1: "foreground", 2: "beta"}, {0: "bg", 1: "lesion", 2: "lesion"}):
        with pytest.raises(ValueError, match=r"stands for the mean over all classes|the labels 1 and 2 have one name"):
            pooled_dice(BLIND, labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({0: "bg", 1: "x", 2: "x"}, "the labels 1 and 2 have one name"),
        ({0: "bg", 1: "caf\u00e9", 2: "cafe\u0301"}, "the labels 1 and 2 have one name"),
        ({0: "bg", 1: "x", 2: "x\u200b "}, "the labels 1 and 2 have one name"),
        ({0: "x", 1: "x"}, "the labels 0 and 1 have one name"),
        ({0: "bg", 1: "foreground"}, "stands for the mean over all classes"),
        ({0: "bg", 1: "Fore ground"}, "stands for the mean over all classes"),
        ({0: "foreground", 1: "x"}, "stands for the mean over all classes"),
        ({0: "bg", 1: "Background"}, "which is the name of 0"),
        ({0: "bg", 1: " "}, "give it one of letters and digits"),
        ({0: "bg", 1: "x" * 300}, "has more than 120 bytes"),
    ],
)
def test_row_62_names_that_cannot_be_told_apart(labels: Mapping[int, str], message: str) -> None:
    """Class names are told apart in whatever Unicode form; foreground is nobody's, background that of 0."""
    with pytest.raises(ValueError, match=message):
        cohort_with(labels)


def test_row_62_labels_by_value_or_in_a_table_of_names(nnunet, tmp_path: Path) -> None:
    """Two values of one name in dataset.json or dseg.tsv are refused, not merged."""
    with pytest.raises(ValueError, match="calls the values 1 and 2 'x'; name each once"):
        read_cohort(nnunet(labels={"0": "bg", "1": "x", "2": "x"}))
    root = tmp_path / "bids"
    write_nifti(root / "sub-1/anat/sub-1_T1w.nii.gz", head()[0])
    for text, message in (
        ("index\tname\n0\tbg\n1\tx\n2\tx\n", "calls the values 1 and 2 'x'; name each once"),
        ("index\tname\tname\n0\tbg\tbg\n1\tx\ty\n", "is no table with one column index and one name"),
        ("index\tname\n0\tbg\n1.0\tx\n", "is no table with one column index and one name"),
        ("index\tname\n" + "0\tbg\n" * 4_000_000, "is no table with one column index and one name"),
    ):
        (root / "dseg.tsv").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_cohort(root)


@pytest.mark.parametrize("name", ["dataset.json", "splits_final.json"])
def test_row_63_a_key_given_twice_in_a_table(nnunet, name: str) -> None:
    """A key that stands twice in dataset.json or splits_final.json is refused with both lines."""
    root = nnunet(splits=[{"train": ["c0", "c1"], "val": ["c2"]}])
    path = root / name
    content = path.read_text()
    path.write_text(
        content.replace('"labels": {', '"labels": {"b": 1,\n').replace('"val": [', '"train": [],\n"val": [')
    )
    with pytest.raises(ValueError, match=r"stands there twice, in the lines 1 and [12]; keep one") as caught:
        read_cohort(root)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": [{"x": 1,\n"y": 2,\n"x": 3}]}', "'x' stands there twice, in the lines 1 and 3"),
        ('{"a\\u0062": 1, "ab": 2}', "'ab' stands there twice, in the lines 1 and 1"),
        ('{"a": "}{\\"a\\": 1", "b": ["a", "a"], "a": 2}', "'a' stands there twice"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": 1e999}', "beyond a float's range"),
        ('{"a": ' + "1" * 5000 + "}", "digits"),
        ("{" + ",".join(f'"{n}": 0' for n in range(100_000)) + ',"99999": 1}', "'99999' stands there twice"),
        ("[" * 100_000, "more levels than anybody writes"),
        ("{", "Expecting"),
    ],
)
def test_row_63_json_that_contradicts_itself(text: str, message: str) -> None:
    """JSON of others holds every key once, however it is escaped, and numbers only."""
    with pytest.raises(json_text.JsonError, match=message):
        json_text.parse_json(text)


def test_row_63_an_edit_with_two_strengths(tmp_path: Path) -> None:
    """A file of edits that gives one setting twice is refused, never steered by the last."""
    path = tmp_path / "edits.json"
    path.write_text('{"latents": [1],\n"alpha": 2,\n"alpha": 0}')
    with pytest.raises(ValueError, match="'alpha' stands there twice, in the lines 2 and 3"):
        read_edits(path)


@pytest.mark.parametrize(
    ("fold", "message"),
    [
        ({"train": ["c0", "t0"], "val": ["c1"]}, r"t0 \(imagesTs and train of fold 0\)"),
        ({"train": ["c0", "c1"], "val": ["c1"]}, r"c1 \(train of fold 0 and val of fold 0\)"),
        ({"train": ["c0", "c0"], "val": ["c1"]}, r"c0 \(train of fold 0 and train of fold 0\)"),
        ({"train": [], "val": ["c0"]}, "train of fold 0 is empty"),
        ({"train": "c0", "val": ["c1"]}, "no fold 0 with case ids"),
        ({"train": [0], "val": ["c1"]}, "no fold 0 with case ids"),
    ],
)
def test_row_63_splits_that_contradict_themselves(nnunet, fold: dict[str, Any], message: str) -> None:
    """A case in train and val, a test case in train, or an empty train is refused with both places."""
    with pytest.raises(ValueError, match=message):
        read_cohort(nnunet(test=1, splits=[fold]))


def test_row_63_a_list_that_names_a_file_twice(tmp_path: Path) -> None:
    """The decathlon's table may list no image for training and test, and no mask for two images."""
    for name in ("a", "b"):
        write_nifti(tmp_path / f"imagesTr/{name}.nii.gz", np.stack([head()[0]] * 2, -1))
    pairs = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in ("a", "b")]
    table: dict[str, Any] = {"modality": {"0": "T1", "1": "T2"}, "labels": {"0": "bg", "1": "x"}, "training": pairs}
    for changes in (
        {"test": ["./imagesTr/b.nii.gz"]},
        {"training": [pairs[0], {**pairs[1], "label": pairs[0]["label"]}]},
    ):
        (tmp_path / "dataset.json").write_text(json.dumps(table | changes))
        with pytest.raises(
            ValueError, match=r"lists files twice: .* \(entries training [12] and (test 1|training 2)\)"
        ):
            read_cohort(tmp_path)


@pytest.mark.parametrize(
    ("first", "second"),
    [("P1", "p1"), ("Jos\u00e9", "Jose\u0301"), ("A", "A "), ("A 1", "A  1"), ("A1", "A\u200b1"), ("\uff21", "a")],
)
def test_row_64_one_patient_by_two_spellings(tmp_path: Path, first: str, second: str) -> None:
    """Patients that differ only by capitals, Unicode form or blanks are refused: they could be one in two splits."""
    pictures(tmp_path, f"{first}/x1_1.png", f"{second}/y2_2.png")
    with pytest.raises(ValueError, match=r"the patients .* and .* differ only by capitals, Unicode form or blanks"):
        read_cohort(tmp_path, SourceOptions(images="im/{patient}/{name}_{slice}.png"), sequences=["T1"])


def test_row_64_timepoints_of_one_patient_by_two_spellings(tmp_path: Path) -> None:
    """So are a patient's timepoints whose ids are spelt in two ways."""
    write_cohort(tmp_path, ["BraTS-GLI-00001-000", "brats-gli-00001-001"], style="new", n_sequences=1)
    with pytest.raises(ValueError, match="the patients BraTS-GLI-00001 and brats-gli-00001 differ only by capitals"):
        read_cohort(tmp_path)


def test_row_65_fields_that_join_to_one_id(tmp_path: Path) -> None:
    """Fields of two paths that join to one id are refused with both files, never made one case of two patients."""
    pictures(tmp_path, "a/1-b_T1.png", "a-1/b_FLAIR.png")
    with pytest.raises(ValueError, match=r"a/1-b_T1\.png .* and .*a-1/b_FLAIR\.png .* would both be the case a-1-b"):
        read_cohort(tmp_path, SourceOptions(images="im/{patient}/{name}_{sequence}.png"))


def test_row_65_one_slice_by_two_numbers(tmp_path: Path) -> None:
    """Slice 1 and slice 01 of one patient are one place and two files: refused."""
    pictures(tmp_path, "p-1.png", "p-01.png")
    with pytest.raises(ValueError, match=r"p-01\.png and .*p-1\.png are one slice of one volume, 1"):
        read_cohort(tmp_path, SourceOptions(images="im/{patient}-{slice}.png"), sequences=["T1"])


SOURCE = "sequences: [T1]\ncohorts: {{c: {{sources: [{{path: x, {}}}]}}}}\nsegmenters: {{s: {{cohort: c}}}}\n"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ('mask_values: {0: 0, 1: 1, "1": 2}', "'1' stands there twice, first in line 2"),
        ('labels: {1: a, "1": b}', "'1' stands there twice, first in line 2"),
        ("labels: {1: a, 1.0: b}", "stands there twice, first in line 2"),
        ("mask_values: {1: 1, true: 2}", "stands there twice, first in line 2"),
        ("mask_values: {255: true}", "Input should be a valid integer"),
        ('mask_values: {255: "1"}', "Input should be a valid integer"),
        ("mask_values: {255: 1.0}", "Input should be a valid integer"),
        ("mask_values: {true: 1}", "the key True is no whole number"),
        ("mask_values: {1.5: 1}", "the key 1.5 is no whole number"),
        ("mask_values: {010: 1}", "'010' is no whole number"),
        ("mask_values: {<<: {1: 1}, '1': 2}", "1 stands there twice, for"),
        ("channels: {T1: true}", "Input should be a valid integer"),
        ("resample: 1", "Input should be a valid boolean"),
        ("resample: yes", "Input should be a valid boolean"),
        ("inverted: 'true'", "Input should be a valid boolean"),
        ("max_gib: true", "Input should be a valid number"),
        ("mask_threshold: 1:30", "Input should be a valid number"),
    ],
)
def test_row_66_settings_that_are_no_numbers(tmp_path: Path, option: str, message: str) -> None:
    """A truth, a quoted text or 1.0 is no whole number; keys that are one number are given once."""
    path = tmp_path / "study.yaml"
    path.write_text(SOURCE.format(option))
    with pytest.raises(SettingsError, match="line 2: ") as caught:
        StudySettings.read(path)
    assert message in str(caught.value)


@pytest.mark.parametrize("steps", ["010", "1:30", "1_000", "0x10", "0b11", "1e3", "+-5", "5."])
def test_row_66_numbers_of_yaml_1_2_only(tmp_path: Path, steps: str) -> None:
    """010, 1:30 and 1_000 mean different things to different readers of YAML: they are no whole numbers."""
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("steps: 5", f"steps: {steps}"))
    with pytest.raises(SettingsError, match=r"line 8: segmenters\.adult\.steps: Input should be a valid integer"):
        StudySettings.read(path)
    path.write_text(STUDY + "    learning_rate: 1e-4\n")
    assert StudySettings.read(path).segmenters["adult"].learning_rate == 1e-4


def test_row_66_options_in_python() -> None:
    """The same holds where options are given in Python."""
    for options in ({"labels": {True: "a"}}, {"mask_values": {1: True}}, {"channels": {"T1": True}}):
        with pytest.raises(ValueError, match="is no whole number"):
            SourceOptions(**options)


@pytest.mark.parametrize("text", ["1.5", "1.0", "0x10", "1_0", "010", " 1", "", "\u00b2", "\u0661", "1e3"])
def test_row_66_whole_numbers_are_decimal_digits(text: str) -> None:
    """Options of the command that are whole numbers take decimal digits, nothing that would be rounded or guessed."""
    with pytest.raises(ValueError, match="is no whole number; write it in decimal digits"):
        whole_number(text)


def test_row_66_numbers_beyond_64_bits(tmp_path: Path) -> None:
    """A number that no machine word holds is refused with what is legal, in an option and in a study."""
    with pytest.raises(ValueError, match="has more than 18 digits; give a smaller number"):
        whole_number("9" * 30)
    path = tmp_path / "study.yaml"
    path.write_text(STUDY + f"seed: {2**64}\n")
    with pytest.raises(SettingsError, match="seed: Input should be less than 9223372036854775808"):
        StudySettings.read(path)
    path.write_text(STUDY.replace("steps: 5", f"steps: {10**30}"))
    with pytest.raises(SettingsError, match="steps: Input should be less than 2147483648"):
        StudySettings.read(path)


def test_row_66_every_whole_number_of_the_command_is_one() -> None:
    """No verb has an option for whole numbers that would round 1.5."""
    from seglens.cli import add_analyses, app

    add_analyses()
    options = [
        (verb, argument)
        for verb in app
        if not verb.startswith("-")
        for argument in app[verb].assemble_argument_collection()
        if argument.hint in (int, float) or str(argument.hint) in ("int | None", "float | None")
    ]
    assert len(options) > 15
    assert [f"{verb} {argument.name}" for verb, argument in options if argument.parameter.converter is None] == []


def test_row_66_a_slice_of_very_many_digits(tmp_path: Path) -> None:
    """A slice's number that no table holds is refused with the file, before anything is read."""
    pictures(tmp_path, "p-1.png", f"p-{'9' * 30}.png")
    with pytest.raises(ValueError, match=r"9\.png: a slice's number has at most 9 digits"):
        read_cohort(tmp_path, SourceOptions(images="im/{patient}-{slice}.png"), sequences=["T1"])


def test_row_67_an_image_in_place_of_a_mask(tmp_path: Path) -> None:
    """Values in a mask that no label has are quarantined, of whatever size."""
    root = write_cohort(tmp_path, ["a", "b"])
    for case, value in (("a", 1e30), ("b", -(2.0**40))):
        write_nifti(root / f"{case}/{case}_seg.nii.gz", np.where(head()[1] == 2, np.float32(value), np.float32(0)))
    assert codes(check_cohort(read_cohort(root))) == {"a": ["unknown_labels"], "b": ["unknown_labels"]}


@pytest.mark.parametrize("value", [-1, 256, 300, 2035])
def test_row_67_labels_that_no_mask_holds(nnunet, value: int) -> None:
    """A label below 0 or above 255 is refused before a file is read, with the way to map it; mapped, it is read."""
    root = nnunet(labels={"background": 0, "b": 2, "c": value})
    with pytest.raises(ValueError, match=rf"the labels \[{value}\] are not in 0\.\.255; .* `mask_values`"):
        read_cohort(root)
    mapped = SourceOptions(labels={0: "background", 1: "b", 2: "c"}, mask_values={0: 0, 2: 1, value: 2})
    assert len(read_cohort(root, mapped).cases) == 3


@pytest.mark.parametrize("name", ["\u6f22" * 60, "\U0001f600" * 20, "a" * 61])
def test_row_68_names_too_long_for_a_folder(tmp_path: Path, name: str) -> None:
    """Names of cohorts and segmenters are bounded in bytes before anything runs: folders are called by them."""
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("  adult:\n    cohort", f"  {name}:\n    cohort"), encoding="utf-8")
    with pytest.raises(SettingsError, match="take up to 60 letters"):
        StudySettings.read(path)


def test_row_68_stages_of_long_names() -> None:
    """A stage whose name is long has a folder whose name is not, and another one than any other stage."""
    long = "steering/" + "\u6f22" * 99
    folders = [Stage(f"{long}-{number}", "k", {"n": 0}).folder for number in range(2)]
    assert len(set(folders)) == 2
    assert all(len(f".{folder}.partial".encode()) <= 143 for folder in folders)
    assert Stage("a/b\0c", "k", {}).folder.startswith("a-b-c-")


def test_row_62_classes_that_differ_by_capitals(tmp_path: Path) -> None:
    """Classes whose names differ only by capitals are kept apart, and a note says so."""
    root = write_cohort(tmp_path / "c", ["a"], n_sequences=1)
    labels = {0: "background", 1: "Core", 2: "core", 3: "enhancing"}
    report = check_cohort(read_cohort(root, SourceOptions(labels=labels, mask_values={0: 0, 1: 1, 2: 2, 4: 3})))
    assert codes(report, "note") == {"c": ["labels_alike"]}


def test_row_64_names_in_a_study_by_two_spellings(tmp_path: Path) -> None:
    """Cohorts and segmenters of a study whose names differ only by capitals would be one folder on some disks."""
    path = tmp_path / "study.yaml"
    path.write_text(STUDY + "  Adult:\n    cohort: adult\n")
    with pytest.raises(SettingsError, match="the names 'adult' and 'Adult' differ only by capitals"):
        StudySettings.read(path)


def test_row_69_tables_of_absurd_size(nnunet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset.json or splits_final.json over the cap is refused by its size, of which no more is read."""
    root = nnunet(splits=[{"train": ["c0", "c1"], "val": ["c2"]}])
    monkeypatch.setattr(json_text, "MAX_BYTES", (root / "dataset.json").stat().st_size)
    assert len(read_cohort(root).cases) == 3
    for name in ("dataset.json", "splits_final.json"):
        before = (root / name).read_text()
        (root / name).write_text(before + " " * 200)
        with pytest.raises(ValueError, match=rf"{name} cannot be read as JSON \(it holds \d+ bytes, over the cap of"):
            read_cohort(root)
        (root / name).write_text(before)


@pytest.mark.parametrize("expression", ["(a|a)*$", "(?:(?:a{1,99}){1,99})x", "((((a{99}){99}){99}){99})", "a" * 201])
def test_row_70_expressions_that_do_not_end(monkeypatch: pytest.MonkeyPatch, expression: str) -> None:
    """A regular expression for patients that would run for years, or unfold without end, is refused with its text."""
    from seglens.cohorts import expressions
    from seglens.cohorts.layouts import Source

    assert MAX_SECONDS <= 1
    monkeypatch.setattr(expressions, "MAX_SECONDS", 0.01)
    source = Source(Path("x"), "x", SourceOptions(patient=expression))
    with pytest.raises(
        ValueError, match=r"is still searched for in 'aaaa|over 200 characters or over 10000 repetitions"
    ):
        source.patient("a" * 60 + "!", "a")


def test_row_70_all_the_same_a_sound_expression() -> None:
    """What ends is what Python's own engine finds."""
    from seglens.cohorts.layouts import Source

    assert Source(Path("x"), "x", SourceOptions(patient=r"(P-\d+)-\d")).patient("P-12-3", "x") == "P-12"
    assert Case("a", "a", "a", "c", {}, None, {}).patient == "a"
