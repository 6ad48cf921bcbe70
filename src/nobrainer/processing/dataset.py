"""Scans and labels as a frozen record of what to read and how to cut patches."""

import warnings
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
from nobrainer.data.augment import AUGMENTATIONS
from nobrainer.data.entries import (
    Entry,
    Scan,
    list_maps,
    list_scans,
    warn_of_guessed_subjects,
)
from nobrainer.data.labels import (
    Binarizer,
    LabelTable,
    Mappable,
    binarize_ids,
    describe_unknown,
    read_mapping,
)
from nobrainer.data.patches import check_block_shape, is_count, patch_loader
from nobrainer.data.prepare import (
    Prepared,
    prepare_scan,
    split_message,
    working_spacing_mm,
)
from nobrainer.data.preprocess import NORMALIZERS
from nobrainer.data.store import VolumeStore
from nobrainer.errors import InputError, list_problems
from nobrainer.io import ImageSource, read_geometry
from nobrainer.naming import repeats
from nobrainer.recipe import DataConfig, Outliers, PreprocessConfig, Synthesis
from nobrainer.types import Shape3
from nobrainer.volume import conformed_geometry

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """What to read and how to make patches of it; every method gives a new dataset.

    Make one with `Dataset.from_files` or `Dataset.from_label_maps`. Label values are
    first relabelled, then binarized, whatever the order of the calls.

    data: the scans.
    config: how patches and targets are made.
    labels: the classes, with names and colours.
    binarizer: the function that `binarize` was given, None without one.
    normalizer, outliers, spacing_mm: what goes into `preprocess`.
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
    normalizer: str = "zscore"
    outliers: Outliers = "clipped"
    spacing_mm: tuple[float, float, float] | None = None
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
            files: one entry per scan: `(image, label)`, `{"image": ..., "label":
                ...}`, or an image alone. An image or label is a path, a nibabel
                image, or (inside a pair or dict) an `(array, affine)` tuple. A dict
                may have "subject" and "session", texts that say whom and when the
                scan shows; without a subject the path says it, see
                `nobrainer.naming`.
            block_shape: voxels of a patch along each axis, default (32, 32, 32).
            n_classes: number of classes with background, at least 2; None takes 2, or
                as many as the mapping of `relabel` has.

        Raises:
            InputError: no files, a missing or repeated file, or a value out of range.
        """
        return cls._of(list_scans(files), block_shape, n_classes)

    @classmethod
    def from_label_maps(
        cls,
        maps: Iterable[ImageSource | Mapping[str, Any]],
        synthesis: Synthesis | None = None,
        classes: Mappable | None = None,
        block_shape: Sequence[int] | None = None,
    ) -> Self:
        """List label maps of heads, from which images are made during training.

        Each patch is cut from an image that is drawn for this patch alone, normalised
        by the mean and standard deviation of its whole head. `prepare` and validation
        take one image of each map, always the same one.

        Args:
            maps: one entry per head: a path, a nibabel image, or a dict with the key
                "label" and, if wanted, "subject" and "session", see `from_files`.
            synthesis: what is drawn; None takes `Synthesis()`.
            classes: the label values that the model is to find, see `relabel`. All
                others are background to the model, yet have intensities of their own
                in the images. None makes every label value but 0 foreground.
            block_shape: voxels of a patch along each axis; None takes (32, 32, 32).

        Raises:
            InputError: no maps, a missing or repeated file, or a value out of range.
        """
        found = cls._of(list_maps(maps), block_shape, None)
        found = found._with(synthesis=synthesis or Synthesis())
        return found.binarize() if classes is None else found.relabel(classes)

    @classmethod
    def _of(
        cls,
        scans: tuple[Scan, ...],
        block_shape: Sequence[int] | None,
        n_classes: int | None,
    ) -> Self:
        block = (32, 32, 32) if block_shape is None else check_block_shape(block_shape)
        if n_classes is not None and not is_count(n_classes, 2):
            raise InputError(f"n_classes must be an integer >= 2, got {n_classes!r}")
        asked = None if n_classes is None else int(n_classes)
        config = DataConfig(
            n_classes=asked or 2,
            block_shape=block,
            batch_size=2,
            patches_per_volume=64,
            foreground=0.5,
            shuffle=False,
        )
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
        """Give patches in batches of this size (the last one may be smaller)."""
        if not is_count(batch_size, 1):
            raise InputError(f"batch size must be an integer >= 1, got {batch_size!r}")
        return self._with(batch_size=int(batch_size))

    def binarize(self, labels: Collection[int] | Binarizer | None = None) -> Self:
        """Make two classes: foreground and background, 1 and 0 in label maps.

        Args:
            labels: what is foreground: None takes every label value but 0, a
                collection takes these label values, a function takes the array of
                label values (I, J, K) to booleans.

        Raises:
            InputError: `n_classes` was given and is not 2, or no valid label value
                is given.
        """
        if self.asked_classes not in (None, 2):
            raise InputError(
                f"binarize makes 2 classes, but n_classes is {self.asked_classes}: "
                "give n_classes=2"
            )
        kind, name = "nonzero", ""
        ids: tuple[int, ...] = ()
        if callable(labels):
            kind = "callable"
            name = getattr(labels, "__qualname__", type(labels).__qualname__)
        elif labels is not None:
            kind, ids = "ids", binarize_ids(labels)
        return replace(
            self._with(
                n_classes=2, binarize=kind, binarize_ids=ids, binarize_name=name
            ),
            labels=_of_two(self.labels),
            binarizer=labels if callable(labels) else None,
        )

    def relabel(self, mapping: Mappable) -> Self:
        """Map label values to classes; an earlier relabel is replaced.

        The dataset has as many classes as the mapping, or two where `binarize`
        follows or came before. Where every class stands for one label value, label
        maps of a model trained on it carry these values.

        Args:
            mapping: "6-class", "50-class", "115-class" or "aseg" for FreeSurfer ids;
                the path of a CSV or TSV file with the columns value and class
                (`original,new`, and `name` and `color` of the class if wanted) or
                with the label values in use (`index,name`, and `color` if wanted);
                or a mapping from value to class. Values that it lacks become
                background, with a warning.

        Raises:
            InputError: the mapping is unknown, unreadable, makes everything
                background or holds anything but label values and classes, or has
                another number of classes than the `n_classes` that was given.
        """
        known, labels = read_mapping(mapping)
        name = "relabel" if isinstance(mapping, Mapping) else mapping
        n_classes = len(labels.names)
        if n_classes < 2:
            raise InputError(
                f"{name}: makes every label value background: give another class"
            )
        by_text = {str(value): new for value, new in known.items()}
        # With n_classes=2, binarize may follow: `_check_classes` sees whether it did.
        if self.asked_classes not in (None, 2, n_classes):
            raise _contradiction(str(name), n_classes, self.n_classes)
        if self.config.binarize != "none" or self.asked_classes not in (
            None,
            n_classes,
        ):
            labels = _of_two(labels)
        changed = self._with(relabel=by_text, n_classes=len(labels.names))
        return replace(changed, labels=labels)

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
        self, *, per_volume: int | None = None, foreground: float | None = None
    ) -> Self:
        """Say how many patches an epoch takes per volume, and from where.

        Args:
            per_volume: patches of each volume in an epoch (64 unless set).
            foreground: share of patches, 0..1, that are centred near a voxel of a
                class drawn from those present but background (0.5 unless set).
        """
        count = self.config.patches_per_volume if per_volume is None else per_volume
        share = self.config.foreground if foreground is None else foreground
        if not is_count(count, 1):
            raise InputError(f"per_volume must be an integer >= 1, got {count!r}")
        if isinstance(share, bool) or not 0 <= share <= 1:
            raise InputError(f"foreground must be between 0 and 1, got {share!r}")
        return self._with(patches_per_volume=int(count), foreground=float(share))

    # --- how volumes are read

    def normalize(self, name: str) -> Self:
        """Choose the intensity normalisation: "zscore", "minmax" or "none".

        But for "none", fills and extreme intensities are clipped first, see
        `nobrainer.data.preprocess.clip_outliers`.
        """
        NORMALIZERS.check(name)
        outliers: Outliers = "kept" if name == "none" else "clipped"
        return replace(self, normalizer=name, outliers=outliers)

    def spacing(self, spacing_mm: Sequence[float]) -> Self:
        """Set the working voxel size in mm along R, A and S.

        Without it, the working voxel size is the median over the scans.
        """
        sizes = tuple(float(size) for size in spacing_mm)
        if len(sizes) != 3 or not all(0 < size < np.inf for size in sizes):
            raise InputError(
                f"spacing must be three positive numbers (mm), got {spacing_mm!r}"
            )
        return replace(self, spacing_mm=(sizes[0], sizes[1], sizes[2]))

    def cache(
        self, *, memory_gb: float = 4.0, directory: str | PathLike[str] | None = None
    ) -> Self:
        """Say where prepared volumes are kept.

        Args:
            memory_gb: volumes beyond this many gigabytes are kept on disk.
            directory: an existing folder for those, default the system's temporary
                one; what is written there is removed at the end.
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
            eval_size: share (between 0 and 1) or number of subjects to evaluate.
            by: "subject" keeps all scans of a subject together, see `subjects`; a
                warning says where it is not known whom scans show. "scan" splits
                scan by scan.
            seed: seed of the choice.

        Returns:
            (training dataset, evaluation dataset), scans in their original order.

        Raises:
            InputError: one of the two would be empty, or `by` is unknown.
        """
        if by not in ("subject", "scan"):
            raise InputError(f"split by must be 'subject' or 'scan', got {by!r}")
        if by == "subject":
            self.warn_of_subjects(stacklevel=2)
        keys = self.subjects if by == "subject" else list(range(len(self)))
        groups = list(dict.fromkeys(keys))
        if isinstance(eval_size, float) and 0 < eval_size < 1:
            count = max(1, round(eval_size * len(groups)))
        elif is_count(eval_size, 1):
            count = int(eval_size)
        else:
            raise InputError(
                "eval_size must be a share between 0 and 1 or a number of subjects, "
                f"got {eval_size!r}"
            )
        if count >= len(groups):
            raise InputError(
                f"cannot take {count} of {len(groups)} {by}s to evaluate and leave "
                "some to train: give a smaller eval_size or more files"
            )
        order = np.random.default_rng(seed).permutation(len(groups))
        chosen = {groups[i] for i in order[:count]}
        pairs = list(zip(self.data, keys, strict=True))
        train = tuple(scan for scan, key in pairs if key not in chosen)
        held_out = tuple(scan for scan, key in pairs if key in chosen)
        return replace(self, data=train), replace(self, data=held_out)

    def mix(self, other: Self, share: float) -> Self:
        """Train on the patches of another dataset, too: label maps and real scans.

        Args:
            other: of the same classes. All that is not about its scans, such as the
                block shape, is taken from this dataset.
            share: of the patches that are of `other`, between 0 and 1.

        Raises:
            InputError: the two differ in their classes, do not have label maps in one
                and scans in the other, or have a scan in common.
        """
        kinds = [{scan.is_map for scan in part.data} for part in (self, other)]
        if kinds not in ([{True}, {False}], [{False}, {True}]):
            raise InputError(
                "mix takes label maps and scans with labels, one of them in each "
                "dataset: make one by Dataset.from_label_maps, the other by from_files"
            )
        made = ("n_classes", "relabel", "binarize", "binarize_ids", "binarize_name")
        for name in made:
            if getattr(self.config, name) != getattr(other.config, name):
                raise InputError(
                    f"the datasets to mix must have the same classes, but differ in "
                    f"{name}: relabel or binarize both alike"
                )
        if isinstance(share, bool) or not 0 < share < 1:
            raise InputError(f"share must be between 0 and 1, got {share!r}")
        shown = [scan.shown for scan in (*self.data, *other.data)]
        if problems := repeats(shown):
            raise InputError("\n".join(problems))
        is_of_maps = kinds[0] == {True}
        mixed = self._with(
            synthesis=(self if is_of_maps else other).config.synthesis,
            map_share=1 - share if is_of_maps else share,
        )
        return replace(mixed, data=self.data + other.data)

    # --- what others read

    @property
    def subjects(self) -> list[str]:
        """Whom each scan shows: as given, by its path, or else the scan itself."""
        return [scan.subject or scan.shown for scan in self.data]

    @property
    def shown_subjects(self) -> dict[str, str]:
        """Whom each scan shows, by the name that it has in tables."""
        shown = [scan.shown for scan in self.data]
        return dict(zip(shown, self.subjects, strict=True))

    def warn_of_subjects(self, stacklevel: int = 1) -> None:
        """Warn where it had to be guessed whom scans show.

        It is guessed where neither path nor entry names a subject, so that each scan
        counts as one person, and where one label stands in several data sets and is
        taken for several people.
        """
        warn_of_guessed_subjects(self.data, stacklevel + 1)

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
        config = self.preprocess
        return conformed_geometry(
            read_geometry(self.data[0].image), config.orientation, config.spacing_mm
        ).shape

    @cached_property
    def preprocess(self) -> PreprocessConfig:
        """The preprocessing, with the working voxel size that fits these scans.

        Scans whose header cannot be read do not count: `prepare` names them.
        """
        config = PreprocessConfig(
            normalize=self.normalizer,
            spacing_mm=self.spacing_mm,
            outliers=self.outliers,
        )
        if self.spacing_mm is not None:
            return config
        spacing_mm = working_spacing_mm(self.data, config.orientation)
        return replace(config, spacing_mm=spacing_mm)

    @cached_property
    def store(self) -> VolumeStore:
        """Where the scans of this very dataset are kept once they are prepared."""
        return VolumeStore(self.memory_gb, self.directory)

    @property
    def dataloader(self) -> DataLoader[dict[str, Any]]:
        """Batches of the first epoch under seed 0, to look at or to train by hand.

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
        """Read, check and preprocess every scan once; later calls return the same.

        Args:
            preprocess: default the dataset's own.
            progress: called with (scans done, scans in all) after each.

        Raises:
            InputError: some scans cannot be used; a line for each problem.
        """
        self._check_classes()
        config = preprocess or self.preprocess
        kept = self.store.find(config)
        if kept is None:
            unknown: Counter[int] = Counter()
            kept = self.store.keep(config, self._read(config, unknown, progress))
            _warn_unknown(unknown)
        return kept

    def loader(
        self,
        preprocess: PreprocessConfig | None = None,
        *,
        seed: int = 0,
        num_workers: int = 0,
    ) -> DataLoader[dict[str, Any]]:
        """Batches of random patches, the same for any number of workers.

        Args:
            preprocess: default the dataset's own.
            seed: seed of every random choice.
            num_workers: processes that cut patches, 0 for none.

        Returns:
            A loader whose `dataset` is a `PatchSampler`: call its `set_epoch` before
            each epoch.

        Raises:
            InputError: some scans cannot be used or have no labels.
        """
        self.check_labelled()
        volumes = self.prepare(preprocess)
        return patch_loader(volumes, self.config, seed=seed, num_workers=num_workers)

    def iterate(
        self,
        preprocess: PreprocessConfig | None = None,
        *,
        shown: bool = False,
        each: Callable[[str], AbstractContextManager[Any]] = nullcontext,
    ) -> Iterator[Prepared]:
        """Prepare one scan at a time and keep none.

        Args:
            preprocess: default the dataset's own.
            shown: give the scans the names that they have in tables.
            each: gives, for a scan's name, the context in which the scan is read. A
                scan whose error this context keeps is left out.

        Raises:
            InputError: when it comes to a scan that cannot be used.
        """
        self._check_classes()
        unknown: Counter[int] = Counter()
        for scan in self.data:
            prepared = None
            with each(scan.name):
                prepared, counts = prepare_scan(
                    scan, preprocess or self.preprocess, self.config, self.binarizer
                )
            if prepared is not None:
                unknown.update(counts)
                yield replace(prepared, name=scan.shown) if shown else prepared
        _warn_unknown(unknown)

    def to_croissant(self, path: str | Path) -> Path:
        """Write Croissant metadata (JSON-LD) of the files, with their checksums.

        Raises:
            InputError: a scan is in memory, or the file cannot be written.
        """
        pairs = []
        for scan in self.data:
            if scan.paths is None:
                raise InputError(
                    f"{scan.name}: is not a file: write images and labels to files "
                    "before describing them"
                )
            pairs.append(scan.paths)
        return write_dataset(
            path, Path(path).stem, pairs, self.n_classes, self.subjects
        )

    def check_labelled(self) -> None:
        """Raise `InputError` where scans have no labels."""
        bare = [scan.name for scan in self.data if scan.label is None]
        if bare:
            raise InputError(
                list_problems((n, "has no labels: give them") for n in bare)
            )

    def _with(self, **changes: Any) -> Self:
        return replace(self, config=replace(self.config, **changes))

    def _check_classes(self) -> None:
        """Refuse a mapping to more classes than `n_classes` that nothing made binary.

        Only now, since `binarize` may come after `relabel`.
        """
        mapping = self.config.relabel
        if mapping is not None and self.config.binarize == "none":
            n_classes = max(mapping.values()) + 1
            if n_classes > self.n_classes:
                raise _contradiction("relabel", n_classes, self.n_classes)

    def _read(
        self,
        preprocess: PreprocessConfig,
        unknown: Counter[int],
        progress: Progress | None,
    ) -> Iterator[Prepared]:
        """Prepare scan after scan; name all those that cannot be used at the end.

        Args:
            preprocess: how the scans are prepared.
            unknown: to this counter go the voxels of label values that the mapping
                does not know.
            progress: called with (scans done, scans in all) after each.
        """
        problems = []
        for number, scan in enumerate(self.data):
            try:
                prepared, counts = prepare_scan(
                    scan, preprocess, self.config, self.binarizer
                )
            except InputError as error:
                problems.append(split_message(scan, str(error)))
            else:
                unknown.update(counts)
                yield prepared
            if progress is not None:
                progress(number + 1, len(self))
        if problems:
            raise InputError(list_problems(problems))


def _of_two(labels: LabelTable) -> LabelTable:
    """The classes after `binarize`: the same names where there are two, without ids."""
    if len(labels.names) == 2:
        return replace(labels, ids=())
    return LabelTable.generic(2)


def _contradiction(name: str, found: int, asked: int) -> InputError:
    return InputError(
        f"{name}: has {found} classes with background, but n_classes is {asked}: give "
        f"n_classes={found} or leave it out"
    )


def _warn_unknown(counts: Mapping[int, int]) -> None:
    if counts:
        warnings.warn(
            "label values that the mapping does not know became background: "
            + describe_unknown(counts),
            stacklevel=3,
        )
