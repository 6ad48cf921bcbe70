"""What label values mean: names and colours of classes, maps from ids to classes."""

import csv
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Self

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from nobrainer.checks import MOST_CLASSES, check_choice, near_miss
from nobrainer.data.table import read_cells
from nobrainer.errors import InputError
from nobrainer.recipe import DataConfig

Mappable = str | os.PathLike[str] | Mapping[int, int]
Binarizer = Callable[[np.ndarray], np.ndarray]

_BACKGROUND, _BLACK = "background", "#000000"
_WRITTEN = ["index", "name", "color", "original"]
_HEMISPHERES = ("Left-", "Right-", "ctx-lh-", "ctx-rh-")
_LARGEST = 2**31 - 1
"""Label value: that of a 32-bit integer, the largest in files."""
"""Far above any atlas; a network has an output for each, also for the numbers that no
label has."""


def _freesurfer_rows() -> list[dict[str, str]]:
    """The shipped table: one row per FreeSurfer id, one column per scheme.

    Names and colours are those of FreeSurferColorLUT.txt, version 1.70.2.7 of 2012.
    """
    text = files("nobrainer.data").joinpath("freesurfer_labels.tsv").read_text()
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))


_ROWS = _freesurfer_rows()
FREESURFER_NAMES = {int(row["freesurfer_id"]): row["name"] for row in _ROWS}
SCHEMES = tuple(_ROWS[0])[3:]

# Classes that merge several structures have no name of their own in FreeSurfer; the
# cortices of "aseg" have one and take in their parcels.
_MERGED = {
    "6-class": {
        1: "white-matter",
        2: "grey-matter",
        3: "cerebrospinal-fluid",
        4: "deep-grey-matter",
        5: "brain-stem",
    },
    "50-class": {2: "ventricles", 15: "corpus-callosum"},
    "aseg": {2: "Left-Cerebral-Cortex", 22: "Right-Cerebral-Cortex"},
}


def _palette() -> tuple[str, ...]:
    """Sixty colours that differ, the strong ones before their pale twins."""
    tab20, tab20b, tab20c = (
        [to_hex(colormaps[name](position)) for position in range(20)]
        for name in ("tab20", "tab20b", "tab20c")
    )
    return (*tab20[::2], *tab20[1::2], *tab20b, *tab20c)


_PALETTE = _palette()


@dataclass(frozen=True)
class LabelTable:
    """A model's classes; the position is the class index, 0 is background.

    names: the names of the classes, all different.
    colors: "#rrggbb" of each class; unless given, black and a fixed palette of 60
        that starts again after its end.
    ids: the value in the label files that stands for the class, where it is one:
        a FreeSurfer id for the classes of a scheme; None where not known.
    is_numbered: label maps carry class indices although `values` could be ids.
    """

    names: tuple[str, ...]
    colors: tuple[str, ...] = ()
    ids: tuple[int | None, ...] = ()
    is_numbered: bool = False

    def __post_init__(self) -> None:
        n_classes = len(self.names)
        colors = self.colors or tuple(
            _PALETTE[(index - 1) % len(_PALETTE)] if index else _BLACK
            for index in range(n_classes)
        )
        # Frozen: what is derived from other fields is set like this.
        object.__setattr__(self, "colors", tuple(color.lower() for color in colors))
        object.__setattr__(self, "ids", self.ids or (None,) * n_classes)
        for field, size in (("colors", len(self.colors)), ("ids", len(self.ids))):
            if size != n_classes:
                raise InputError(
                    f"{field} must be one for each of {n_classes} classes, got {size}: "
                    "give as many as names"
                )
        for position, name in enumerate(self.names):
            if len(name.splitlines()) != 1 or "\t" in name or name != name.strip():
                raise InputError(
                    "names of classes must be text in one line, without tabs and "
                    f"outer spaces, got {name!r}: rename it"
                )
            if name in self.names[:position]:
                raise InputError(
                    f"names of classes must differ, got {name!r} twice: rename one"
                )
        for color in self.colors:
            if not re.fullmatch("#[0-9a-f]{6}", color):
                raise InputError(
                    f"colors must be #rrggbb, got {color!r}: give six hexadecimal "
                    "digits after a #"
                )

    @property
    def values(self) -> tuple[int, ...]:
        """The value that stands for each class in a label map that is written.

        These are the `ids`, where every class has one of its own and background has
        0; else the class indices. The two are never mixed, since nobody could tell
        them apart.
        """
        known = tuple(value for value in self.ids if value is not None)
        is_complete = len(set(known)) == len(self.names) and known[0] == 0
        if is_complete and not self.is_numbered:
            return known
        return tuple(range(len(self.names)))

    def numbered(self) -> Self:
        """The same classes, with label maps that carry the class indices."""
        return replace(self, is_numbered=True)

    def to_values(self, classes: np.ndarray) -> np.ndarray:
        """Class indices as the `values` of a label map, in a small unsigned type."""
        return np.array(self.values, np.min_scalar_type(max(self.values)))[classes]

    def to_classes(self, values: np.ndarray) -> np.ndarray:
        """The `values` of a label map as class indices, in the smallest unsigned type.

        Raises:
            InputError: a value that stands for no class.
        """
        found = np.unique(values)
        index_of = {value: index for index, value in enumerate(self.values)}
        foreign = [value for value in found.tolist() if value not in index_of]
        if foreign:
            raise InputError(
                f"label map holds {foreign[0]}, which stands for none of the "
                f"{len(self.names)} classes: give a map that this model made"
            )
        size = np.min_scalar_type(len(self.names) - 1)
        classes = np.array([index_of[value] for value in found.tolist()], size)
        return classes[np.searchsorted(found, values)]

    @classmethod
    def generic(cls, n_classes: int) -> Self:
        """Names for classes about which nothing is known."""
        if n_classes == 2:
            return cls((_BACKGROUND, "foreground"))
        return cls((_BACKGROUND, *(f"class-{i}" for i in range(1, n_classes))))

    @classmethod
    def for_scheme(cls, name: str) -> Self:
        """The classes of "6-class", "50-class", "115-class" or "aseg".

        Where left and right share a class, the name has no side; a class that
        merges structures has the colour of the first and no id, but for the
        cortices of "aseg", which keep theirs.

        Raises:
            InputError: there is no such scheme.
        """
        check_choice("label scheme", name, SCHEMES)
        members: dict[int, list[dict[str, str]]] = {}
        for row in _ROWS:
            if row[name] and row[name] != "0":
                members.setdefault(int(row[name]), []).append(row)
        merged = _MERGED.get(name, {})
        names, colors = [_BACKGROUND], [_BLACK]
        ids: list[int | None] = [0]
        for index in range(1, max(members) + 1):
            first, *others = members[index]
            short = first["name"]
            if others:
                for prefix in _HEMISPHERES:
                    short = short.removeprefix(prefix)
            names.append(merged.get(index, short))
            colors.append(first["color"])
            is_one = not others or names[-1] == first["name"]
            ids.append(int(first["freesurfer_id"]) if is_one else None)
        return cls(tuple(names), tuple(colors), tuple(ids))

    def to_tsv(self) -> str:
        """The table as tab-separated text, for the folder of a model.

        The columns are `index`, the class index, `name` and `color`, as in a BIDS
        `dseg.tsv`, and `original`, which holds the `ids`.
        """
        return self._to_tsv(range(len(self.names)))

    def to_dseg(self) -> str:
        """A table of the same columns for a label map, with its values as `index`."""
        return self._to_tsv(self.values)

    def _to_tsv(self, indices: Iterable[int]) -> str:
        rows = zip(indices, self.names, self.colors, self.ids, strict=True)
        return (
            "\t".join(_WRITTEN)
            + "\n"
            + "".join(
                f"{index}\t{name}\t{color}\t{'n/a' if value is None else value}\n"
                for index, name, color, value in rows
            )
        )

    @classmethod
    def from_tsv(cls, text: str) -> Self:
        """Read what `to_tsv` wrote, now or when it had only `index` and `name`.

        Raises:
            InputError: the text is anything else.
        """
        header, *lines = (line.split("\t") for line in text.splitlines() or [""])
        if (
            header not in (_WRITTEN[:2], _WRITTEN)
            or not lines
            or [line[0] for line in lines] != [str(i) for i in range(len(lines))]
            or any(len(line) != len(header) for line in lines)
        ):
            raise InputError(
                "label table must have the columns index and name, or index, name, "
                "color and original, separated by tabs, with the indices 0, 1, 2, ... "
                "in order"
            )
        return cls(*_columns([dict(zip(header, line, strict=True)) for line in lines]))


def read_mapping(source: Mappable) -> tuple[dict[int, int], LabelTable]:
    """The map from label values in a file to class indices, and what the classes are.

    Args:
        source: "6-class", "50-class", "115-class" or "aseg" for FreeSurfer ids; or a
            mapping; or the path of a CSV or TSV file, which is one of
            - with a header `index,name`, and `color` if wanted: the label values and
              their names. Classes are numbered in ascending order of index, so that
              they have no gaps; 0 is background, listed or not.
            - with a header `original,new`, and `name` and `color` of the class `new`
              if wanted: label values and classes.
            - any other: its first two columns are label value and class, a header
              is skipped.
            A blank class means background.

    Returns:
        Label value to class; 0 maps to 0 unless `source` says otherwise. And the
        table of the classes, whose ids are the label values that one class has to
        itself; for background that is 0, whatever else became background.

    Raises:
        InputError: unknown scheme, unreadable file, entries that are not integers
            from 0 to 2147483647, or two names or colours for one class.
    """
    if isinstance(source, Mapping):
        mapping = {0: 0}
        for value, new in source.items():
            mapping[_index(value, "relabel")] = _index(new, "relabel")
        return mapping, _describe(mapping, {})
    if (scheme := str(source)) in SCHEMES:
        known = {int(row["freesurfer_id"]): int(row[scheme] or 0) for row in _ROWS}
        return known, LabelTable.for_scheme(scheme)
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
    """The columns of a label file, and its rows with their line numbers."""
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
    """Classes 0, 1, 2, ... for the values of a table of index and name."""
    found: dict[int, dict[str, str]] = {}
    for number, row in rows:
        value = _index(row["index"], f"line {number}")
        if value in found:
            raise InputError(f"line {number}: index {value} stands twice: remove one")
        found[value] = row | {"original": str(value)}
    found.setdefault(0, {"name": _BACKGROUND, "color": _BLACK, "original": "0"})
    values = sorted(found)
    table = LabelTable(*_columns([found[value] for value in values]))
    return {value: index for index, value in enumerate(values)}, table


def _collect(rows: _Rows) -> tuple[dict[int, int], LabelTable]:
    """The map of a table of label value and class, and what it says of the classes."""
    mapping = {0: 0}
    about: dict[tuple[int, str], str] = {}
    for number, row in rows:
        new = _index(row["new"] or "0", f"line {number}")
        mapping[_index(row["original"], f"line {number}")] = new
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
    """The classes of a map; `about` has the name and color of some of them."""
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
        # 0 stands for background, whatever else became background.
        is_one = len(values) == 1 or values[:1] == [0]
        classes.append(
            {
                "name": about.get((index, "name"), name),
                "color": about.get((index, "color"), ""),
                "original": str(values[0]) if is_one else "",
            }
        )
    return LabelTable(*_columns(classes))


def _columns(
    classes: Sequence[Mapping[str, str]],
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[int | None, ...]]:
    """Names, colours and ids from the rows of a table, in the order of the classes."""
    missing = ("", "n/a")
    colors = [row.get("color", "") for row in classes]
    ids = [row.get("original", "") for row in classes]
    defaults = LabelTable.generic(len(classes)).colors
    return (
        tuple(row["name"] for row in classes),
        tuple(
            default if color in missing else color
            for color, default in zip(colors, defaults, strict=True)
        ),
        tuple(None if i in missing else _index(i, "original") for i in ids),
    )


def _index(value: object, where: str) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = -1
    if not 0 <= number <= _LARGEST:
        raise InputError(
            f"{where}: label values and classes must be integers from 0 to "
            f"{_LARGEST}, got {value!r}"
        )
    return number


def make_targets(
    labels: np.ndarray, config: DataConfig, binarizer: Binarizer | None
) -> tuple[np.ndarray, dict[int, int]]:
    """Turn the label values of a file into classes: first relabel, then binarize.

    Args:
        labels: integer label values, (I, J, K).
        config: its `relabel`, `binarize`, `binarize_ids` and `n_classes` are used.
        binarizer: the function behind `binarize="callable"`: label values in,
            booleans of the same shape out.

    Returns:
        Classes (I, J, K) in the smallest unsigned type, and the voxel counts of
        label values that `relabel` does not know (they become background).

    Raises:
        InputError: a class is not below `n_classes`, or the binarizer's result is
            not one boolean (or 0 or 1) per voxel.
    """
    unknown: dict[int, int] = {}
    if config.relabel is not None:
        # A search in the few values present is 4 times as fast as return_inverse.
        values = np.unique(labels)
        position = np.searchsorted(values, labels)
        counts = np.bincount(position.ravel())
        known = {int(key): new for key, new in config.relabel.items()}
        unknown = {
            int(value): int(count)
            for value, count in zip(values, counts, strict=True)
            if int(value) not in known
        }
        labels = np.array([known.get(int(value), 0) for value in values])[position]
    if config.binarize != "none":
        ids = config.binarize_ids if config.binarize == "ids" else None
        labels = find_foreground(labels, ids if binarizer is None else binarizer)
    top = int(labels.max())
    if top >= config.n_classes:
        raise InputError(
            f"label value {top} is not below n_classes={config.n_classes}: give "
            f"n_classes={top + 1} or more, or binarize or relabel"
        )
    return labels.astype(np.min_scalar_type(config.n_classes - 1)), unknown


def find_foreground(
    labels: np.ndarray, chosen: Collection[int] | Binarizer | None
) -> np.ndarray:
    """Where the foreground is that `binarize` was asked for.

    Args:
        labels: label values, (I, J, K).
        chosen: these label values, a function of the array, or None: all but 0.

    Returns:
        Booleans (I, J, K).

    Raises:
        InputError: the function's result is not one boolean (or 0 or 1) per voxel.
    """
    if chosen is None:
        return labels > 0
    if not callable(chosen):
        return np.isin(labels, list(chosen))
    mask = np.asarray(chosen(labels))
    if mask.shape != labels.shape or not np.isin(mask, (0, 1)).all():
        raise InputError(
            "the function given to binarize must return one boolean per voxel, got "
            f"shape {mask.shape} of {mask.dtype}"
        )
    return mask.astype(bool)


def describe_unknown(counts: Mapping[int, int]) -> str:
    """One line about label values that a mapping does not know.

    >>> describe_unknown({17: 20})
    '17 (FreeSurfer Left-Hippocampus): 20 voxels'
    """
    parts = []
    for value, count in sorted(counts.items()):
        name = FREESURFER_NAMES.get(value)
        parts.append(
            f"{value}{f' (FreeSurfer {name})' if name else ''}: {count} voxels"
        )
    return ", ".join(parts)


def binarize_ids(labels: object) -> tuple[int, ...]:
    """Check and sort the label values that `.binarize` turns into foreground.

    Raises:
        InputError: anything but a collection of label values. A mapping is refused,
            too, because its values would be ignored.
    """
    if not isinstance(labels, Collection) or isinstance(labels, str | bytes | Mapping):
        raise InputError(
            f"binarize takes nothing, a set of label values or a function, got "
            f"{labels!r}"
        )
    ids = tuple(sorted({_index(label, "binarize") for label in labels}))
    if not ids:
        raise InputError("binarize: give at least one label value")
    return ids
