"""The files of a folder, links looked at before they are followed."""

from pathlib import Path


def files_under(root: Path, *, follow_links: bool) -> tuple[list[Path], list[Path]]:
    """Every file below a folder, each real folder looked into once, so that links in a circle come to an end.

    Args:
        root: where to begin.
        follow_links: also look into folders outside that links lead to.

    Returns:
        The files in order of their paths, links to files among them, and the links to folders outside that were not
        followed.

    Raises:
        ValueError: a folder that cannot be read.
    """
    home = root.resolve()
    seen = {home}
    files: list[Path] = []
    unfollowed: list[Path] = []
    folders = [root]
    links: list[Path] = []
    while folders or links:
        # what a link leads to may be found without it too: then the link is not needed
        folder = folders.pop() if folders else links.pop()
        if folder != root and folder.is_symlink():
            target = folder.resolve()
            if not follow_links and not target.is_relative_to(home):
                unfollowed.append(folder)
                continue
            if target in seen:
                continue
            seen.add(target)
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            raise ValueError(f"{folder} cannot be read ({error.strerror}); allow it, or move it away") from None
        for entry in entries:
            if not entry.is_dir():
                files.append(entry)
            elif entry.is_symlink():
                links.append(entry)
            else:
                folders.append(entry)
                seen.add(entry.resolve())
    return sorted(files), sorted(unfollowed)
