"""Maps from the label values of files to classes, as users give them."""

import os
from collections.abc import Mapping
from pathlib import Path

from nobrainer.checks import MOST_CLASSES, near_miss
from nobrainer.data.freesurfer import ALSO, ROWS, SCHEMES
from nobrainer.data.labels import BACKGROUND, BLACK, LabelTable, parse_label
from nobrainer.data.table import read_cells
from nobrainer.errors import InputError

Mappable = str | os.PathLike[str] | Mapping[int, int]
"""Name of a FreeSurfer scheme, path of a table, or label value to class."""


def read_mapping(source: Mappable) -> tuple[dict[int, int], LabelTable]:
    """The class of each label value in a file, and what the classes are.

    Args:
        source: a scheme of FreeSurfer's label values ("6-class", "50-class",
            "115-class", "aseg" or "synthseg"); a mapping from label value to class; or
            the path of a CSV or TSV file. In a file a blank class means background. The
            header says what the file holds:
            - `index,name`, and `color` if wanted: label values and their names. The
              classes are numbered in ascending order of index, without gaps; 0 is
              background, listed or not.
            - `original,new`, and `name` and `color` of the class `new` if wanted:
              label values and their classes.
            - any other header, or none: the first two columns are label value and
              class.

    Returns:
        Label value to class, where 0 maps to 0 unless `source` says otherwise; and the
        table of the classes. The ids of the table are the label values that have a
        class to themselves; that of background is 0, whatever else became background.

    Raises:
        InputError: the scheme is unknown, the file cannot be read, an entry is not an
            integer from 0 to 2147483647, or a class has two names or colours.

    >>> mapping, table = read_mapping({17: 1, 53: 1})
    >>> mapping
    {0: 0, 17: 1, 53: 1}
    >>> table.names, table.ids
    (('background', 'foreground'), (0, None))
    """
    if isinstance(source, Mapping):
        mapping = {0: 0}
        for value, new in source.items():
            mapping[parse_label(value, "relabel")] = parse_label(new, "relabel")
        return mapping, _describe(mapping, {})
    if (scheme := str(source)) in SCHEMES:
        known = {int(row["freesurfer_id"]): int(row[scheme] or 0) for row in ROWS}
        return known | ALSO.get(scheme, {}), LabelTable.for_scheme(scheme)
    path = Path(source)
    if path.suffix.lower() not in (".csv", ".tsv"):
        raise near_miss("label scheme (or .csv or .tsv path)", scheme, SCHEMES)
    columns, rows = _read_rows(path)
    try:
        return _number(rows) if columns >= _NUMBERED else _collect(rows)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


_Rows = list[tuple[int, dict[str, str]]]
_NUMBERED, _MAPPED = {"index", "name"}, {"original", "new"}


def _read_rows(path: Path) -> tuple[set[str], _Rows]:
    """The columns of a file of labels, and its rows, each with its line number."""
    table = read_cells(path, "label value and class in its first two columns")
    columns = ["original", "new"]
    rows: _Rows = []
    for place, (number, row) in enumerate(table):
        cells = ["" if cell == "n/a" else cell for cell in row]
        if place == 0 and not cells[0].isdigit():
            header = [cell.lower() for cell in cells]
            if set(header) >= _NUMBERED or set(header) >= _MAPPED:
                columns = header
        else:
            if len(cells) < 2:
                raise InputError(f"{path}: line {number}: needs two columns, got {row}")
            cells += [""] * (len(columns) - len(cells))
            rows.append((number, dict(zip(columns, cells, strict=False))))
    if not rows:
        raise InputError(f"{path}: holds no label mapping: give rows of value,class")
    return set(columns), rows


def _number(rows: _Rows) -> tuple[dict[int, int], LabelTable]:
    """Number the label values of a table of index and name: 0, 1, 2, ..."""
    found: dict[int, dict[str, str]] = {}
    for number, row in rows:
        value = parse_label(row["index"], f"line {number}")
        if value in found:
            raise InputError(f"line {number}: index {value} stands twice: remove one")
        found[value] = row | {"original": str(value)}
    found.setdefault(0, {"name": BACKGROUND, "color": BLACK, "original": "0"})
    values = sorted(found)
    table = LabelTable.from_rows([found[value] for value in values])
    return {value: index for index, value in enumerate(values)}, table


def _collect(rows: _Rows) -> tuple[dict[int, int], LabelTable]:
    """Collect label values and classes, and what a table says of the classes."""
    mapping = {0: 0}
    about: dict[tuple[int, str], str] = {}
    for number, row in rows:
        new = parse_label(row["new"] or "0", f"line {number}")
        mapping[parse_label(row["original"], f"line {number}")] = new
        for column in ("name", "color"):
            given = row.get(column)
            if given and (kept := about.setdefault((new, column), given)) != given:
                raise InputError(
                    f"line {number}: the {column} of class {new} is {given!r} here and "
                    f"{kept!r} above: give it one {column}"
                )
    return mapping, _describe(mapping, about)


def _describe(
    mapping: Mapping[int, int], about: Mapping[tuple[int, str], str]
) -> LabelTable:
    """The table of the classes of a mapping.

    Args:
        mapping: label value to class.
        about: (class, "name" or "color") to what the user wrote there.
    """
    n_classes = max(mapping.values()) + 1
    if n_classes > MOST_CLASSES:
        raise InputError(
            f"the largest class is {n_classes - 1}, the most there can be "
            f"{MOST_CLASSES - 1}: number the classes 0, 1, 2, ..."
        )
    members: dict[int, list[int]] = {}
    for value, new in mapping.items():
        members.setdefault(new, []).append(value)
    classes = []
    for index, name in enumerate(LabelTable.generic(n_classes).names):
        values = members.get(index, [])
        # Label value 0 stands for background, whatever else became background.
        is_one = len(values) == 1 or values[:1] == [0]
        classes.append(
            {
                "name": about.get((index, "name"), name),
                "color": about.get((index, "color"), ""),
                "original": str(values[0]) if is_one else "",
            }
        )
    return LabelTable.from_rows(classes)
