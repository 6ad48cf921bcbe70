"""Where results go: never over what is there, unless asked to; and how they print."""

import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import click

import nobrainer as nb
from nobrainer.errors import InputError, printable
from nobrainer.json_records import to_json as to_json

MAPS = ("label", "variance", "entropy")


def refuse_taken(directory: Path, *, overwrite: bool) -> None:
    """Raise `InputError` unless a directory is new, empty or may be overwritten."""
    if directory.is_file():
        raise InputError(f"{directory}: is a file: give another --output-dir")
    if not overwrite and directory.is_dir() and any(directory.iterdir()):
        raise InputError(
            f"{directory}: is not empty: give another --output-dir or --overwrite"
        )


def refuse_existing(paths: Iterable[Path], *, overwrite: bool) -> None:
    """Raise `InputError` where a file exists, unless it may be overwritten."""
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path}: is a directory: give another place")
        if not overwrite and path.exists():
            raise InputError(
                f"{path}: exists already: give another place or --overwrite"
            )


def make_directory(directory: Path) -> None:
    """Make a directory and its parents; raises `InputError` where that fails."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{directory}: cannot be made: {error.strerror}: give another directory"
        ) from error


def save_model(
    segmentation: "nb.Segmentation", directory: Path, *, overwrite: bool
) -> Path:
    """Save a model that took long to make, and return where it is.

    Where its place can no longer be written (a full disk), the model is kept in a
    temporary folder, and the `InputError` says so.
    """
    try:
        return segmentation.save(directory, overwrite=overwrite)
    except InputError as error:
        try:
            kept = segmentation.save(Path(tempfile.mkdtemp(prefix="nobrainer-")))
        except (InputError, OSError):
            raise error from None
        raise InputError(
            f"{error}\n{kept}: the model is kept here: move it to where it shall be"
        ) from error


def map_paths(directory: Path, stem: str, n_samples: int) -> dict[str, Path]:
    """The files that one scan's maps go to, by map."""
    names = MAPS if n_samples else MAPS[:1]
    return {name: directory / f"{stem}_{name}.nii.gz" for name in names}


def echo(
    text: object = "", *, err: bool = False, nl: bool = True, bold: bool = False
) -> None:
    """Print a text, in which no name of a file or label can steer the terminal."""
    click.echo(click.style(printable(str(text)), bold=bold or None), err=err, nl=nl)


def echo_error(text: str) -> None:
    """Print errors to standard error, each line after the name of this program."""
    for line in text.splitlines():
        echo(f"nobrainer: error: {line}", err=True)


def echo_columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows of text under a header: the first column left, the others right."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = [first.ljust(widths[0])]
        cells += [
            text.rjust(width) for text, width in zip(others, widths[1:], strict=True)
        ]
        echo("  ".join(cells).rstrip())


def echo_files(files: Mapping[str, object]) -> None:
    """Print the paths of files, each after what it holds."""
    echo("files")
    for name, path in files.items():
        echo(f"  {name:<10} {path}")


def figure_text(value: float, digits: int = 3, unit: str = "") -> str:
    """A figure for a table; a dash where it is not defined."""
    return f"{value:.{digits}f}{unit}" if math.isfinite(value) else "-"
