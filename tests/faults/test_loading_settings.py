"""Study files that are wrong, by accident or on purpose."""

import pytest

from seglens.foreign.yaml_text import MAX_CHARACTERS, MAX_DEPTH, MAX_VALUES, YamlError, parse_yaml
from seglens.studies.example import EXAMPLE
from seglens.studies.settings import SettingsError, StudySettings

STUDY = """\
sequences: [T1c]
cohorts:
  adult:
    phantom: {population: adult, subjects: 4}
segmenters:
  adult:
    cohort: adult
    steps: 5
"""


@pytest.fixture
def refused(tmp_path):
    def read(text):
        path = tmp_path / "study.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(SettingsError) as caught:
            StudySettings.read(path)
        assert str(path) in str(caught.value)
        return str(caught.value)

    return read


def test_row_29_hookpoints_of_a_study(refused):
    """A study file that names a hookpoint which there is not, or is not opened, is refused with those there are."""
    assert "hookpoint 'satge3' is in none of the study's architectures; did you mean 'stage3'" in refused(
        STUDY + "hookpoints: [stage2, satge3]\n"
    )
    assert "segmenters.adult.hookpoints: segformer-b0 has no hookpoint 'encoder1'; give auto or one of stage1, " in (
        refused(STUDY + "    hookpoints: encoder1\n")
    )
    entry = "{segmenter: adult, cohort: adult, label: edema, hookpoint: stage4}"
    text = refused(STUDY + f"hookpoints: [stage2, stage3]\nsteering: [{entry}]\nalignment: [{{hookpoint: stage3}}]\n")
    assert "steering[0].hookpoint: adult is not opened at 'stage4' but at stage2, stage3; " in text
    assert "alignment[0].hookpoint: adult is opened at 'stage3', and a pair takes two; " in text


def test_row_51_unknown_key(refused):
    """An unknown name is refused with its line and the nearest legal one."""
    assert (
        "line 9: segmenters.adult.learnin_rate: unknown; did you mean 'learning_rate' or 'encoder_learning_rate'? "
        "legal are cohort, " in refused(STUDY + "    learnin_rate: 0.1\n")
    )
    assert "line 4: cohorts.adult.phantom.subject: unknown; did you mean 'subjects'? legal are population," in refused(
        STUDY.replace("subjects:", "subject:")
    )
    text = refused(STUDY + "dictionary: {k: 3}\nzzz: 1\nsteering:\n  - {segmenter: adult, cohort: adult, lable: x}\n")
    assert "line 9: dictionary: unknown; did you mean 'dictionaries'? legal are name, seed, sequences" in text
    assert "line 10: zzz: unknown; legal are name, " in text
    assert "line 12: steering.0.lable: unknown; did you mean 'label'? legal are segmenter, cohort, label" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("steps: 5", "steps: five"), "line 8: segmenters.adult.steps: Input should be a valid integer"),
        (("steps: 5", "steps: yes"), "line 8: segmenters.adult.steps: Input should be a valid integer"),
        (("steps: 5", "steps: '5'"), "line 8: segmenters.adult.steps: Input should be a valid integer"),
        (("steps: 5", "steps: 5.5"), "line 8: segmenters.adult.steps: Input should be a valid integer"),
        (("steps: 5", "steps: 0"), "line 8: segmenters.adult.steps: Input should be greater than or equal to 1"),
        (("steps: 5", "learning_rate: .inf"), "line 8: segmenters.adult.learning_rate: Input should be a finite"),
        (("steps: 5", "learning_rate: .nan"), "line 8: segmenters.adult.learning_rate: Input should be"),
        (("[T1c]", "T1c"), "line 1: sequences: Input should be a valid list"),
        (("steps: 5", "steps: 5\ntau: 1.5"), "line 9: tau: Input should be less than or equal to 1"),
        (("adult, subjects: 4", "adult, subjects: [4]"), "line 4: cohorts.adult.phantom.subjects: Input should be"),
    ],
)
def test_row_51_wrong_type(refused, change, message):
    """A value of another type or out of range is refused with its line; a truth or a quoted text is no number."""
    assert message in refused(STUDY.replace(*change))


def test_row_51_key_given_twice(refused):
    """A name that stands there twice is refused with both lines."""
    assert "line 9: 'steps' stands there twice, first in line 8" in refused(STUDY + "    steps: 7\n")
    assert "line 9: 'cohorts' stands there twice, first in line 2" in refused(STUDY + "cohorts: {}\n")


def test_row_51_alias_bomb(refused):
    """Aliases that stand for billions of values, or for themselves, are refused at once."""
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    bomb = "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x, x]", *levels])
    assert f"more than {MAX_VALUES} values, aliases counted as often as they are used" in refused(bomb)
    merged = [f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 10)}]}}" for n in range(1, 12)]
    assert f"more than {MAX_VALUES} values" in refused("\n".join(["b0: &b0 {x: 1}", *merged]))
    assert "an alias to what it stands in" in refused("a: &a [*a]")
    assert "an alias to what it stands in" in refused("a: &a {<<: *a, x: 1}")


def test_row_51_too_deep_too_long(refused):
    """Nesting without end and a file without end are refused before Python's stack or the memory is used up."""
    assert f"line 1: more than {MAX_DEPTH} levels" in refused("[" * 100_000)
    assert f"line {MAX_DEPTH}: more than {MAX_DEPTH} levels" in refused("\n".join("  " * n + "a:" for n in range(200)))
    assert f"legal are {MAX_CHARACTERS}" in refused("a" * (MAX_CHARACTERS + 1))
    assert f"legal are {MAX_CHARACTERS}" in refused("é" * 10 * MAX_CHARACTERS + "é")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: !!python/object/apply:os.getcwd []", "line 1: could not determine a constructor for the tag"),
        ("name: !!python/name:os.system ''", "line 1: could not determine a constructor for the tag"),
        (
            "name: !!timestamp 2026-99-99",
            "line 1: '2026-99-99' cannot be read as tag:yaml.org,2002:timestamp; put text into qu",
        ),
        (f"seed: {'9' * 5000}", "line 1: '9999"),
        ("seed: !!int ''", "line 1: '' cannot be read as"),
        ("seed: !!int 010", "line 1: '010' cannot be read as"),
        ("seed: !!float 1:30", "line 1: '1:30' cannot be read as"),
        ("store: !!bool maybe", "line 1: 'maybe' cannot be read as"),
        ("name: !!timestamp now", "line 1: 'now' cannot be read as"),
        ("? [a]\n: 1", "line 1: a list or mapping as a key"),
        ("a: 1\n---\nb: 2", "line 2: "),
        ("a: [1", "line 1: "),
        ("a: *nowhere", "line 1: found undefined alias 'nowhere'"),
        ('name: "a\\0b"', "line 1: 'a\\x00b' has a character that no name or text may hold"),
        ('"\\ud800": 1', "line 1: '\\ud800' has a character that no name or text may hold"),
        ("a: \0", "special characters are not allowed"),
        (b"name: \xff", "is not UTF-8 text (invalid start byte); save it so"),
        ("", "the file: Input should be"),
        ("just words", "the file: Input should be"),
        ("- a", "the file: Input should be"),
    ],
)
def test_row_51_no_settings_at_all(refused, text, message):
    """A tag that names a class, values that are none, and what is no YAML are refused with the line."""
    assert message in refused(text)


def test_row_51_lines_of_merged_and_shared_values():
    """Aliases and merges within the bounds are read as YAML says."""
    parsed = parse_yaml("a: &a {x: 1}\nb: &b\n  <<: *a\n  x: 2\n  y: [*a, 3]\nc: {<<: *b}\n")
    assert parsed.content == {
        "a": {"x": 1},
        "b": {"x": 2, "y": [{"x": 1}, 3]},
        "c": {"x": 2, "y": [{"x": 1}, 3]},
    }
    assert (parsed.line(("b", "x")), parsed.line(("b", "y", 1)), parsed.line(("b", "y", 1, "z"))) == (4, 5, 5)
    assert parsed.line(("nowhere",)) == 1
    assert parse_yaml("# nothing\n").content is None
    assert parse_yaml(EXAMPLE).content["tau"] == 0.8
    with pytest.raises(YamlError, match="line 2: 'x' stands there twice, first in line 1"):
        parse_yaml("{x: 1,\n x: 2}")
