"""How a dataset reads its scans and makes patches: methods that give a new dataset."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np

from nobrainer.compat import OldFields
from nobrainer.data import targets
from nobrainer.data.augment import AUGMENTATIONS
from nobrainer.data.entries import Scan
from nobrainer.data.labels import LabelTable
from nobrainer.data.mapping import Mappable
from nobrainer.data.patches import as_count
from nobrainer.data.preprocess import NORMALIZERS
from nobrainer.data.targets import Binarizer
from nobrainer.errors import InputError
from nobrainer.recipe import DataConfig, PreprocessConfig
from nobrainer.types import Shape3

_USUAL = PreprocessConfig(outliers="clipped", bright_air="inverted")


@dataclass(frozen=True, eq=False, repr=False)
class Plan(OldFields):
    """What a `Dataset` was told.

    data: the scans.
    config: how patches and targets are made.
    labels: the classes, with names and colours.
    binarizer: the function that `binarize` was given, or None.
    reading: how scans are read; without a voxel size they decide it themselves.
    asked_classes: the `n_classes` that was asked for, None where it was left open.
    memory_gb, directory: what `cache` was given.
    """

    data: tuple[Scan, ...]
    config: DataConfig
    labels: LabelTable
    binarizer: Binarizer | None = None
    reading: PreprocessConfig = _USUAL
    asked_classes: int | None = None
    memory_gb: float = 4.0
    directory: Path | None = None

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
            per_volume: number of patches of each volume, at first 64, and more of
                patches of scans that are smaller than 32³: 1024 of 16³.
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

    def normalize(self, name: str = "zscore") -> Self:
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

    def streaming(self, patches_per_volume: int = 10) -> Self:
        """Cut every patch from disk, and keep no prepared scan in memory.

        Prepared scans lie in files of `cache`'s folder, and those of a store in the
        store.

        Args:
            patches_per_volume: as `per_volume` of `patches`.
        """
        chosen = self.patches(per_volume=patches_per_volume)
        return replace(chosen, memory_gb=0.0)

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

    def _with(self, **changes: Any) -> Self:
        return replace(self, config=replace(self.config, **changes))
