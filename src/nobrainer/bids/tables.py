"""Tab-separated tables as BIDS has them: read leniently, written strictly."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from nobrainer.errors import InputError

Row = dict[str, str]
"""The cells of a row by the name of their column."""
MISSING = "n/a"
_MORPHOMETRY = {
    "volume_mm3": "volume-mm3",
    "volume_sd_mm3": "volume-std-mm3",
    "volume_low_mm3": "volume-low-mm3",
    "volume_high_mm3": "volume-high-mm3",
}
"""Figures of a volume as the draft of BIDS extension 11 writes them, by our names:
parameter, statistic and unit, with hyphens between them."""


def read_tsv(path: Path) -> tuple[list[str], list[Row]]:
    """Read a table; cells that a row lacks are "n/a", and so are empty ones.

    Args:
        path: path of a file in UTF-8.

    Returns:
        The names of the columns, and the rows, without blank ones.

    Raises:
        InputError: it cannot be read, or has no header or two columns of one name.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}): give a tab-separated table in UTF-8"
        ) from error
    # Not splitlines: a cell may hold what Unicode, and no table, takes for line ends.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    header, *others = [[cell.strip() for cell in line.split("\t")] for line in lines]
    if not all(header) or len(set(header)) < len(header):
        raise InputError(
            f"{path}: its first line must name each column once: correct the table"
        )
    rows = []
    for cells in others:
        if any(cells):
            padded = [*cells, *[""] * (len(header) - len(cells))]
            rows.append(
                {
                    name: cell or MISSING
                    for name, cell in zip(header, padded, strict=False)
                }
            )
    return header, rows


def morphometry_column(name: str) -> str:
    """What a figure of structures is called in `_morph.tsv`.

    Args:
        name: its name in all other tables.
    """
    return _MORPHOMETRY.get(name, name)


def read_morphometry(path: Path) -> tuple[list[str], list[Row]]:
    """Read a table `_morph.tsv`, its columns under the names of all other tables.

    Args:
        path: path of the file.

    Raises:
        InputError: as for `read_tsv`.
    """
    ours = {column: name for name, column in _MORPHOMETRY.items()}
    columns, rows = read_tsv(path)
    return (
        [ours.get(column, column) for column in columns],
        [
            {ours.get(column, column): cell for column, cell in row.items()}
            for row in rows
        ],
    )


def write_tsv(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Write a table.

    Args:
        columns: names of the columns, in order.
        rows: the values of each row by column; what is missing, None, NaN, infinite or
            an empty text becomes "n/a", a truth value "true" or "false".
    """
    lines = ["\t".join(map(_cell, columns))]
    for row in rows:
        lines.append("\t".join(_cell(row.get(column)) for column in columns))
    return "\n".join(lines) + "\n"


def to_number(cell: object) -> float:
    """The finite number in a cell; NaN where there is none."""
    try:
        value = float(str(cell))
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.8g}" if math.isfinite(value) else MISSING
    text = "" if value is None else re.sub(r"[\t\r\n]+", " ", str(value)).strip()
    return text or MISSING
