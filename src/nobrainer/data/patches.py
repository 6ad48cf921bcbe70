"""Random patches of prepared scans."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol, TypeGuard

import numpy as np
import torch
from torch.utils.data import Dataset

from nobrainer.data.augment import Augmentation
from nobrainer.data.loading import PatchLoader
from nobrainer.data.prepared import HeadMap
from nobrainer.data.synthesis import synthesise
from nobrainer.data.targets import Binarizer, find_foreground, foreground_values
from nobrainer.data.windows import Centres, crop, index_voxels
from nobrainer.errors import InputError
from nobrainer.recipe import DataConfig
from nobrainer.types import Shape3
from nobrainer.volume import Geometry


def is_count(value: object, least: int) -> TypeGuard[int]:
    """Whether a value is an integer of Python or NumPy, at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return False
    return int(value) >= least


def as_count(name: str, value: object, least: int) -> int:
    """A value as an integer of Python; `InputError` where it is none, or too small.

    Args:
        name: what the message calls the value.
        value: what the user gave.
        least: the smallest allowed number.
    """
    if not is_count(value, least):
        raise InputError(f"{name} must be an integer >= {least}, got {value!r}")
    return int(value)


def check_block_shape(shape: Sequence[int]) -> Shape3:
    """The shape of a patch in voxels, as three integers of Python.

    Raises:
        InputError: the shape is not three positive integers.
    """
    sizes = tuple(shape) if isinstance(shape, Iterable) else (shape,)
    if len(sizes) != 3 or not all(is_count(size, 1) for size in sizes):
        raise InputError(f"block_shape must be three positive integers, got {shape!r}")
    return int(sizes[0]), int(sizes[1]), int(sizes[2])


def draw_origin(
    shape: Sequence[int],
    block_shape: Shape3,
    centres: Centres,
    foreground: float,
    balanced: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw where a patch begins.

    Some patches are centred near a voxel of a class, up to a quarter of the block's
    size away from it. For a share of these the class is drawn uniformly from those
    that occur; for the others each voxel of any class is equally likely, so that large
    classes come more often. The place of all other patches is uniform. Where the volume
    is smaller than the block, the origin is negative, so that the patch holds the whole
    volume.

    Args:
        shape: voxels of the volume along each axis.
        block_shape: voxels of the patch along each axis.
        centres: what `index_voxels` lists.
        foreground: probability of a patch near a voxel of a class, 0 to 1.
        balanced: share of these patches whose class is drawn uniformly, 0 to 1.
        rng: generator of the random draws.

    Returns:
        First voxel of the patch, int (3,).
    """
    block = np.array(block_shape)
    slack = np.array(shape) - block
    lowest, highest = np.minimum(slack, 0), np.maximum(slack, 0)
    n_classes = len(centres.voxels)
    if not n_classes or rng.random() >= foreground:
        return rng.integers(lowest, highest, endpoint=True)
    # No number is drawn where the answer is known: older recipes keep their patches.
    if balanced == 1 or rng.random() < balanced:
        members = centres.voxels[int(rng.integers(n_classes))]
    else:
        members = centres.voxels[int(rng.choice(n_classes, p=centres.shares))]
    centre = np.unravel_index(members[rng.integers(len(members))], tuple(shape))
    jitter = rng.integers(-(block // 4), block // 4, endpoint=True)
    return np.clip(np.array(centre) - block // 2 + jitter, lowest, highest)


class Cuttable(Protocol):
    """What patches are cut from: `Prepared`, `Stored`, or files as they are."""

    @property
    def name(self) -> str:
        """What messages call the scan."""

    @property
    def geometry(self) -> Geometry:
        """The grid from which patches are cut."""

    @property
    def floor(self) -> float:
        """Minimum of the image; it and the spread are for augmentation."""

    @property
    def spread(self) -> float:
        """Standard deviation of the image."""

    @property
    def head(self) -> HeadMap | None:
        """The label map, where images are made from one."""

    def cut(
        self, origin: np.ndarray, shape: Sequence[int] | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """A window of image and label; see `Prepared.cut`."""

    def list_centres(self, rng: np.random.Generator) -> Centres:
        """Voxels at which patches may be centred; see `Prepared.list_centres`."""


class PatchSampler(Dataset[dict[str, Any]]):
    """An epoch of random patches, each a function of (seed, epoch, index) alone.

    An item is `{"image": float32 (1, i, j, k), "label": int64 (i, j, k), "source":
    name of the scan}`.

    Volumes take turns; with `config.shuffle` the order is drawn anew in each round.
    Where label maps and scans are mixed, each patch draws its volume. A patch of a
    label map comes from an image that is made for this patch alone; augmentation
    leaves it as it is.

    Args:
        volumes: scans that are ready for the network, all with labels.
        config: block shape, batch size, patches per volume, where patches lie, order
            and augmentation; for label maps also `synthesis` and `map_share`.
        seed: seed of every random choice.

    Raises:
        InputError: a scan has no labels.
    """

    def __init__(
        self, volumes: Sequence[Cuttable], config: DataConfig, *, seed: int
    ) -> None:
        self.volumes = list(volumes)
        self.config = config
        self.seed = seed
        self.epoch = 0
        self.augmentation = Augmentation.build(config.augment, config.block_shape)
        self._centres = [
            volume.list_centres(np.random.default_rng([seed, number]))
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
            volume.geometry.shape,
            block,
            self._centres[number],
            self.config.foreground,
            self.config.balanced,
            rng,
        )
        if volume.head is not None:
            return self._synthesised(volume, volume.head, origin, rng)
        if self.augmentation:
            margin = np.array(self.augmentation.margin)
            image, label = volume.cut(origin - margin, np.array(block) + 2 * margin)
            image_patch, label_patch = self.augmentation.apply(
                image[None],
                label,
                floor=volume.floor,
                spread=volume.spread,
                seed=int(rng.integers(2**32)),
            )
        else:
            image, label = volume.cut(origin, block)
            image_patch = torch.from_numpy(np.array(image)[None])
            label_patch = torch.from_numpy(label.astype(np.int64))
        return {"image": image_patch, "label": label_patch, "source": volume.name}

    def loader(self, *, num_workers: int = 0, pinned: bool = False) -> PatchLoader:
        """Batches of the patches, the same ones for any number of workers.

        Args:
            num_workers: number of processes that cut patches; 0 cuts them in this one.
            pinned: whether the batches lie in pinned memory, from which they go to a
                GPU while the processor goes on.

        Returns:
            A loader whose `dataset` is this sampler: call `set_epoch` before each
            epoch.
        """
        return PatchLoader(
            self,
            batch_size=self.config.batch_size,
            num_workers=num_workers,
            pin_memory=pinned,
            # The loader draws a base seed, which must not come from the global state.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _synthesised(
        self,
        volume: Cuttable,
        head: HeadMap,
        origin: np.ndarray,
        rng: np.random.Generator,
    ) -> dict[str, Any]:
        """A patch of an image that is made for this patch alone."""
        assert self.config.synthesis is not None
        drawn = synthesise(
            torch.from_numpy(head.positions)[None],
            head.anatomy,
            self.config.synthesis,
            [int(rng.integers(2**63))],
            spacing_mm=volume.geometry.spacing_mm,
            block_shape=self.config.block_shape,
            origins=torch.from_numpy(origin)[None],
            counts=head.counts,
        )
        return {
            "image": drawn.normalised[0],
            "label": drawn.label[0],
            "source": volume.name,
        }

    def _volume_at(self, index: int) -> int:
        """The number of the volume that a patch is cut from."""
        if self.config.map_share is not None and self._maps and self._scans:
            # The fourth number keeps this stream apart from those of the patches.
            rng = np.random.default_rng([self.seed, self.epoch, index, 2])
            is_map = rng.random() < self.config.map_share
            return int(rng.choice(self._maps if is_map else self._scans))
        turn, place = divmod(index, len(self.volumes))
        if not self.config.shuffle:
            return place
        # The fourth number keeps this stream apart from those of the patches.
        rng = np.random.default_rng([self.seed, self.epoch, turn, 1])
        return int(rng.permutation(len(self.volumes))[place])


Binarize = bool | Collection[int] | Binarizer | None
"""What becomes foreground: see `extract_patches`."""


def check_binarize(binarize: Binarize) -> bool | tuple[int, ...] | Binarizer:
    """What `binarize` asks for, with label values in order.

    Raises:
        InputError: it is none of a truth value, a function and label values.
    """
    if binarize is None:
        return False
    if isinstance(binarize, bool) or callable(binarize):
        return binarize
    return foreground_values(binarize)


def binarize_labels(label: np.ndarray, binarize: Binarize) -> np.ndarray:
    """Turn label values into foreground (1) and background (0), where it is asked for.

    Args:
        label: label values, (I, J, K).
        binarize: as for `extract_patches`, checked.

    Returns:
        The labels as they are where `binarize` is False, else uint8.
    """
    if binarize is False:
        return label
    chosen = None if binarize is True else binarize
    return find_foreground(label, chosen).astype(np.uint8)


def extract_patches(
    volume: np.ndarray,
    label: np.ndarray,
    block_shape: Sequence[int] = (32, 32, 32),
    n_patches: int = 10,
    binarize: Binarize = False,
    seed: int = 0,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut random patches out of one volume, half of them near labelled voxels.

    Args:
        volume: intensities (I, J, K).
        label: integer labels (I, J, K).
        block_shape: voxels of a patch along each axis. Where the volume is smaller,
            the patch is filled up with the volume's minimum and label 0.
        n_patches: number of patches, at least 1.
        binarize: False or None keeps the labels. True makes every label value but 0
            foreground (1) and the rest background (0), a collection makes these label
            values foreground, and so does a function that maps the array of label
            values to booleans.
        seed: seed of every random choice.

    Returns:
        Pairs (patch, label patch) of the block shape, in the dtypes of the input
        (binarized labels in uint8).

    Raises:
        InputError: the arrays are not 3-D of one shape, or a value is out of range.

    >>> volume = np.arange(64.0).reshape(4, 4, 4)
    >>> patches = extract_patches(volume, volume > 50, (2, 2, 2), n_patches=3)
    >>> [patch.shape for patch, _ in patches]
    [(2, 2, 2), (2, 2, 2), (2, 2, 2)]
    """
    volume, label = np.asarray(volume), np.asarray(label)
    if volume.ndim != 3 or volume.shape != label.shape or volume.size == 0:
        raise InputError(
            "volume and label must be 3-D arrays of one shape, got "
            f"{volume.shape} and {label.shape}"
        )
    n_patches = as_count("n_patches", n_patches, 1)
    block = check_block_shape(block_shape)
    label = binarize_labels(label, check_binarize(binarize))
    rng = np.random.default_rng(seed)
    centres = index_voxels(label, rng)
    fill = volume.min()
    patches = []
    for _ in range(n_patches):
        origin = draw_origin(volume.shape, block, centres, 0.5, 1.0, rng)
        image_patch = crop(volume, origin, block, fill)
        patches.append((image_patch, crop(label, origin, block, 0)))
    return patches
