"""Tables of text in files: scans with their labels, and what label values mean."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nobrainer.errors import InputError

_KEYS = {"features": "image", "labels": "label"}
"""Names of the columns in the entries of a `Dataset`."""
_OPTIONAL = ("subject", "session", "split")
_DELIMITERS = "\t;,"


def read_table(
    path: Path, columns: Sequence[str] = ("features", "labels")
) -> list[dict[str, Any]]:
    """Read the scans that a CSV or TSV file lists, as entries of a `Dataset`.

    The columns `features` and `labels` hold paths, which may be relative to the table's
    directory. `subject`, `session` and `split` are read where they are there; other
    columns are ignored. Cells are separated by a comma, a semicolon or a tab. Capitals
    in column names, blanks around cells and blank lines do not matter.

    Args:
        path: path of the table.
        columns: which of `features` and `labels` it must have; the other is not read.

    Returns:
        An entry for each row: the paths `image` and `label`, as far as `columns` asks
        for them, and the texts `subject`, `session` and `split`, empty where not
        given.

    Raises:
        InputError: the file cannot be read, lacks a column, or a row lacks a path.
    """
    needed = ",".join(columns)
    wanted = f"{needed}, and subject, session and split if wanted"
    if path.is_dir():
        raise InputError(
            f"{path}: is a folder: give a CSV or TSV file with the columns {wanted}"
        )
    lines = read_cells(path, f"the columns {wanted}")
    _, header = next(lines, (1, []))
    names = [name.lower() for name in header]
    for name in (*columns, *_OPTIONAL):
        count = names.count(name)
        if count > 1:
            raise InputError(f"{path}: has the column {name} twice: remove one")
        if count == 0 and name in columns:
            raise InputError(
                f"{path}: its header is {', '.join(header) or 'empty'}, without the "
                f"column {name}: name its columns {wanted}"
            )
    entries = []
    for number, cells in lines:
        row = dict(zip(names, cells, strict=False))
        if len(cells) > len(names):
            raise InputError(
                f"{path} line {number}: has {len(cells)} cells under {len(names)} "
                "column names: put quotes around a cell that holds the separator"
            )
        if not all(row.get(name) for name in columns):
            raise InputError(
                f"{path} line {number}: needs a path in each of the columns "
                f"{' and '.join(columns)}: complete it"
            )
        paths = {_KEYS[name]: path.parent / row[name] for name in columns}
        who = {name: _given(row.get(name)) for name in _OPTIONAL}
        entries.append({**paths, **who})
    if not entries:
        raise InputError(f"{path}: has no rows: give one per scan, {needed}")
    return entries


def read_split(path: Path, split: str | None) -> list[dict[str, Any]]:
    """Read the scans of a table that belong to a part of the data.

    Args:
        path: path of a table, see `read_table`.
        split: takes the rows of this split alone; None takes all.

    Raises:
        InputError: as for `read_table`, or there is no scan in the split.
    """
    rows = read_table(path)
    chosen = [row for row in rows if split is None or row["split"] == split]
    if not chosen:
        raise InputError(f"{path}: has no scan in the split {split!r}")
    return chosen


def read_cells(path: Path, wanted: str) -> Iterator[tuple[int, list[str]]]:
    """Read the lines of a table that are not blank.

    The separator is the one of tab, semicolon and comma that is most frequent in the
    first line.

    Args:
        path: path of a file in UTF-8.
        wanted: what the table should have, for the message.

    Yields:
        The number of each line, from 1, and its cells without outer blanks.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines(keepends=True)
        first = next((line for line in lines if line.strip()), "")
        delimiter = max(_DELIMITERS, key=first.count)
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield reader.line_num, cells
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file: check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is no text in UTF-8: give a CSV or TSV file with {wanted}"
        ) from error
    except (OSError, csv.Error) as error:
        raise InputError(
            f"{path}: cannot be read ({error}): give a CSV or TSV file with {wanted}"
        ) from error


def _given(cell: str | None) -> str:
    """The text of a cell, empty for the n/a that BIDS writes for a missing value."""
    return "" if cell in (None, "n/a") else str(cell)
