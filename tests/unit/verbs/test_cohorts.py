import pytest

from seglens.verbs.cohorts import Files, pairs


@pytest.mark.parametrize("text", ["a", "a=1,b"])
def test_pairs_must_be_pairs(text):
    with pytest.raises(ValueError, match="name=value"):
        pairs(text)


def test_a_pair_stands_there_once_and_numbers_are_numbers(tmp_path):
    with pytest.raises(ValueError, match="0 stands there twice"):
        pairs("0=a,0=b")
    with pytest.raises(ValueError, match="'tumour' is no whole number; give --labels as 0=background"):
        Files(labels="tumour=1").cohort(tmp_path)
