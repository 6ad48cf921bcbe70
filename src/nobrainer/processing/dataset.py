"""Scans and labels as a frozen record of what to read and how to cut patches."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self

from torch.utils.data import DataLoader

from nobrainer.croissant import write_dataset
from nobrainer.data import cohort, entries, targets
from nobrainer.data.convert import convert
from nobrainer.data.entries import Entry, Scan
from nobrainer.data.file_patches import PatchDataset
from nobrainer.data.labels import LabelTable
from nobrainer.data.mapping import Mappable
from nobrainer.data.patches import (
    PatchSampler,
    as_count,
    check_block_shape,
    extract_patches,
)
from nobrainer.data.prepare import prepare_scan, prepare_scans, working_spacing_mm
from nobrainer.data.prepared import Preparation, Prepared
from nobrainer.data.store import VolumeStore
from nobrainer.data.stored import Ready, find_spacing, list_stored
from nobrainer.errors import InputError
from nobrainer.io import ImageSource
from nobrainer.naming import count
from nobrainer.processing.plan import Plan
from nobrainer.recipe import DataConfig, PreprocessConfig, Synthesis, usual_patches
from nobrainer.types import Shape3
from nobrainer.volume import conformed_geometry

__all__ = ["Dataset", "PatchDataset", "extract_patches"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(Plan):
    """What to read and how to make patches of it; every method gives a new dataset.

    Make one with `from_files`, `from_zarr` or `from_label_maps`. Label values are first
    relabelled, then binarized, whatever the order of the calls. The fields are those of
    `nobrainer.processing.plan.Plan`.

    >>> import numpy as np
    >>> scan = (np.arange(64.0).reshape(4, 4, 4), np.eye(4))
    >>> label = (np.arange(64).reshape(4, 4, 4) // 32, np.eye(4))
    >>> dataset = Dataset.from_files([(scan, label)], block_shape=(2, 2, 2))
    >>> dataset.binarize().batch(8).patches(per_volume=16)
    Dataset(1 scan, 2 classes, batches of 8 patches of 2 x 2 x 2 voxels)
    """

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
                "session", else the path tells them, see `nobrainer.naming`; and
                "split", such as "train", which a store keeps.
            block_shape: voxels of a patch along each axis; None takes (32, 32, 32).
            n_classes: number of classes with background, at least 2; None takes 2, or
                as many as the mapping of `relabel` has.

        Raises:
            InputError: no files, a missing or repeated file, or a value out of range.
        """
        return cls._of(entries.list_scans(files), block_shape, n_classes)

    @classmethod
    def from_zarr(
        cls,
        store: str | PathLike[str],
        split: str | None = None,
        block_shape: Sequence[int] | None = None,
        n_classes: int | None = None,
    ) -> Self:
        """List the scans of a store that `to_zarr` made; patches are read from it.

        The scans are prepared as the store has them: `spacing` and `normalize` cannot
        ask for anything else.

        Args:
            store: path of the store.
            split: takes the scans of one part of the data alone, such as "train"; None
                takes all.
            block_shape, n_classes: as for `from_files`.

        Raises:
            InputError: there is no finished store, files of it are missing, it has no
                scan in that split, or a value is out of range.
        """
        scans, preprocess = list_stored(Path(store), split)
        return replace(
            cls._of(scans, block_shape, n_classes),
            reading=preprocess,
        )

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
        if not scans[0].is_map:
            n_patches = usual_patches(config.block_shape)
            config = replace(config, patches_per_volume=n_patches)
        labels = LabelTable.generic(config.n_classes)
        return cls(data=scans, config=config, labels=labels, asked_classes=asked)

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        block = " x ".join(map(str, self.config.block_shape))
        return (
            f"Dataset({count(len(self), 'scan')}, {self.config.n_classes} classes, "
            f"batches of {self.config.batch_size} patches of {block} voxels)"
        )

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
    def volume_shape(self) -> Shape3:
        """Shape of the first volume on the working grid."""
        grid, to = self.data[0].geometry, self.preprocess
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
    ) -> list[Ready]:
        """Read, check and preprocess every scan; later calls return the same list.

        The voxels of scans in a store stay there until they are needed.

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
                whole = prepared.read()
                yield replace(whole, name=scan.shown) if shown else whole
        targets.warn_of_unknown(unknown)

    def to_zarr(
        self,
        store: str | PathLike[str],
        *,
        workers: int = 1,
        progress: Progress | None = None,
    ) -> Path:
        """Prepare every scan and write it into a store, from which `from_zarr` trains.

        Scans that the store has already are kept as they are, so that a call that was
        interrupted goes on where it stopped, and later scans can be added. The label
        values of the files are kept: `relabel` and `binarize` come with the training.

        Args:
            store: path of the store; a new one gets the dataset's own preprocessing.
            workers: number of processes that read scans; 1 reads them in this one.
            progress: called after each scan with (scans done, scans in all).

        Returns:
            The path of the store.

        Raises:
            InputError: the store cannot be written to, or was made with another
                preprocessing; or some scans cannot be used, a line for each.
        """
        if self.config.synthesis is not None:
            raise InputError("a store holds scans with labels, no label maps alone")
        if self.config.relabel is not None or self.config.binarize != "none":
            raise InputError(
                "a store keeps the label values of the files: leave out relabel and "
                "binarize, and give them to the dataset that from_zarr makes"
            )
        path, workers = Path(store), as_count("workers", workers, 1)
        preprocess = self.preprocess
        if self.reading.spacing_mm is None:
            spacing_mm = find_spacing(path) or preprocess.spacing_mm
            preprocess = replace(preprocess, spacing_mm=spacing_mm)
        convert(self.data, preprocess, path, workers, progress)
        return path

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


def check_dataset(name: str, given: object) -> None:
    """Check that what a user gave in place of scans is a `Dataset`.

    Args:
        name: what the message calls it.
        given: what the user gave.

    Raises:
        InputError: it is anything else; the message says what goes with a loader.
    """
    if isinstance(given, Dataset):
        return
    advice = "make one with Dataset.from_files"
    if isinstance(given, DataLoader):
        advice = "nobrainer.training.fit trains a network on a loader of your own"
    raise InputError(f"{name} must be a Dataset, got {type(given).__name__}: {advice}")
