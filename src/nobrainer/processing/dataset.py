"""Scans and labels as a frozen record of what to read and how to cut patches."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from torch.utils.data import DataLoader

from nobrainer.croissant import write_dataset
from nobrainer.data import cohort, entries, targets
from nobrainer.data.augment import AUGMENTATIONS
from nobrainer.data.entries import Entry, Scan
from nobrainer.data.labels import LabelTable
from nobrainer.data.mapping import Mappable
from nobrainer.data.patches import PatchSampler, as_count, check_block_shape
from nobrainer.data.prepare import (
    Preparation,
    Prepared,
    prepare_scan,
    prepare_scans,
    working_spacing_mm,
)
from nobrainer.data.preprocess import NORMALIZERS
from nobrainer.data.store import VolumeStore
from nobrainer.data.targets import Binarizer
from nobrainer.errors import InputError
from nobrainer.io import ImageSource, read_geometry
from nobrainer.recipe import DataConfig, PreprocessConfig, Synthesis
from nobrainer.types import Shape3
from nobrainer.volume import conformed_geometry

Progress = Callable[[int, int], None]
_USUAL = PreprocessConfig(outliers="clipped", bright_air="inverted")


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """What to read and how to make patches of it; every method gives a new dataset.

    Make one with `from_files` or `from_label_maps`. Label values are first relabelled,
    then binarized, whatever the order of the calls.

    data: the scans.
    config: how patches and targets are made.
    labels: the classes, with names and colours.
    binarizer: the function that `binarize` was given, or None.
    reading: how scans are read; without a voxel size they decide it themselves.
    asked_classes: the `n_classes` that was asked for, None where it was left open.
    memory_gb, directory: what `cache` was given.

    >>> scan = (np.arange(64.0).reshape(4, 4, 4), np.eye(4))
    >>> label = (np.arange(64).reshape(4, 4, 4) // 32, np.eye(4))
    >>> dataset = Dataset.from_files([(scan, label)], block_shape=(2, 2, 2))
    >>> dataset.binarize().batch(8).patches(per_volume=16)
    Dataset(1 scans, 2 classes, batches of 8 patches of 2 x 2 x 2 voxels)
    """

    data: tuple[Scan, ...]
    config: DataConfig
    labels: LabelTable
    binarizer: Binarizer | None = None
    reading: PreprocessConfig = _USUAL
    asked_classes: int | None = None
    memory_gb: float = 4.0
    directory: Path | None = None

    @classmethod
    def from_files(
        cls,
        files: Iterable[Entry],
        block_shape: Sequence[int] | None = None,
        n_classes: int | None = None,
    ) -> Self:
        """List scans with their labels; nothing is read but the files must exist.

        Args:
            files: one entry per scan: `(image, label)`, `{"image": ..., "label": ...}`
                or an image alone, each a path, a nibabel image or (in a pair or dict)
                an `(array, affine)` tuple. A dict may also have the texts "subject" and
                "session"; else the path tells them, see `nobrainer.naming`.
            block_shape: voxels of a patch along each axis; None takes (32, 32, 32).
            n_classes: number of classes with background, at least 2; None takes 2, or
                as many as the mapping of `relabel` has.

        Raises:
            InputError: no files, a missing or repeated file, or a value out of range.
        """
        return cls._of(entries.list_scans(files), block_shape, n_classes)

    @classmethod
    def from_label_maps(
        cls,
        maps: Iterable[ImageSource | Mapping[str, Any]],
        synthesis: Synthesis | None = None,
        classes: Mappable | None = None,
        block_shape: Sequence[int] | None = None,
        n_images: int = 1,
    ) -> Self:
        """List label maps of heads, from which images are made during training.

        Each patch is cut from an image that is drawn for this patch alone, normalised
        by the mean and standard deviation of its whole head. Where whole heads are
        needed, as for validation and calibration, the images are always the same ones.

        Args:
            maps: one entry per head: a path, a nibabel image, or a dict with the key
                "label" and, if wanted, "subject" and "session", see `from_files`.
            synthesis: what is drawn; None takes `Synthesis()`.
            classes: the label values that the model is to find, see `relabel`; others
                are background. None makes every label value but 0 foreground.
            block_shape: voxels of a patch along each axis; None takes (32, 32, 32).
            n_images: images of each map where whole heads are needed, see `Scan.draw`.

        Raises:
            InputError: no maps, a missing or repeated file, or a value out of range.
        """
        found = cls._of(entries.list_maps(maps, n_images), block_shape, None)
        found = found._with(synthesis=synthesis or Synthesis())
        return found.binarize() if classes is None else found.relabel(classes)

    @classmethod
    def _of(
        cls,
        scans: tuple[Scan, ...],
        block_shape: Sequence[int] | None,
        n_classes: int | None,
    ) -> Self:
        asked = None if n_classes is None else as_count("n_classes", n_classes, 2)
        config = DataConfig(asked or 2)
        if block_shape is not None:
            config = replace(config, block_shape=check_block_shape(block_shape))
        labels = LabelTable.generic(config.n_classes)
        return cls(data=scans, config=config, labels=labels, asked_classes=asked)

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        block = " x ".join(map(str, self.config.block_shape))
        return (
            f"Dataset({len(self)} scans, {self.config.n_classes} classes, batches of "
            f"{self.config.batch_size} patches of {block} voxels)"
        )

    # --- how patches and targets are made

    def batch(self, batch_size: int) -> Self:
        """Give patches in batches of this size, 1 or more; the last may be smaller."""
        return self._with(batch_size=as_count("batch size", batch_size, 1))

    def binarize(self, labels: Collection[int] | Binarizer | None = None) -> Self:
        """Make two classes: foreground and background, 1 and 0 in label maps.

        Args:
            labels: what is foreground: None takes every label value but 0, a
                collection takes these label values, a function turns the array of
                label values (I, J, K) into booleans.

        Raises:
            InputError: `n_classes` is given and not 2, or no valid label value is.
        """
        return replace(
            self,
            config=targets.binarized(self.config, labels, self.asked_classes),
            labels=self.labels.of_two(),
            binarizer=labels if callable(labels) else None,
        )

    def relabel(self, mapping: Mappable) -> Self:
        """Map label values to classes, in place of an earlier mapping.

        The dataset gets as many classes as the mapping has, or two if it is binarized.
        Where every class stands for a single label value, the label maps of a model
        trained on the dataset carry these values.

        Args:
            mapping: a scheme of FreeSurfer's label values, such as "aseg"; a mapping
                from label value to class; or the path of a CSV or TSV table, see
                `nobrainer.data.mapping.read_mapping`. Label values that it lacks become
                background, with a warning.

        Raises:
            InputError: the mapping cannot be read, makes everything background, or has
                another number of classes than the `n_classes` that was given.
        """
        config, labels = targets.relabelled(self.config, mapping, self.asked_classes)
        return replace(self, config=config, labels=labels)

    def shuffle(self, *, enabled: bool = True) -> Self:
        """Draw the order of the volumes anew in every round, instead of in turn."""
        if not isinstance(enabled, bool):
            raise InputError(f"enabled must be True or False, got {enabled!r}")
        return self._with(shuffle=enabled)

    def augment(self, profile: str = "standard") -> Self:
        """Change patches at random: "none", "standard" or "strong"."""
        AUGMENTATIONS.check(profile)
        return self._with(augment=profile)

    def patches(
        self,
        *,
        per_volume: int | None = None,
        foreground: float | None = None,
        balanced: float | None = None,
    ) -> Self:
        """Say how many patches an epoch takes of each volume, and from where.

        Args:
            per_volume: number of patches of each volume, at first 64.
            foreground: share of the patches, 0 to 1, centred near a voxel of any class
                but background, at first 0.5.
            balanced: share of these, 0 to 1, whose class is drawn uniformly, not in
                proportion to its voxels; at first 1.

        Raises:
            InputError: one of these is out of its range; None leaves it as it is.
        """
        count = self.config.patches_per_volume if per_volume is None else per_volume
        given = {"foreground": foreground, "balanced": balanced}
        return self._with(
            patches_per_volume=as_count("per_volume", count, 1),
            **{name: share for name, share in given.items() if share is not None},
        )

    # --- how volumes are read

    def normalize(self, name: str) -> Self:
        """Choose the intensity normalisation: "zscore", "minmax" or "none".

        "zscore" and "minmax" first turn over intensities of which the air is bright,
        and clip fills and extreme intensities; see `nobrainer.data.preprocess`.
        """
        NORMALIZERS.check(name)
        usual = PreprocessConfig() if name == "none" else _USUAL
        spacing_mm = self.reading.spacing_mm
        return replace(
            self, reading=replace(usual, normalize=name, spacing_mm=spacing_mm)
        )

    def spacing(self, spacing_mm: Sequence[float]) -> Self:
        """Set the voxel size to work at, mm along R, A, S; default the scans' median.

        Raises:
            InputError: these are not three positive numbers.
        """
        sizes = tuple(float(size) for size in spacing_mm)
        if len(sizes) != 3 or not all(0 < size < np.inf for size in sizes):
            raise InputError(
                f"spacing must be three positive numbers (mm), got {spacing_mm!r}"
            )
        i, j, k = sizes
        return replace(self, reading=replace(self.reading, spacing_mm=(i, j, k)))

    def cache(
        self, *, memory_gb: float = 4.0, directory: str | PathLike[str] | None = None
    ) -> Self:
        """Say where prepared volumes are kept.

        Args:
            memory_gb: gigabytes of volumes kept in memory; the rest goes to disk.
            directory: existing folder for the rest; None takes the system's temporary
                one. What is written there is removed together with the dataset.

        Raises:
            InputError: the memory is negative, or the folder does not exist.
        """
        if not memory_gb >= 0:
            raise InputError(f"memory_gb must be >= 0, got {memory_gb!r}")
        folder = None if directory is None else Path(directory)
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder}: is not a folder: create it first")
        return replace(self, memory_gb=memory_gb, directory=folder)

    # --- parts

    def split(
        self,
        eval_size: float,
        by: Literal["subject", "scan"] = "subject",
        seed: int = 0,
    ) -> tuple[Self, Self]:
        """Split at random into a training and an evaluation dataset.

        Args:
            eval_size: what goes into evaluation: a share of the subjects, between 0 and
                1, or a number of them.
            by: "subject" keeps all scans of a subject together, see `subjects`, and
                warns where it is not known whom scans show. "scan" splits scan by scan.
            seed: seed of the random choice.

        Returns: the training and the evaluation dataset, in the original order.

        Raises:
            InputError: one of the two would be empty, or `by` is unknown.
        """
        if by not in ("subject", "scan"):
            raise InputError(f"split by must be 'subject' or 'scan', got {by!r}")
        if by == "subject":
            self.warn_of_subjects(stacklevel=2)
        train, held_out = cohort.split_scans(self.data, eval_size, by, seed)
        return replace(self, data=train), replace(self, data=held_out)

    def mix(self, other: Self, share: float = 0.5) -> Self:
        """Train on label maps and real scans together, each in a dataset of its own.

        Args:
            other: dataset with the same classes. Only its scans (and what is drawn for
                label maps) are taken; all else, such as the block shape, comes from
                this dataset.
            share: share of the patches that come from `other`, between 0 and 1.

        Raises:
            InputError: the two differ in their classes, do not have label maps in one
                and scans in the other, or have a scan in common.
        """
        cohort.check_mixable(self.data, other.data)
        targets.check_same_classes(self.config, other.config)
        if isinstance(share, bool) or not 0 < share < 1:
            raise InputError(f"share must be between 0 and 1, got {share!r}")
        is_of_maps = self.data[0].is_map
        mixed = self._with(
            synthesis=(self if is_of_maps else other).config.synthesis,
            map_share=1 - share if is_of_maps else share,
        )
        return replace(mixed, data=self.data + other.data)

    # --- what others read

    @property
    def subjects(self) -> list[str]:
        """The person in each scan: as given, as the path says, else the scan itself."""
        return cohort.list_subjects(self.data)

    @property
    def shown_subjects(self) -> dict[str, str]:
        """The person in each scan, by the name that the scan has in tables."""
        shown = [scan.shown for scan in self.data]
        return dict(zip(shown, self.subjects, strict=True))

    def warn_of_subjects(self, stacklevel: int = 1) -> None:
        """Warn where it had to be guessed whom scans show.

        Args:
            stacklevel: how many callers above this method the warning points to.
        """
        cohort.warn_of_guessed_subjects(self.data, stacklevel + 1)

    @property
    def batch_size(self) -> int:
        """Patches per batch."""
        return self.config.batch_size

    @property
    def block_shape(self) -> Shape3:
        """Voxels of a patch along each axis."""
        return self.config.block_shape

    @property
    def n_classes(self) -> int:
        """Number of classes, with background."""
        return self.config.n_classes

    @property
    def volume_shape(self) -> Shape3:
        """Shape of the first volume on the working grid."""
        grid, to = read_geometry(self.data[0].image), self.preprocess
        return conformed_geometry(grid, to.orientation, to.spacing_mm).shape

    @cached_property
    def preprocess(self) -> PreprocessConfig:
        """The preprocessing, with the working voxel size that fits these scans.

        Scans whose header cannot be read do not count here; `prepare` names them.
        """
        if self.reading.spacing_mm is not None:
            return self.reading
        spacing_mm = working_spacing_mm(self.data, self.reading.orientation)
        return replace(self.reading, spacing_mm=spacing_mm)

    @cached_property
    def store(self) -> VolumeStore:
        """Where the scans of this very dataset are kept once they are prepared."""
        return VolumeStore(self.memory_gb, self.directory)

    @property
    def dataloader(self) -> DataLoader[dict[str, Any]]:
        """Batches of the first epoch with seed 0, to look at or to train by hand.

        A batch is `{"image": float32 (B, 1, i, j, k), "label": int64 (B, i, j, k),
        "source": list of names}`; `dataloader.dataset.set_epoch(e)` moves on.
        """
        return self.loader()

    def prepare(
        self,
        preprocess: PreprocessConfig | None = None,
        *,
        progress: Progress | None = None,
    ) -> list[Prepared]:
        """Read, check and preprocess every scan; later calls return the same list.

        Args:
            preprocess: how scans are prepared; None takes the dataset's own way. Only
                the scans of the latest way are kept.
            progress: called after each scan with (scans done, scans in all).

        Raises:
            InputError: some scans cannot be used; a line for each problem.
        """
        how = self.preparation(preprocess)
        return self.store.find(how.preprocess) or self.store.keep(
            how.preprocess, prepare_scans(self.data, how, progress)
        )

    def preparation(self, preprocess: PreprocessConfig | None = None) -> Preparation:
        """How scans are prepared; None takes the dataset's own way to preprocess."""
        targets.check_relabelled(self.config)
        return Preparation(preprocess or self.preprocess, self.config, self.binarizer)

    def loader(
        self,
        preprocess: PreprocessConfig | None = None,
        *,
        seed: int = 0,
        num_workers: int = 0,
    ) -> DataLoader[dict[str, Any]]:
        """Batches of random patches, the same for any number of workers.

        Args:
            preprocess: how scans are prepared; None takes the dataset's own way.
            seed: seed of every random choice.
            num_workers: number of processes that cut patches; 0 cuts them in this one.

        Returns: a loader whose `dataset` is a `PatchSampler`: call its `set_epoch`
            before each epoch.

        Raises:
            InputError: some scans cannot be used or have no labels.
        """
        self.check_labelled()
        volumes = self.prepare(preprocess)
        sampler = PatchSampler(volumes, self.config, seed=seed)
        return sampler.loader(num_workers=num_workers)

    def iterate(
        self,
        preprocess: PreprocessConfig | None = None,
        *,
        shown: bool = False,
        each: Callable[[str], AbstractContextManager[Any]] = nullcontext,
    ) -> Iterator[Prepared]:
        """Prepare one scan at a time and keep none.

        Args:
            preprocess: how scans are prepared; None takes the dataset's own way.
            shown: whether scans get the names that they have in tables.
            each: called with a scan's name, gives the context in which the scan is
                read. A scan whose error this context suppresses is left out.

        Raises:
            InputError: a scan cannot be used; raised when its turn comes.
        """
        preparation = self.preparation(preprocess)
        unknown: Counter[int] = Counter()
        for scan in self.data:
            prepared = None
            with each(scan.name):
                prepared, counts = prepare_scan(scan, preparation)
            if prepared is not None:
                unknown.update(counts)
                yield replace(prepared, name=scan.shown) if shown else prepared
        targets.warn_of_unknown(unknown)

    def to_croissant(self, path: str | Path) -> Path:
        """Write Croissant metadata (JSON-LD) of the files, with their checksums.

        Raises:
            InputError: a scan is in memory, or the file cannot be written.
        """
        pairs = entries.require_files(self.data)
        return write_dataset(
            path, Path(path).stem, pairs, self.n_classes, self.subjects
        )

    def check_labelled(self) -> None:
        """Raise `InputError` where scans have no labels."""
        entries.require_labels(self.data)

    def _with(self, **changes: Any) -> Self:
        return replace(self, config=replace(self.config, **changes))
