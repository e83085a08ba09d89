from pathlib import Path

import pytest

from seglens.cohorts.file_listing import files_under


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """root/{a/1, b/c/2, 3}, and elsewhere/4 outside."""
    for name in ("root/a/1", "root/b/c/2", "root/3", "elsewhere/4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path / "root"


def names(root: Path, files: list[Path]) -> list[str]:
    return [file.relative_to(root).as_posix() for file in files]


def test_without_links_it_is_every_file_in_order(tree: Path) -> None:
    files, unfollowed = files_under(tree, follow_links=False)
    assert files == sorted(file for file in tree.rglob("*") if file.is_file())
    assert unfollowed == []


def test_folders_outside_are_named_or_followed(tree: Path) -> None:
    (tree / "out").symlink_to(tree.parent / "elsewhere")
    files, unfollowed = files_under(tree, follow_links=False)
    assert (names(tree, files), names(tree, unfollowed)) == (["3", "a/1", "b/c/2"], ["out"])
    files, unfollowed = files_under(tree, follow_links=True)
    assert (names(tree, files), unfollowed) == (["3", "a/1", "b/c/2", "out/4"], [])


def test_each_real_folder_is_looked_into_once(tree: Path) -> None:
    (tree / "a/up").symlink_to(tree)
    (tree / "0").symlink_to(tree / "b")  # before b in order, yet b's files keep b's name
    (tree.parent / "elsewhere/back").symlink_to(tree)
    (tree / "out").symlink_to(tree.parent / "elsewhere")
    (tree / "out2").symlink_to(tree.parent / "elsewhere")
    files, _ = files_under(tree, follow_links=True)
    assert [name.partition("/")[2] or name for name in names(tree, files)] == ["3", "1", "c/2", "4"]


def test_the_folder_may_be_a_link_itself(tree: Path) -> None:
    (tree.parent / "door").symlink_to(tree)
    assert len(files_under(tree.parent / "door", follow_links=False)[0]) == 3
