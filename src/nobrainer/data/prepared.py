"""Scans on the working grid, ready for the network, and how they become so."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nobrainer.data.preprocess import (
    background_value,
    preprocess_image,
    preprocess_labels,
)
from nobrainer.data.synthesis import Anatomy, count_values
from nobrainer.data.targets import Binarizer
from nobrainer.data.windows import Centres, index_voxels, view_window
from nobrainer.errors import InputError
from nobrainer.recipe import DataConfig, PreprocessConfig
from nobrainer.volume import Geometry, Volume


@dataclass(frozen=True, eq=False)
class HeadMap:
    """A label map on the working grid, from which images are made.

    positions: position in `anatomy` of each voxel's label value, (I, J, K), smallest
        unsigned type that fits.
    anatomy: what the label values stand for.
    """

    positions: np.ndarray
    anatomy: Anatomy

    @property
    def classes(self) -> np.ndarray:
        """Class of each voxel (I, J, K) before the head is deformed."""
        classes = np.array(self.anatomy.classes)
        return classes.astype(np.min_scalar_type(classes.max()))[self.positions]

    @cached_property
    def counts(self) -> Tensor:
        """How often each label value occurs, (1, values), see `count_values`."""
        return count_values(
            torch.from_numpy(self.positions)[None], len(self.anatomy.values)
        )


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan on the working grid, ready for the network.

    name: what messages call the scan.
    image: normalised intensities, float32 (I, J, K).
    label: class of each voxel, (I, J, K), smallest unsigned type that fits; None where
        the scan has no labels.
    affine: (4, 4), from voxels to world coordinates (RAS, mm).
    background: intensity that stands for what lies beyond the field of view.
    floor, spread: minimum and standard deviation of the image.
    voxel_mm: voxel size of the file in mm, along the file's own axes; of an image that
        is drawn from a label map that of the scan that it imitates.
    head: the label map, where images are made from one; `image` and `label` are then
        one image made from it, always the same one.
    """

    name: str
    image: np.ndarray
    label: np.ndarray | None
    affine: np.ndarray
    background: float
    floor: float
    spread: float
    voxel_mm: tuple[float, float, float]
    head: HeadMap | None = None

    @cached_property
    def geometry(self) -> Geometry:
        """The working grid."""
        i, j, k = self.image.shape
        return Geometry((i, j, k), self.affine)

    @property
    def n_bytes(self) -> int:
        """Memory of the image and its label in bytes."""
        return self.image.nbytes + (0 if self.label is None else self.label.nbytes)

    def cut(
        self, origin: np.ndarray, shape: Sequence[int] | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """A window of image and label, not to be changed; see `view_window`.

        Args:
            origin: first voxel of the window, int (3,); it may lie outside the scan.
            shape: voxels of the window along each axis.

        Raises:
            InputError: the scan has no labels.
        """
        image = view_window(self.image, origin, shape, self.background)
        return image, view_window(self._labels, origin, shape, 0)

    def list_centres(self, rng: np.random.Generator) -> Centres:
        """List voxels at which patches may be centred; see `index_voxels`.

        Args:
            rng: generator that chooses the voxels of a class that has many.

        Raises:
            InputError: the scan has no labels.
        """
        return index_voxels(self.head.classes if self.head else self._labels, rng)

    def count_voxels(self, n_classes: int) -> np.ndarray:
        """Count the voxels of each class, background among them: (n_classes,).

        Of a label map those of the map count, not those of the one image that is made
        of it.

        Raises:
            InputError: the scan has no labels.
        """
        label = self._labels if self.head is None else self.head.classes
        return np.bincount(label.ravel(), minlength=n_classes)

    def read(self) -> "Prepared":
        """This scan, whose voxels are in memory already."""
        return self

    @property
    def _labels(self) -> np.ndarray:
        if self.label is None:
            raise InputError(f"{self.name}: has no labels: give (image, label) pairs")
        return self.label


@dataclass(frozen=True, eq=False)
class RawScan:
    """A scan as it comes from its files, or an image as it is drawn from a label map.

    name: what messages call the scan.
    image: intensities before any preprocessing.
    label: class of each voxel, on the grid of the image; None without labels.
    voxel_mm: voxel size of the file in mm, along the file's own axes; of an image that
        is drawn from a label map that of the scan that it imitates.
    head: the label map, where the image is drawn from one.
    """

    name: str
    image: Volume
    label: Volume | None
    voxel_mm: tuple[float, float, float]
    head: HeadMap | None = None

    def prepare(self, preprocess: PreprocessConfig) -> Prepared:
        """Bring the scan onto the working grid and normalise it.

        Raises:
            InputError: it cannot be brought there, see `preprocess_image`.
        """
        label = None
        if self.label is not None:
            label = preprocess_labels(self.label, preprocess).data
        image = preprocess_image(self.image, preprocess)
        return Prepared(
            name=self.name,
            image=image.data,
            label=label,
            affine=image.affine,
            background=background_value(image.data),
            floor=float(image.data.min()),
            spread=float(image.data.std(dtype=np.float64)),
            voxel_mm=self.voxel_mm,
            head=self.head,
        )


@dataclass(frozen=True, eq=False)
class Preparation:
    """How scans are prepared.

    preprocess: orientation, voxel size and normalisation of the working grid.
    config: how label values become classes, and how images are made of maps.
    binarizer: the function that `Dataset.binarize` was given, None without one.
    """

    preprocess: PreprocessConfig
    config: DataConfig
    binarizer: Binarizer | None = None
