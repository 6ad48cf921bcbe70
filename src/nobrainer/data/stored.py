"""A scan in a store, ready for the network: voxels are read when they are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from nobrainer.data import zarr_store
from nobrainer.data.entries import Scan
from nobrainer.data.prepared import HeadMap, Preparation, Prepared
from nobrainer.data.targets import make_targets
from nobrainer.data.windows import VOXELS_PER_CLASS, Centres, clip_window, embed
from nobrainer.data.zarr_store.table import (
    MISSING,
    StoredScan,
    check_prepared_as,
    read_finished,
    take_split,
)
from nobrainer.errors import InputError, list_problems
from nobrainer.recipe import PreprocessConfig
from nobrainer.types import Shape3
from nobrainer.volume import Geometry


@dataclass(frozen=True, eq=False)
class Stored:
    """A scan that stays in its store, in place of `Prepared`.

    name: what messages call the scan.
    scan: the scan in its store.
    classes: class of each of the scan's label values, smallest unsigned type that fits.
    """

    name: str
    scan: StoredScan
    classes: np.ndarray

    @property
    def geometry(self) -> Geometry:
        """The working grid."""
        return self.scan.row.geometry

    @property
    def background(self) -> float:
        """Intensity that stands for what lies beyond the field of view."""
        return self.scan.row.background

    @property
    def floor(self) -> float:
        """Minimum of the image."""
        return self.scan.row.floor

    @property
    def spread(self) -> float:
        """Standard deviation of the image."""
        return self.scan.row.spread

    @property
    def head(self) -> HeadMap | None:
        """None: a store holds no label maps from which images are made."""
        return None

    def cut(
        self, origin: np.ndarray, shape: Sequence[int] | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a window of image and label; see `Prepared.cut`.

        Args:
            origin: first voxel of the window, int (3,); it may lie outside the scan.
            shape: voxels of the window along each axis.

        Raises:
            InputError: a file of the store is missing or damaged.
        """
        start, stop = clip_window(origin, shape, self.scan.row.shape)
        image, label = self._read_box(_three(start), _three(stop))
        offset = start - origin
        return embed(image, offset, shape, self.background), embed(
            label, offset, shape, 0
        )

    def list_centres(self, rng: np.random.Generator) -> Centres:
        """List voxels at which patches may be centred; see `Prepared.list_centres`.

        The list is read from the store class by class, each time that it is used.

        Args:
            rng: generator that chooses the voxels of a class that has many.
        """
        counts = self.count_voxels(int(self.classes.max()) + 1)
        counts[0] = 0
        present = np.flatnonzero(counts)
        shares = counts[present] / max(1, counts.sum())
        return Centres(_Listed(self, present, int(rng.integers(2**63))), shares)

    def count_voxels(self, n_classes: int) -> np.ndarray:
        """Count the voxels of each class, background among them: (n_classes,).

        The store's table knows the counts; no voxel is read.
        """
        counts = np.zeros(n_classes, np.int64)
        np.add.at(counts, self.classes, self.scan.row.label_voxels)
        return counts

    def read(self) -> Prepared:
        """Read the whole scan.

        Raises:
            InputError: a file of the store is missing or damaged.
        """
        row = self.scan.row
        image, label = self._read_box((0, 0, 0), self.geometry.shape)
        i, j, k = row.voxel_mm
        return Prepared(
            name=self.name,
            image=image,
            label=label,
            affine=self.geometry.affine,
            background=self.background,
            floor=self.floor,
            spread=self.spread,
            voxel_mm=(i, j, k),
        )

    def _read_box(self, start: Shape3, stop: Shape3) -> tuple[np.ndarray, np.ndarray]:
        row, reader = self.scan.row, self.scan.reader
        values = reader.read_labels(row, start, stop)
        label = self.classes[np.searchsorted(row.label_values, values)]
        return reader.read_image(row, start, stop), label


Ready: TypeAlias = Prepared | Stored
"""A scan that is ready for the network, in memory or in a store."""


class _Listed(Sequence[np.ndarray]):
    """The listed voxels of each class of a scan but background, as they are needed."""

    def __init__(self, stored: Stored, present: np.ndarray, seed: int) -> None:
        self._stored = stored
        self._present = present
        self._seed = seed

    def __len__(self) -> int:
        return len(self._present)

    def __getitem__(self, place: int) -> np.ndarray:  # type: ignore[override]
        row = self._stored.scan.row
        listed = self._stored.scan.reader.read_listed(row)
        members = np.flatnonzero(self._stored.classes == self._present[place])
        parts = [listed[member] for member in members]
        counts = np.array(row.label_voxels)[members]
        # Of every label value the same share of its voxels, so that none counts more.
        share = min(len(part) / n for part, n in zip(parts, counts, strict=True))
        share = min(share, VOXELS_PER_CLASS / counts.sum())
        if share == 1:
            return np.sort(np.concatenate(parts))
        rng = np.random.default_rng([self._seed, place])
        return np.concatenate(
            [
                rng.choice(part, max(1, round(share * n)), replace=False)
                for part, n in zip(parts, counts, strict=True)
            ]
        )


def prepare_stored(
    scan: StoredScan, name: str, preparation: Preparation
) -> tuple[Stored, dict[int, int]]:
    """Make a scan of a store ready for the network.

    Args:
        scan: the scan in its store.
        name: what messages call it.
        preparation: how it should be prepared.

    Returns:
        The scan, and for each label value that `config.relabel` does not know its
        number of voxels.

    Raises:
        InputError: the scan was prepared in another way, or its label values cannot
            become classes.
    """
    check_prepared_as(scan.store, scan.preprocess, preparation.preprocess)
    values = np.array(scan.row.label_values).reshape(-1, 1, 1)
    try:
        classes, unknown = make_targets(
            values, preparation.config, preparation.binarizer
        )
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    counts = dict(zip(scan.row.label_values, scan.row.label_voxels, strict=True))
    return (
        Stored(name, scan, classes.ravel()),
        {value: counts[value] for value in unknown},
    )


def list_stored(
    store: Path, split: str | None
) -> tuple[tuple[Scan, ...], PreprocessConfig]:
    """The scans of a store, as those of a dataset.

    Args:
        store: path of the store.
        split: takes the scans of this split alone; None takes all.

    Returns:
        The scans in the order of the store, and how they were prepared.

    Raises:
        InputError: there is no finished store, files of it are missing, or it has no
            scan in that split.
    """
    arrays = zarr_store.Arrays.open(store)
    chosen = take_split(store, read_finished(store), split)
    gone = [(row.scan, arrays.missing(row)) for row in chosen]
    problems = [(str(path), f"of scan {who}, {MISSING}") for who, path in gone if path]
    if problems:
        raise InputError(list_problems(problems))
    scans = []
    for row in chosen:
        one = StoredScan(store, arrays.preprocess, row, arrays)
        scans.append(
            Scan(
                *(one, one, row.scan, row.scan, row.subject),
                session=row.session,
                split=row.split,
            )
        )
    return tuple(scans), arrays.preprocess


def find_spacing(store: Path) -> tuple[float, float, float] | None:
    """The voxel size in mm of the scans in a store, None where there is none."""
    if not (store / "zarr.json").exists():
        return None
    return zarr_store.Arrays.open(store).preprocess.spacing_mm


def _three(numbers: np.ndarray) -> Shape3:
    i, j, k = numbers.tolist()
    return i, j, k
