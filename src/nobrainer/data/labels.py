"""What label values mean: class names, FreeSurfer ids, and maps from ids to classes."""

import csv
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Self

import numpy as np

from nobrainer.errors import InputError
from nobrainer.recipe import DataConfig
from nobrainer.registry import near_miss

Mappable = str | os.PathLike[str] | Mapping[int, int]
Binarizer = Callable[[np.ndarray], np.ndarray]

_BACKGROUND = "background"
_HEMISPHERES = ("Left-", "Right-", "ctx-lh-", "ctx-rh-")


def _freesurfer_rows() -> list[dict[str, str]]:
    """The shipped table: one row per FreeSurfer id, one column per scheme."""
    text = files("nobrainer.data").joinpath("freesurfer_labels.tsv").read_text()
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))


_ROWS = _freesurfer_rows()
FREESURFER_NAMES = {int(row["freesurfer_id"]): row["name"] for row in _ROWS}
SCHEMES = tuple(column for column in _ROWS[0] if column.endswith("-class"))

# Classes that merge several structures have no name of their own in FreeSurfer.
_MERGED = {
    "6-class": {
        1: "white-matter",
        2: "grey-matter",
        3: "cerebrospinal-fluid",
        4: "deep-grey-matter",
        5: "brain-stem",
    },
    "50-class": {2: "ventricles", 15: "corpus-callosum"},
}


def _check_scheme(name: str) -> None:
    if name not in SCHEMES:
        raise near_miss("label scheme", name, SCHEMES)


@dataclass(frozen=True)
class LabelTable:
    """Names of a model's classes; the position is the class index, 0 is background."""

    names: tuple[str, ...]

    @classmethod
    def generic(cls, n_classes: int) -> Self:
        """Names for classes about which nothing is known."""
        if n_classes == 2:
            return cls((_BACKGROUND, "foreground"))
        return cls((_BACKGROUND, *(f"class-{i}" for i in range(1, n_classes))))

    @classmethod
    def for_scheme(cls, name: str) -> Self:
        """Names of the classes of "6-class", "50-class" or "115-class".

        Raises `InputError` for another name. Where left and right share a class,
        the name has no side.
        """
        _check_scheme(name)
        members: dict[int, list[str]] = {}
        for row in _ROWS:
            if row[name] and row[name] != "0":
                members.setdefault(int(row[name]), []).append(row["name"])
        merged = _MERGED.get(name, {})
        names = [_BACKGROUND]
        for index in range(1, max(members) + 1):
            first, *others = members[index]
            if others:
                for prefix in _HEMISPHERES:
                    first = first.removeprefix(prefix)
            names.append(merged.get(index, first))
        return cls(tuple(names))

    def to_tsv(self) -> str:
        """The table as text with the columns `index` and `name`."""
        rows = [f"{index}\t{name}\n" for index, name in enumerate(self.names)]
        return "index\tname\n" + "".join(rows)

    @classmethod
    def from_tsv(cls, text: str) -> Self:
        """Read what `to_tsv` wrote; raises `InputError` for anything else."""
        header, *lines = text.splitlines() or [""]
        rows = [line.split("\t") for line in lines]
        indices = [row[0] for row in rows]
        if (
            header != "index\tname"
            or indices != [str(i) for i in range(len(rows))]
            or any(len(row) != 2 for row in rows)
        ):
            raise InputError(
                "label table must have the columns index and name, separated by a "
                "tab, with the indices 0, 1, 2, ... in order"
            )
        return cls(tuple(row[1] for row in rows))


def mapping_for(source: Mappable) -> dict[int, int]:
    """The map from label values in a file to class indices.

    Args:
        source: "6-class", "50-class" or "115-class" for FreeSurfer ids; or the path
            of a CSV or TSV file whose first two columns are label value and class
            (a header row is skipped, a blank class means background); or a mapping.

    Returns:
        Label value to class; 0 maps to 0 unless `source` says otherwise.

    Raises:
        InputError: unknown scheme, unreadable file, or entries that are not
            integers >= 0.
    """
    pairs: list[tuple[object, object, str]]
    if isinstance(source, Mapping):
        pairs = [(key, value, "relabel") for key, value in source.items()]
    elif str(source) in SCHEMES:
        scheme = str(source)
        pairs = [(r["freesurfer_id"], r[scheme] or "0", scheme) for r in _ROWS]
    elif Path(source).suffix.lower() in (".csv", ".tsv"):
        pairs = _read_pairs(Path(source))
    else:
        raise near_miss("label scheme (or .csv or .tsv path)", str(source), SCHEMES)
    mapping = {0: 0}
    for key, value, where in pairs:
        mapping[_index(key, where)] = _index(value, where)
    return mapping


def _read_pairs(path: Path) -> list[tuple[object, object, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot read the label mapping ({error}): give a CSV or TSV "
            "file whose first two columns are label value and class"
        ) from error
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    pairs: list[tuple[object, object, str]] = []
    for number, row in enumerate(csv.reader(text.splitlines(), delimiter=delimiter), 1):
        if not row or (number == 1 and not row[0].strip().isdigit()):
            continue
        if len(row) < 2:
            raise InputError(f"{path} line {number}: needs two columns, got {row}")
        pairs.append((row[0], row[1].strip() or "0", f"{path} line {number}"))
    if not pairs:
        raise InputError(f"{path}: holds no label mapping: give rows of value,class")
    return pairs


def _index(value: object, where: str) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = -1
    if number < 0:
        raise InputError(
            f"{where}: label values and classes must be integers >= 0, got {value!r}"
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
    if config.binarize == "nonzero":
        labels = labels > 0
    elif config.binarize == "ids":
        labels = np.isin(labels, config.binarize_ids)
    elif binarizer is not None:
        labels = _binary(binarizer(labels), labels.shape)
    top = int(labels.max())
    if top >= config.n_classes:
        raise InputError(
            f"label value {top} is not below n_classes={config.n_classes}: give "
            f"n_classes={top + 1} or more, or use .binarize() or .relabel()"
        )
    return labels.astype(np.min_scalar_type(config.n_classes - 1)), unknown


def _binary(result: object, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.asarray(result)
    if mask.shape != shape or not np.isin(mask, (0, 1)).all():
        raise InputError(
            "the function given to .binarize() must return one boolean per voxel, "
            f"got shape {mask.shape} of {mask.dtype}"
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


def binarize_ids(labels: Iterable[int]) -> tuple[int, ...]:
    """Check and sort the label values that `.binarize` turns into foreground."""
    ids = tuple(sorted({_index(label, "binarize") for label in labels}))
    if not ids:
        raise InputError("binarize: give at least one label value")
    return ids
