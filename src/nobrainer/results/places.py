"""Places that results go to: what is there stays, unless it is to be replaced."""

from collections.abc import Iterable
from pathlib import Path

from nobrainer.errors import InputError


def refuse_existing(paths: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse files that exist.

    Args:
        paths: paths of the files that are going to be written.
        overwrite: whether files that exist are accepted, too.

    Raises:
        InputError: a file exists, or a path is a directory.
    """
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path}: is a directory: give another place")
        if not overwrite and path.exists():
            raise InputError(
                f"{path}: exists already: give another place or --overwrite"
            )


def make_directory(directory: Path) -> None:
    """Make a directory and its parents.

    Args:
        directory: path of the directory; may be there already.

    Raises:
        InputError: it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{directory}: cannot be made: {error.strerror}: give another directory"
        ) from error
