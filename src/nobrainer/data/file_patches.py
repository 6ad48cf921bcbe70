"""Random patches of files as they are: of each patch its window alone is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nobrainer import io
from nobrainer.data.patches import (
    Binarize,
    PatchSampler,
    as_count,
    binarize_labels,
    check_binarize,
    check_block_shape,
)
from nobrainer.data.windows import Centres, clip_window, embed
from nobrainer.errors import InputError
from nobrainer.io.reading import round_labels
from nobrainer.recipe import DataConfig
from nobrainer.volume import Geometry

_SAME_MM = 1e-3


class Windows(Protocol):
    """What windows are read from; see `nobrainer.io.open_windows`."""

    @property
    def path(self) -> Path:
        """Where it lies on disk."""

    @property
    def geometry(self) -> Geometry:
        """Its grid, in mm."""

    def read(self, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """The values of a box, (i, j, k)."""


@dataclass(frozen=True, eq=False)
class FilePair:
    """A scan and its labels on one grid, of which windows are read.

    name: what messages call the scan.
    image, label: the two, unread.
    binarize: what of the labels becomes foreground, see `PatchDataset`.
    """

    name: str
    image: Windows
    label: Windows
    binarize: Binarize
    # Patches of files are neither made from a label map nor augmented.
    head = None
    floor = 0.0
    spread = 0.0

    @property
    def geometry(self) -> Geometry:
        """The grid of the files."""
        return self.image.geometry

    def cut(
        self, origin: np.ndarray, shape: Sequence[int] | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a window of image and label; see `Prepared.cut`.

        Args:
            origin: first voxel of the window, int (3,); it may lie outside the scan.
                What lies outside gets the smallest intensity of the window, label 0.
            shape: voxels of the window along each axis.

        Raises:
            InputError: a file cannot be read, or holds what is no number or no label.
        """
        start, stop = clip_window(origin, shape, self.geometry.shape)
        image = self.image.read(start, stop).astype(np.float32)
        if not np.isfinite(image).all():
            raise InputError(f"{self.name}: holds NaN or infinity: replace them by 0")
        values = self.label.read(start, stop)
        if values.dtype.kind == "f":
            values = round_labels(values, str(self.label.path), is_scaled=False)
        label = binarize_labels(values.astype(np.int32), self.binarize)
        fill = float(image.min())
        offset = start - origin
        return embed(image, offset, shape, fill), embed(label, offset, shape, 0)

    def list_centres(self, rng: np.random.Generator) -> Centres:
        """No voxels: to find those of a class, the whole scan would have to be read."""
        return Centres([], np.zeros(0))


class PatchDataset(PatchSampler):
    """Random patches of files, for a `DataLoader`; nothing is read but their windows.

    An item is `{"image": float32 (1, i, j, k), "label": int64 (i, j, k), "source":
    path of the scan}`. Intensities are those of the file, neither resampled nor
    normalised, and all places of a patch are equally likely. The patches are a function
    of the seed and the epoch: call `set_epoch` before each epoch for others.

    Args:
        data: for each scan a dict with the keys "image" and "label", paths on one grid:
            groups that `nobrainer.io.nifti_to_zarr` made, of which only the chunks are
            read that a patch meets; or .nii, .nii.gz, .mgz or .mgh files.
        block_shape: voxels of a patch along each axis. Where the scan is smaller, the
            patch is filled up.
        patches_per_volume: number of patches that an epoch takes of each scan.
        binarize: False keeps the label values; see `extract_patches` for all others.
        seed: seed of every random choice.

    Raises:
        InputError: there are no scans, a file cannot be read, image and label are on
            different grids, or a value is out of range.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        block_shape: Sequence[int] = (32, 32, 32),
        patches_per_volume: int = 10,
        binarize: Binarize = False,
        *,
        seed: int = 0,
    ) -> None:
        config = DataConfig(
            n_classes=2,
            block_shape=check_block_shape(block_shape),
            patches_per_volume=as_count("patches_per_volume", patches_per_volume, 1),
        )
        if not data:
            raise InputError("data: no scans: give dicts with image and label")
        chosen = check_binarize(binarize)
        super().__init__([_pair(entry, chosen) for entry in data], config, seed=seed)


def _pair(entry: Mapping[str, Any], binarize: Binarize) -> FilePair:
    if not isinstance(entry, Mapping) or {"image", "label"} - entry.keys():
        raise InputError(f"data: give dicts with image and label, got {entry!r}")
    image, label = (io.open_windows(Path(entry[key])) for key in ("image", "label"))
    one, other = image.geometry, label.geometry
    if one.shape != other.shape or not np.allclose(
        one.affine, other.affine, atol=_SAME_MM
    ):
        raise InputError(
            f"{label.path}: lies on another grid than {image.path}: resample it"
        )
    return FilePair(str(image.path), image, label, binarize)
