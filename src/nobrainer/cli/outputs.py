"""Where results go (never over what is there, unless asked to), and how they print."""

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
    """Refuse a directory that is neither new nor empty.

    Args:
        directory: path of the directory; need not be there.
        overwrite: whether one that has files in it is accepted, too.

    Raises:
        InputError: the directory has files in it, or is a file.
    """
    if directory.is_file():
        raise InputError(f"{directory}: is a file: give another --output-dir")
    if not overwrite and directory.is_dir() and any(directory.iterdir()):
        raise InputError(
            f"{directory}: is not empty: give another --output-dir or --overwrite"
        )


def save_model(
    segmentation: "nb.Segmentation", directory: Path, *, overwrite: bool
) -> Path:
    """Save a model that took long to make.

    If its place cannot be written (the disk is full, say), the model is saved in a
    temporary folder instead, and the message says where.

    Args:
        segmentation: the trained model.
        directory: folder of the model; made if missing.
        overwrite: whether to replace a model that is there.

    Returns: the folder.

    Raises:
        InputError: the model could not be saved in its place.
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
    """The paths of the maps of a scan, by what they show.

    Args:
        directory: folder of the results.
        stem: name of the scan.
        n_samples: number of draws of the weights; without any there is only a label
            map.
    """
    names = MAPS if n_samples else MAPS[:1]
    return {name: directory / f"{stem}_{name}.nii.gz" for name in names}


def echo(
    text: object = "", *, err: bool = False, nl: bool = True, bold: bool = False
) -> None:
    """Print a text with all control characters made visible.

    So no name of a file or label can steer the terminal.

    Args:
        text: what is printed.
        err: whether to print to standard error.
        nl: whether to end the line.
        bold: whether to print in bold letters.
    """
    click.echo(click.style(printable(str(text)), bold=bold or None), err=err, nl=nl)


def echo_error(text: str) -> None:
    """Print errors to standard error, each line after the name of this program."""
    for line in text.splitlines():
        echo(f"nobrainer: error: {line}", err=True)


def echo_columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, the first column aligned to the left, the others to the right.

    Args:
        header: title of each column.
        rows: a text for each column.
    """
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
    """A figure as text for a table; a dash where it is not finite.

    Args:
        value: the figure.
        digits: number of decimals.
        unit: text that follows the number.
    """
    return f"{value:.{digits}f}{unit}" if math.isfinite(value) else "-"
