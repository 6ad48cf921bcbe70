"""From files to prepared volumes to random patches."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from nobrainer.data.augment import Augmentation
from nobrainer.data.labels import Binarizer, make_targets
from nobrainer.data.preprocess import (
    background_value,
    preprocess_image,
    preprocess_labels,
)
from nobrainer.data.synthesis import Anatomy, is_outside, synthesise
from nobrainer.errors import InputError
from nobrainer.io import ImageSource, read_image, read_labels
from nobrainer.recipe import DataConfig, PreprocessConfig
from nobrainer.types import Shape3
from nobrainer.volume import Geometry, Volume

_VOXELS_PER_CLASS = 5000


@dataclass(frozen=True)
class Scan:
    """One scan and its labels (None: unlabelled), as given.

    name: what messages call it: the path, where there is one.
    shown: what tables and pages call it: a name that no other scan of the call has.
    subject: whom it shows; None where neither path nor table says it.
    is_map: there is no image of it, images are made from the labels; see
        `nobrainer.data.synthesis`.
    """

    image: ImageSource
    label: ImageSource | None
    name: str
    shown: str = ""
    subject: str | None = None
    is_map: bool = False

    @property
    def paths(self) -> tuple[Path, Path | None] | None:
        """The files of the image and label, None where one is not a file.

        A label map of which images are made stands for both.
        """
        if not isinstance(self.image, str | PathLike):
            return None
        if self.label is None or self.is_map:
            return Path(self.image), None
        if not isinstance(self.label, str | PathLike):
            return None
        return Path(self.image), Path(self.label)


@dataclass(frozen=True, eq=False)
class HeadMap:
    """A label map on the working grid, of which images are made.

    `positions`: in `anatomy`, (I, J, K), smallest unsigned type.
    """

    positions: np.ndarray
    anatomy: Anatomy

    @property
    def classes(self) -> np.ndarray:
        """Classes (I, J, K), where nothing was deformed."""
        classes = np.array(self.anatomy.classes)
        return classes.astype(np.min_scalar_type(classes.max()))[self.positions]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan on the working grid, ready for the network.

    `image`: float32 (I, J, K). `label`: classes (I, J, K), smallest unsigned type, or
    None. `affine`: voxel to world (RAS mm). `background`: what lies beyond the field of
    view. `floor` and `spread`: minimum and standard deviation of the image. `voxel_mm`:
    voxel sizes of the file, on its own axes. `head`: where images are made from a label
    map; `image` and `label` are then one image of it, always the same.
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

    @property
    def geometry(self) -> Geometry:
        """The working grid."""
        i, j, k = self.image.shape
        return Geometry((i, j, k), self.affine)


def prepare_scan(
    scan: Scan,
    preprocess: PreprocessConfig,
    config: DataConfig,
    binarizer: Binarizer | None,
) -> tuple[Prepared, dict[int, int]]:
    """Read, check and preprocess one scan.

    Returns:
        The prepared scan, and the voxel counts of label values that
        `config.relabel` does not know.

    Raises:
        InputError: whatever is wrong with the files, or image and labels that do
            not fit together.
    """
    if scan.is_map:
        return _prepare_map(scan, preprocess, config, binarizer)
    volume = read_image(scan.image)
    label = None
    unknown: dict[int, int] = {}
    if scan.label is not None:
        labels = read_labels(scan.label)
        _check_same_grid(volume, labels)
        try:
            classes, unknown = make_targets(labels.data, config, binarizer)
        except InputError as error:
            raise InputError(f"{labels.source}: {error}") from error
        native = replace(labels, data=classes, affine=volume.affine)
        label = preprocess_labels(native, preprocess).data
    image = preprocess_image(volume, preprocess)
    return _prepared(scan, image, label, volume), unknown


def _prepared(
    scan: Scan,
    image: Volume,
    label: np.ndarray | None,
    native: Volume,
    head: HeadMap | None = None,
) -> Prepared:
    return Prepared(
        name=scan.name,
        image=image.data,
        label=label,
        affine=image.affine,
        background=background_value(image.data),
        floor=float(image.data.min()),
        spread=float(image.data.std(dtype=np.float64)),
        voxel_mm=native.geometry.spacing_mm,
        head=head,
    )


def _prepare_map(
    scan: Scan,
    preprocess: PreprocessConfig,
    config: DataConfig,
    binarizer: Binarizer | None,
) -> tuple[Prepared, dict[int, int]]:
    """Read a label map, and make one image of it to look at and to judge by.

    The map itself is the seed of this image. See `prepare_scan`.
    """
    if preprocess.normalize != "zscore":
        raise InputError(
            f"{scan.name}: images of label maps are normalised by zscore, not by "
            f"{preprocess.normalize}: leave out normalize"
        )
    assert scan.label is not None and config.synthesis is not None
    labels = read_labels(scan.label)
    values, counts = np.unique(labels.data, return_counts=True)
    pairs = config.synthesis.pairs
    # With the values of partners, which flipped images have.
    known = np.array(Anatomy.of(values.tolist(), {}, pairs).values)
    try:
        classes, unknown = make_targets(known, config, binarizer)
    except InputError as error:
        raise InputError(f"{labels.source}: {error}") from error
    of_value = dict(zip(known.tolist(), classes.tolist(), strict=True))
    anatomy = Anatomy.of(values.tolist(), of_value, pairs)
    told = {value for pair in pairs for value in pair}
    sideless = [value for value in anatomy.nameless if value not in told]
    if sideless and config.synthesis.flip and config.n_classes > 2:
        raise InputError(
            f"{labels.source}: label value {sideless[0]} has no name that tells its "
            "side, so that it cannot be flipped: give Synthesis(pairs=((left, right), "
            "...)), a value on the midline as a pair with itself, or flip=0"
        )
    positions = anatomy.positions(labels.data)
    grid = preprocess_labels(replace(labels, data=positions), preprocess)
    head = HeadMap(grid.data, anatomy)
    drawn = synthesise(
        torch.from_numpy(head.positions)[None],
        anatomy,
        config.synthesis,
        [zlib.crc32(head.positions.tobytes())],
        spacing_mm=grid.geometry.spacing_mm,
    )
    image = preprocess_image(replace(grid, data=drawn.image[0, 0].numpy()), preprocess)
    label = drawn.label[0].numpy().astype(np.min_scalar_type(config.n_classes - 1))
    present = dict(zip(values.tolist(), counts.tolist(), strict=True))
    # What lies around the brain is there to be drawn, not to be found.
    missed = {
        value: present[value]
        for value in unknown
        if value in present and not is_outside(value)
    }
    return _prepared(scan, image, label, labels, head), missed


def _check_same_grid(image: Volume, labels: Volume) -> None:
    if image.data.shape != labels.data.shape:
        raise InputError(
            f"{labels.source}: shape {labels.data.shape} differs from "
            f"{image.data.shape} of its image {image.source}: give labels on the "
            "image's grid"
        )
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(image.data.shape) - 1)
    gap = corners @ (image.affine - labels.affine)[:3, :3].T
    gap += (image.affine - labels.affine)[:3, 3]
    gap_mm = float(np.linalg.norm(gap, axis=1).max())
    # Files keep affines in single precision; a tenth of a voxel is far above that.
    if gap_mm > 0.1 * min(image.geometry.spacing_mm):
        raise InputError(
            f"{labels.source}: its affine puts voxels up to {gap_mm:.3g} mm away from "
            f"those of its image {image.source}: give labels on the image's grid"
        )


def index_voxels(label: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Flat indices of at most 5000 random voxels of each class present but 0."""
    flat = label.ravel()
    foreground = np.flatnonzero(flat)
    order = np.argsort(flat[foreground], kind="stable")
    classes = flat[foreground][order]
    starts = np.flatnonzero(np.diff(classes)) + 1
    return [
        rng.choice(voxels, _VOXELS_PER_CLASS, replace=False)
        if len(voxels) > _VOXELS_PER_CLASS
        else voxels
        for voxels in np.split(foreground[order], starts)
        if len(voxels)
    ]


def draw_origin(
    shape: Sequence[int],
    block_shape: Shape3,
    voxels: Sequence[np.ndarray],
    foreground: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw where a patch begins.

    With probability `foreground` the patch is centred, but for a jitter of a quarter
    of its size, on a voxel of a class drawn uniformly from those in `voxels` (of
    `index_voxels`); else its place is uniform. Where the volume is smaller than the
    block, the origin is negative and the patch holds the whole volume.

    Returns:
        First voxel of the patch, int (3,).
    """
    block = np.array(block_shape)
    slack = np.array(shape) - block
    lowest, highest = np.minimum(slack, 0), np.maximum(slack, 0)
    if not voxels or rng.random() >= foreground:
        return rng.integers(lowest, highest, endpoint=True)
    members = voxels[int(rng.integers(len(voxels)))]
    centre = np.unravel_index(members[rng.integers(len(members))], tuple(shape))
    jitter = rng.integers(-(block // 4), block // 4, endpoint=True)
    return np.clip(np.array(centre) - block // 2 + jitter, lowest, highest)


def crop(
    array: np.ndarray, origin: np.ndarray, shape: Sequence[int], fill: float
) -> np.ndarray:
    """A copy of the window at `origin`; what lies outside the array is `fill`."""
    start = np.maximum(origin, 0)
    stop = np.minimum(origin + np.array(shape), array.shape)
    inside = array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    if inside.shape == tuple(shape):
        return np.array(inside)
    window = np.full(shape, fill, dtype=array.dtype)
    offset = start - origin
    window[
        tuple(slice(a, a + n) for a, n in zip(offset, inside.shape, strict=True))
    ] = inside
    return window


class PatchSampler(Dataset[dict[str, Any]]):
    """An epoch of random patches; each is a function of (seed, epoch, index) alone.

    Args:
        volumes: prepared scans, all with labels.
        config: block shape, patches per volume, foreground share, shuffle, augment,
            and synthesis and map_share where there are label maps.
        seed: seed of every random choice.

    An item is `{"image": float32 (1, i, j, k), "label": int64 (i, j, k), "source":
    name of the scan}`. Volumes take turns; `config.shuffle` draws the order of
    each round. Where label maps and scans are mixed, each patch draws its volume. Of a
    label map each patch is of an image of its own, which `augment` leaves as it is.
    """

    def __init__(
        self, volumes: Sequence[Prepared], config: DataConfig, *, seed: int
    ) -> None:
        self.volumes = list(volumes)
        self.config = config
        self.seed = seed
        self.epoch = 0
        self.augmentation = Augmentation.build(config.augment, config.block_shape)
        self._voxels = [
            index_voxels(
                volume.head.classes if volume.head else _labels_of(volume),
                np.random.default_rng([seed, number]),
            )
            for number, volume in enumerate(self.volumes)
        ]
        self._maps = [n for n, volume in enumerate(self.volumes) if volume.head]
        self._scans = [n for n, volume in enumerate(self.volumes) if not volume.head]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose patches the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.volumes) * self.config.patches_per_volume

    def __getitem__(self, index: int) -> dict[str, Any]:
        # IndexError ends a plain `for item in sampler`.
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, self.epoch, index])
        number = self._volume_at(index)
        volume = self.volumes[number]
        block = self.config.block_shape
        origin = draw_origin(
            volume.image.shape,
            block,
            self._voxels[number],
            self.config.foreground,
            rng,
        )
        if volume.head is not None:
            return self._synthesised(volume, volume.head, origin, rng)
        margin = np.array(self.augmentation.margin if self.augmentation else (0, 0, 0))
        window = tuple(np.array(block) + 2 * margin)
        image = crop(volume.image, origin - margin, window, volume.background)
        label = crop(_labels_of(volume), origin - margin, window, 0)
        image_patch = torch.from_numpy(image)[None]
        label_patch = torch.from_numpy(label)
        if self.augmentation:
            image_patch, label_patch = self.augmentation.apply(
                image_patch,
                label_patch,
                floor=volume.floor,
                spread=volume.spread,
                seed=int(rng.integers(2**32)),
            )
        return {
            "image": image_patch,
            "label": label_patch.long(),
            "source": volume.name,
        }

    def _synthesised(
        self,
        volume: Prepared,
        head: HeadMap,
        origin: np.ndarray,
        rng: np.random.Generator,
    ) -> dict[str, Any]:
        """A patch of an image that nobody has seen before."""
        assert self.config.synthesis is not None
        drawn = synthesise(
            torch.from_numpy(head.positions)[None],
            head.anatomy,
            self.config.synthesis,
            [int(rng.integers(2**63))],
            spacing_mm=volume.geometry.spacing_mm,
            block_shape=self.config.block_shape,
            origins=torch.from_numpy(origin)[None],
        )
        return {
            "image": drawn.normalised[0],
            "label": drawn.label[0],
            "source": volume.name,
        }

    def _volume_at(self, index: int) -> int:
        if self.config.map_share is not None and self._maps and self._scans:
            # A fourth number keeps this stream apart from those of the items.
            rng = np.random.default_rng([self.seed, self.epoch, index, 2])
            is_map = rng.random() < self.config.map_share
            return int(rng.choice(self._maps if is_map else self._scans))
        turn, place = divmod(index, len(self.volumes))
        if not self.config.shuffle:
            return place
        # A fourth number keeps this stream apart from those of the items.
        rng = np.random.default_rng([self.seed, self.epoch, turn, 1])
        return int(rng.permutation(len(self.volumes))[place])


def _labels_of(volume: Prepared) -> np.ndarray:
    if volume.label is None:
        raise InputError(f"{volume.name}: has no labels: give (image, label) pairs")
    return volume.label
