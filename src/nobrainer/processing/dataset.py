"""Scans and labels as a frozen record of what to read and how to cut patches."""

import shutil
import tempfile
import warnings
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch.utils.data import DataLoader

from nobrainer.croissant import write_dataset
from nobrainer.data.augment import AUGMENTATIONS
from nobrainer.data.labels import (
    Binarizer,
    LabelTable,
    Mappable,
    binarize_ids,
    describe_unknown,
    find_foreground,
    read_mapping,
)
from nobrainer.data.patches import (
    PatchSampler,
    Prepared,
    Scan,
    crop,
    draw_origin,
    index_voxels,
    prepare_scan,
)
from nobrainer.data.preprocess import NORMALIZERS, common_spacing
from nobrainer.errors import InputError, list_problems
from nobrainer.formats import require_file
from nobrainer.io import ImageSource, read_geometry
from nobrainer.naming import repeats, scan_names, subject_names, subject_of
from nobrainer.recipe import DataConfig, Outliers, PreprocessConfig, Synthesis
from nobrainer.types import Shape3
from nobrainer.volume import conformed_geometry

Entry = ImageSource | tuple[ImageSource, ImageSource | None] | Mapping[str, Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """What to read and how to make patches of it; every method gives a new dataset.

    Make one with `Dataset.from_files`. `data` are the scans and `config` says
    how patches and targets are made. `binarizer` is the function behind
    `binarize(function)`, `normalizer`, `outliers` and `spacing_mm` go into
    `preprocess`, `labels` describes the classes, `asked_classes` is the `n_classes`
    that was asked for, `memory_gb` and `directory` are those of `cache`.

    Label values are first relabelled, then binarized, whatever the order of calls.
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
    _prepared: dict[PreprocessConfig, list[Prepared]] = field(
        default_factory=dict, init=False, repr=False
    )

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
        if isinstance(files, str | PathLike):
            raise InputError(f"files must be a list of scans, got {str(files)!r}")
        scans = _scans(files)
        block = (32, 32, 32) if block_shape is None else _block(block_shape)
        if n_classes is not None and not _is_count(n_classes, 2):
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

    @classmethod
    def from_label_maps(
        cls,
        maps: Iterable[ImageSource | Mapping[str, Any]],
        synthesis: Synthesis | None = None,
        classes: Mappable | None = None,
        block_shape: Sequence[int] | None = None,
    ) -> Self:
        """List label maps of heads, of which images are made while training.

        Each patch is cut from an image that is drawn for it alone, normalised by mean
        and standard deviation of its whole head. `prepare` and validation have one
        image of each map, always the same.

        Args:
            maps: of each head a path, a nibabel image, or a dict with the key "label"
                and, if wanted, "subject" and "session", see `from_files`.
            synthesis: what is drawn; default `Synthesis()`.
            classes: which label values the model is to find, see `relabel`; all others
                are background to it, but have intensities of their own. Default: every
                label value but 0 is foreground.
            block_shape: voxels of a patch along each axis, default (32, 32, 32).

        Raises:
            InputError: no maps, a missing or repeated file, or a value out of range.
        """
        if isinstance(maps, str | PathLike):
            raise InputError(f"maps must be a list of label maps, got {str(maps)!r}")
        entries = []
        for number, entry in enumerate(maps):
            row = dict(entry) if isinstance(entry, Mapping) else {"label": entry}
            if "label" not in row or "image" in row:
                raise InputError(
                    f"maps[{number}] must have the key 'label' and no image, got "
                    f"{sorted(row)}"
                )
            entries.append(row | {"image": row["label"]})
        found = cls.from_files(entries, block_shape)
        found = replace(
            found._with(synthesis=synthesis or Synthesis()),
            data=tuple(replace(scan, is_map=True) for scan in found.data),
        )
        return found.binarize() if classes is None else found.relabel(classes)

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
        if not _is_count(batch_size, 1):
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
        AUGMENTATIONS[profile]
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
        if not _is_count(count, 1):
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
        NORMALIZERS[name]
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
        elif _is_count(eval_size, 1):
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
        unknown = [scan.shown for scan in self.data if scan.subject is None]
        of_label: dict[str, set[str]] = defaultdict(set)
        for scan in self.data:
            is_path = isinstance(scan.image, str | PathLike)
            who = subject_of(scan.name) if is_path else None
            # One that was given need not end like the label in the path.
            if who is not None and (scan.subject or "").endswith(who.label):
                of_label[who.label].add(scan.subject or "")
        shared = {one: names for one, names in of_label.items() if len(names) > 1}
        what_to_do = (
            "name subjects in the paths (sub-<label>), or give them: a column subject "
            "of the table, a key of the entry"
        )
        if unknown:
            warnings.warn(
                f"{len(unknown)} of {len(self)} scans name no subject (such as "
                f"{unknown[0]}): each of them counts as a subject of its own; if some "
                f"are of one person, {what_to_do}",
                stacklevel=stacklevel + 1,
            )
        if shared:
            label, names = next(iter(shared.items()))
            warnings.warn(
                f"{len(shared)} labels stand in several data sets (such as {label}: "
                f"{', '.join(sorted(names))}): they count as different people; if they "
                f"are one, {what_to_do}",
                stacklevel=stacklevel + 1,
            )

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
        geometries = []
        for scan in self.data:
            try:
                geometries.append(read_geometry(scan.image))
            except InputError:
                continue
        if not geometries:
            return config
        spacing_mm = common_spacing(geometries, config.orientation)
        return replace(config, spacing_mm=spacing_mm)

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
        if config in self._prepared:
            return self._prepared[config]
        self._prepared.clear()
        kept: list[Prepared] = []
        problems: list[tuple[str, str]] = []
        unknown: Counter[int] = Counter()
        room = self.memory_gb * 1e9
        folder: Path | None = None
        for number, scan in enumerate(self.data):
            try:
                prepared, counts = self._prepare_one(scan, config)
            except InputError as error:
                problems.append(_named(scan, str(error)))
            else:
                unknown.update(counts)
                room -= _n_bytes(prepared)
                if room < 0:
                    folder = folder or self._make_folder()
                    prepared = _to_disk(prepared, folder, number)
                kept.append(prepared)
            if progress is not None:
                progress(number + 1, len(self))
        if problems:
            raise InputError(list_problems(problems))
        _warn_unknown(unknown)
        self._prepared[config] = kept
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
        return DataLoader(
            PatchSampler(self.prepare(preprocess), self.config, seed=seed),
            batch_size=self.batch_size,
            num_workers=num_workers,
            # The loader draws a base seed, which must not come from the global state.
            generator=torch.Generator().manual_seed(seed),
        )

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
                prepared, counts = self._prepare_one(
                    scan, preprocess or self.preprocess
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

    def _prepare_one(
        self, scan: Scan, config: PreprocessConfig
    ) -> tuple[Prepared, dict[int, int]]:
        try:
            return prepare_scan(scan, config, self.config, self.binarizer)
        except InputError as error:
            if scan.paths is not None:
                raise
            # What is in memory has no name of its own.
            raise InputError(f"{scan.name}: {error}") from error

    def _make_folder(self) -> Path:
        """A folder for volumes beyond the budget, removed with this dataset."""
        try:
            folder = tempfile.mkdtemp(prefix="nobrainer-", dir=self.directory)
        except OSError as error:
            raise _disk_error(error) from error
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)


def extract_patches(
    volume: np.ndarray,
    label: np.ndarray,
    block_shape: Sequence[int],
    n_patches: int = 10,
    binarize: bool | Collection[int] | Binarizer = False,
    seed: int = 0,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut random patches out of one volume, half of them near labelled voxels.

    Args:
        volume: intensities (I, J, K).
        label: integer labels (I, J, K).
        block_shape: voxels of a patch along each axis; where the volume is smaller,
            the patch is filled with its minimum and label 0.
        n_patches: how many.
        binarize: labels become 0 and 1: True makes foreground of every label value but
            0, a collection of these label values, a function takes the array of label
            values to booleans.
        seed: seed of every random choice.

    Returns:
        Pairs (patch, label patch) of the block shape, with the dtypes of the input
        (uint8 for binarized labels).

    Raises:
        InputError: the arrays are not 3-D of one shape, or a value is out of range.
    """
    volume, label = np.asarray(volume), np.asarray(label)
    if volume.ndim != 3 or volume.shape != label.shape or volume.size == 0:
        raise InputError(
            "volume and label must be 3-D arrays of one shape, got "
            f"{volume.shape} and {label.shape}"
        )
    if not _is_count(n_patches, 1):
        raise InputError(f"n_patches must be an integer >= 1, got {n_patches!r}")
    block = _block(block_shape)
    if binarize is not False:
        chosen: Binarizer | tuple[int, ...] | None = None
        if binarize is not True:
            chosen = binarize if callable(binarize) else binarize_ids(binarize)
        label = find_foreground(label, chosen).astype(np.uint8)
    rng = np.random.default_rng(seed)
    voxels = index_voxels(label, rng)
    fill = volume.min()
    patches = []
    for _ in range(n_patches):
        origin = draw_origin(volume.shape, block, voxels, 0.5, rng)
        image_patch = crop(volume, origin, block, fill)
        patches.append((image_patch, crop(label, origin, block, 0)))
    return patches


def _scans(files: Iterable[Entry]) -> tuple[Scan, ...]:
    """The scans of the entries, each with its own name and whom it shows."""
    parts = [_parts(entry, number) for number, entry in enumerate(files)]
    if not parts:
        raise InputError("files is empty: give at least one scan")
    images = [part.get("image") for part in parts]
    paths = [image for image in images if isinstance(image, str | PathLike)]
    labels = [part.get("label") for part in parts]
    missing = []
    for source in chain.from_iterable(zip(images, labels, strict=True)):
        if isinstance(source, str | PathLike):
            try:
                require_file(Path(source))
            except InputError as error:
                missing.append(str(error))
    if problems := missing or repeats(paths):
        raise InputError("\n".join(problems))
    names = [
        str(image) if isinstance(image, str | PathLike) else f"files[{number}]"
        for number, image in enumerate(images)
    ]
    given = [(part.get("subject") or "", part.get("session") or "") for part in parts]
    shown = scan_names(names, given)
    in_paths = subject_names(
        [
            subject_of(name) if isinstance(image, str | PathLike) else None
            for name, image in zip(names, images, strict=True)
        ]
    )
    return tuple(
        Scan(image, label, name, of_tables, subject or in_path)
        for image, label, name, of_tables, (subject, _), in_path in zip(
            images, labels, names, shown, given, in_paths, strict=True
        )
    )


def _parts(entry: Entry, number: int) -> Mapping[str, Any]:
    """The image, label, subject and session of an entry, as far as it has them."""
    if isinstance(entry, Mapping):
        known = {"image", "label", "subject", "session"}
        if "image" not in entry or not set(entry) <= known:
            raise InputError(
                f"files[{number}] must have the keys 'image' and 'label', and "
                f"'subject' and 'session' if wanted, got {sorted(entry)}"
            )
        for key in ("subject", "session"):
            if not isinstance(entry.get(key), str | None):
                raise InputError(
                    f"files[{number}]: {key} must be text, got {entry[key]!r}"
                )
        return entry
    if isinstance(entry, tuple | list):
        if len(entry) != 2:
            raise InputError(
                f"files[{number}] must be (image, label), got {len(entry)} items"
            )
        return {"image": entry[0], "label": entry[1]}
    return {"image": entry}


def _named(scan: Scan, message: str) -> tuple[str, str]:
    """The file that a message begins with, and what it says of it."""
    files = (scan.image, scan.label)
    names = [str(file) for file in files if isinstance(file, str | PathLike)]
    for name in (*names, scan.name):
        if message.startswith(start := f"{name}: "):
            return name, message.removeprefix(start)
    return scan.name, message


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


def _is_count(value: Any, least: int) -> bool:
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_integer and int(value) >= least


def _block(shape: Sequence[int]) -> Shape3:
    sizes = tuple(shape) if isinstance(shape, Iterable) else (shape,)
    if len(sizes) != 3 or not all(_is_count(size, 1) for size in sizes):
        raise InputError(f"block_shape must be three positive integers, got {shape!r}")
    return int(sizes[0]), int(sizes[1]), int(sizes[2])


def _n_bytes(prepared: Prepared) -> int:
    label = prepared.label
    return prepared.image.nbytes + (0 if label is None else label.nbytes)


def _to_disk(prepared: Prepared, folder: Path, number: int) -> Prepared:
    """The same scan with its arrays memory-mapped."""

    def mapped(array: np.ndarray, kind: str) -> np.ndarray:
        path = folder / f"{number}-{kind}.npy"
        try:
            np.save(path, array)
        except OSError as error:
            raise _disk_error(error) from error
        loaded: np.ndarray = np.load(path, mmap_mode="r")
        return loaded

    label = prepared.label
    return replace(
        prepared,
        image=mapped(prepared.image, "image"),
        label=None if label is None else mapped(label, "label"),
    )


def _disk_error(error: OSError) -> InputError:
    return InputError(
        f"cannot keep prepared volumes on disk ({error}): name a folder with room, "
        ".cache(directory=...), or raise .cache(memory_gb=...)"
    )


def _warn_unknown(counts: Mapping[int, int]) -> None:
    if counts:
        warnings.warn(
            "label values that the mapping does not know became background: "
            + describe_unknown(counts),
            stacklevel=3,
        )
