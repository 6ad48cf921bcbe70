"""The images that a generator learns from: heads in cubes, or tensors."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nobrainer.checks import check_positive
from nobrainer.data.prepared import Prepared
from nobrainer.data.windows import crop
from nobrainer.errors import InputError
from nobrainer.generators import RealImages
from nobrainer.generators.layers import halve
from nobrainer.memory import require_memory
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.progress import ProgressBar
from nobrainer.recipe import ImagesConfig, PreprocessConfig
from nobrainer.volume import Volume, conform

USUAL_RANGE = 0.1, 99.9
"""Percentiles between which the intensities of all images are kept."""
_FEWEST = 2


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """Images of one size, scaled for a generator.

    real: the images, -1 to 1 over their usual range.
    config: what they are.
    batch_size: number of them in a step.
    """

    real: RealImages
    config: ImagesConfig
    batch_size: int


def images_of_scans(
    dataset: Dataset,
    resolution: int,
    side_mm: float | None,
    bar: ProgressBar,
    like: ImagesConfig | None = None,
) -> TrainingImages:
    """Whole heads in cubes, with their labels where all scans have some.

    A cube lies around the middle of the labels, or of the scan where it has none.

    Args:
        dataset: the scans.
        resolution: voxels along each side of a cube.
        side_mm: length of a side; None takes the longest side of the largest scan.
        bar: shows how many scans are read.
        like: images whose range of intensities these get; None takes their own.

    Raises:
        InputError: some scans cannot be used, or there are fewer than two.
    """
    if side_mm is None:
        grids = [scan.geometry for scan in dataset.data]
        side_mm = max(max(np.multiply(g.shape, g.spacing_mm)) for g in grids)
    check_positive("side_mm", side_mm)
    has_labels = all(scan.label is not None for scan in dataset.data)
    n_classes = dataset.n_classes if has_labels else 0
    # Intensities and classes, as they are kept.
    n_bytes = len(dataset) * resolution**3 * (4 + 2 * has_labels)
    require_memory("the images of the training", n_bytes, "keep them")
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    bar.begin("reading", len(dataset))
    for number, scan in enumerate(dataset.iterate(), start=1):
        image, label = _cube(scan, resolution, side_mm / resolution)
        images.append(image)
        if label is not None:
            labels.append(label)
        bar.advance(number, len(dataset))
    stacked = torch.from_numpy(np.stack(images))[:, None]
    classes = None
    if has_labels:
        classes = torch.from_numpy(np.stack(labels).astype(np.int16))
    return _scaled(
        *(stacked, classes, n_classes, side_mm / resolution),
        *(dataset.batch_size, dataset.preprocess, like),
    )


def images_of_tensors(batches: Iterable[Any], resolution: int) -> TrainingImages:
    """The images of a loader, each batch of which is read once.

    Args:
        batches: tensors (B, 1, R, R, R), sequences that begin with one, or mappings
            with one called "image"; R is the resolution, or a power of two times it.
        resolution: voxels along each side of a generated image.

    Raises:
        InputError: a batch is anything else, or there are fewer than two images.
    """
    found = [_tensor_of(batch) for batch in batches]
    shapes = {tuple(tensor.shape[1:]) for tensor in found}
    if len(shapes) != 1:
        raise InputError(
            f"dataset_train gives images of {len(shapes)} shapes: give a loader of "
            "images (B, 1, R, R, R) of one size"
        )
    channels, *sides = shapes.pop()
    times = max(0, (sides[0] // resolution).bit_length() - 1)
    if channels != 1 or set(sides) != {resolution * 2**times}:
        raise InputError(
            f"dataset_train gives images of shape {(channels, *sides)}: give "
            f"{(1, *[resolution] * 3)}, the last resolution of the generator, or a "
            "power of two times as many voxels a side"
        )
    stacked = halve(torch.cat(found).float(), times)
    return _scaled(stacked, None, 0, 1.0, len(found[0]), None, None)


def _tensor_of(batch: Any) -> Tensor:
    """The images of a batch."""
    if isinstance(batch, dict):
        batch = batch.get("image")
    elif isinstance(batch, Sequence) and batch:
        batch = batch[0]
    if not isinstance(batch, Tensor) or batch.ndim != 5:
        shape = (
            tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
        )
        raise InputError(
            "dataset_train must give tensors (B, 1, R, R, R), tuples that begin with "
            f"one, or dicts with 'image', got {shape}"
        )
    return batch.detach().cpu()


def _cube(
    scan: Prepared, resolution: int, voxel_mm: float
) -> tuple[np.ndarray, np.ndarray | None]:
    """A head in a cube of voxels of one size, and its classes."""
    volume = Volume(scan.image, scan.affine, scan.name)
    spacing = (voxel_mm,) * 3
    image = conform(volume, "RAS", spacing).data
    label, shape = None, np.array(image.shape)
    middle = shape / 2
    if scan.label is not None:
        whole = replace(volume, data=scan.label)
        label = conform(whole, "RAS", spacing, labels=True).data
        inside = np.argwhere(label > 0)
        if len(inside):
            middle = (inside.min(0) + inside.max(0) + 1) / 2
    origin = np.round(middle - resolution / 2).astype(int)
    block = (resolution,) * 3
    cut = crop(image, origin, block, scan.background)
    return cut, None if label is None else crop(label, origin, block, 0)


def _scaled(
    images: Tensor,
    labels: Tensor | None,
    n_classes: int,
    voxel_mm: float,
    batch_size: int,
    preprocess: PreprocessConfig | None,
    like: ImagesConfig | None,
) -> TrainingImages:
    """Images (N, 1, R, R, R) with the usual range of their intensities as -1 to 1."""
    if len(images) < _FEWEST:
        raise InputError(
            f"dataset_train has {len(images)} image: a generator needs {_FEWEST} or "
            "more, and learns nothing from fewer than dozens"
        )
    if not bool(images.isfinite().all()):
        raise InputError("dataset_train has intensities that are not finite: check it")
    low, high = map(float, np.percentile(images.numpy(), USUAL_RANGE))
    if like is not None:
        low, high = like.low, like.high
    if math.isclose(low, high):
        raise InputError(f"dataset_train is constant, {low:g} nearly everywhere")
    scaled = ((images - low) * (2 / (high - low)) - 1).clamp(-1, 1)
    i, j, k = images.shape[2:]
    spacing = (float(voxel_mm),) * 3
    config = ImagesConfig(
        *((i, j, k), spacing, low, high, n_classes, len(images), preprocess)
    )
    return TrainingImages(RealImages(scaled, labels, n_classes), config, batch_size)
