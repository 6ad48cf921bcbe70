"""The table of a store: a row for each scan, with all that is known without voxels."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Protocol

import numpy as np

from nobrainer.data.table import read_cells
from nobrainer.errors import InputError
from nobrainer.io import write_text
from nobrainer.json_records import Json, build_record, parse_json, since, to_json
from nobrainer.recipe import PreprocessConfig
from nobrainer.types import Shape3
from nobrainer.volume import Geometry

FORMAT_VERSION = 2
"""Version of the layout of a store."""
TABLE = "scans.tsv"
"""Name of the table in a finished store."""

FILL = -(2**15)
"""What the array of images holds where there is no scan; of a scan, its minimum."""
LISTED = 2**15
"""The most voxels of a scan that are listed by their label."""
MISSING = "is missing: convert the same scans into the store again"
"""What is wrong with a file that a store should have."""
DAMAGED = "is damaged: remove it, and convert the same scans into the store again"
"""What is wrong with a file that is not as it was written."""

_NOTHING = "n/a"


@dataclass(frozen=True)
class SourceFile:
    """The file that a volume was made from.

    name: its name below the folder that all files had in common.
    sha256: its checksum.
    size_bytes, mtime_ns: its size, and when it was last changed.
    """

    name: str
    sha256: str
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class ScanRow:
    """What a store knows of one scan.

    scan: its name; no other scan of the store has it.
    subject: the person in the scan, None where nobody is named.
    session: when the person was scanned, None where it is not known.
    split: the part of the data that it belongs to, such as "train"; None for none.
    index: its place along the first axis of the arrays.
    shape: its voxels along R, A, S. The arrays may be larger.
    affine: the 16 numbers, row by row, from voxels to RAS mm.
    voxel_mm: voxel size of its file in mm, along the file's own axes.
    slope, intercept: from the stored integers to intensities.
    rounding: the largest difference that storing intensities as integers made, as a
        share of their usual range, see `usual_range` in `nobrainer.data.convert`.
    background: intensity that stands for what lies beyond the field of view.
    floor, spread: minimum and standard deviation of the intensities.
    label_values: the label values that it has, in ascending order.
    label_voxels: how many voxels have each of them.
    listed: how many voxels of each are listed in the array `voxels`.
    is_synthetic: whether its file says that nobody was scanned.
    image, label: the files that it was made from.
    checksums: the SHA-256 of each of its files in the store, by their paths there;
        empty where an earlier nobrainer wrote it.
    """

    scan: str
    subject: str | None
    session: str | None
    split: str | None
    index: int
    shape: tuple[int, ...]
    affine: tuple[float, ...]
    voxel_mm: tuple[float, ...]
    slope: float
    intercept: float
    rounding: float
    background: float
    floor: float
    spread: float
    label_values: tuple[int, ...]
    label_voxels: tuple[int, ...]
    listed: tuple[int, ...]
    is_synthetic: bool
    image: SourceFile
    label: SourceFile
    checksums: dict[str, str] = field(default_factory=dict, metadata=since(2))

    def __post_init__(self) -> None:
        n_values = {len(self.label_values), len(self.label_voxels), len(self.listed)}
        lengths = len(self.shape), len(self.affine), len(self.voxel_mm), len(n_values)
        if lengths != (3, 16, 3, 1):
            raise InputError(f"{self.scan}: its row is not whole: convert it again")

    @property
    def geometry(self) -> Geometry:
        """Its grid."""
        i, j, k = self.shape
        return Geometry((i, j, k), np.reshape(self.affine, (4, 4)))

    def to_json(self) -> str:
        """The row as JSON; `from_json` gives back an equal one."""
        return to_json(asdict(self))

    @classmethod
    def from_json(cls, text: str, where: str) -> "ScanRow":
        """Read what `to_json` wrote.

        Args:
            text: the text.
            where: name of the file, for messages.

        Raises:
            InputError: the text is anything else.
        """
        return build_record(cls, parse_json(text, where), where)


class VoxelReader(Protocol):
    """Reads the voxels of scans in a store."""

    def read_image(self, row: ScanRow, start: Shape3, stop: Shape3) -> np.ndarray:
        """Intensities of a box of a scan, float32 (i, j, k), C-contiguous.

        Args:
            row: the scan.
            start, stop: first voxel of the box along R, A, S, and the one after the
                last.
        """

    def read_labels(self, row: ScanRow, start: Shape3, stop: Shape3) -> np.ndarray:
        """Label values of a box of a scan, int32 (i, j, k), C-contiguous."""

    def read_listed(self, row: ScanRow) -> list[np.ndarray]:
        """Flat indices of listed voxels, an array for each of `row.label_values`."""


@dataclass(frozen=True, eq=False)
class StoredScan:
    """A scan in a store.

    store: path of the store.
    preprocess: how its scans were prepared.
    row: what is known of the scan.
    reader: reads its voxels.
    """

    store: Path
    preprocess: PreprocessConfig
    row: ScanRow
    reader: VoxelReader


def check_prepared_as(
    store: Path, is_so: PreprocessConfig, wanted: PreprocessConfig
) -> None:
    """Check that the scans of a store were prepared in a certain way.

    Args:
        store: path of the store.
        is_so: how they were prepared.
        wanted: how they should have been prepared.

    Raises:
        InputError: they were prepared in another way; the differences are named.
    """
    pairs = zip(asdict(is_so).items(), asdict(wanted).values(), strict=True)
    there = [f"{name} {one}, not {new}" for (name, one), new in pairs if one != new]
    if there:
        raise InputError(
            f"{store}: its scans were prepared with {' and '.join(there)}: ask for "
            "nothing else, or convert the scans into another store"
        )


def write_table(rows: Iterable[ScanRow], path: Path) -> None:
    """Write the table of a store, whole or not at all.

    Args:
        rows: the scans.
        path: path of the file, which is replaced.

    Raises:
        InputError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in sorted(rows, key=lambda row: row.index):
        writer.writerow([_to_cell(value) for value in _flat(row)])
    write_text(text.getvalue(), path, overwrite=True)


def read_finished(store: Path) -> list[ScanRow]:
    """Read the table of a store that is finished.

    Args:
        store: path of the store.

    Raises:
        InputError: it is not finished, or the table is damaged.
    """
    if not (store / TABLE).exists():
        raise InputError(
            f"{store}: is not finished: convert the same scans into it again, which "
            "goes on where it stopped"
        )
    return read_rows(store / TABLE)


def take_split(
    store: Path, rows: Sequence[ScanRow], split: str | None
) -> list[ScanRow]:
    """The scans of a store that belong to a part of the data.

    Args:
        store: path of the store, for the message.
        rows: its scans.
        split: takes those of this split alone; None takes all.

    Raises:
        InputError: there is none.
    """
    chosen = [row for row in rows if split is None or row.split == split]
    if not chosen:
        known = sorted({row.split for row in rows if row.split is not None})
        raise InputError(
            f"{store}: has no scan in the split {split!r}: its splits are "
            f"{', '.join(known) or 'not given'}"
        )
    return chosen


def read_rows(path: Path) -> list[ScanRow]:
    """Read the table of a store.

    Args:
        path: path of the file.

    Raises:
        InputError: it cannot be read, or is not what `write_table` wrote.
    """
    lines = read_cells(path, ", ".join(_COLUMNS))
    _, header = next(lines, (1, []))
    if tuple(header) not in (_COLUMNS, _COLUMNS_1):
        raise InputError(f"{path}: its columns are not {', '.join(_COLUMNS)}")
    rows = []
    for number, cells in lines:
        where = f"{path} line {number}"
        if len(cells) != len(header):
            raise InputError(f"{where}: has {len(cells)} cells, not {len(header)}")
        raw: dict[str, Json] = {}
        files: dict[str, dict[str, Json]] = {name: {} for name in _FILES}
        for column, cell in zip(header, cells, strict=True):
            whole, _, part = column.partition("_")
            if column in _OF_FILES:
                files[whole][part] = _from_cell(cell, part in _TEXTS, where)
            else:
                raw[column] = _from_cell(cell, column in _TEXTS, where)
        rows.append(build_record(ScanRow, raw | files, where))
    return rows


_FILES = ("image", "label")
_TEXTS = {"scan", "subject", "session", "split", "name", "sha256"}
_OF_FILES = [f"{kind}_{f.name}" for kind in _FILES for f in fields(SourceFile)]
_COLUMNS = (*(f.name for f in fields(ScanRow) if f.name not in _FILES), *_OF_FILES)

_COLUMNS_1 = tuple(column for column in _COLUMNS if column != "checksums")
"""Those of format version 1."""


def _flat(row: ScanRow) -> list[object]:
    """The cells of a row, in the order of the columns."""
    values = asdict(row)
    files: Sequence[dict[str, object]] = [values.pop(kind) for kind in _FILES]
    return [*values.values(), *(value for file in files for value in file.values())]


def _to_cell(value: object) -> str:
    if value is None:
        return _NOTHING
    return value if isinstance(value, str) else json.dumps(value)


def _from_cell(cell: str, is_text: bool, where: str) -> Json:
    if is_text:
        return None if cell == _NOTHING else cell
    return parse_json(cell, where)
