"""The scans of a training, read and prepared, and what they hold."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

from nobrainer.appearance import measure, summarise
from nobrainer.data.labels import LabelTable
from nobrainer.data.prepared import Prepared
from nobrainer.data.stored import Ready, Stored
from nobrainer.errors import InputError
from nobrainer.losses import inverse_frequency
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.progress import ProgressBar
from nobrainer.recipe import Cohort, Synthesis
from nobrainer.training.validation import Validation

MOST_MEASURED = 50
"""The most scans of a store that are read to say what the training scans look like."""


@dataclass(frozen=True, eq=False)
class TrainingScans:
    """Prepared scans, and the classes in their labels.

    volumes: the scans to train on.
    validation: the scans to validate on; none without validation.
    counts: (n_scans, C) voxels of each class in the labels of `volumes`; of label maps,
        before the heads in them are deformed.
    n_subjects: number of people whom `volumes` show.
    synthesis: how images are made of label maps, where there are some.
    """

    volumes: Sequence[Ready]
    validation: Sequence[Ready]
    counts: np.ndarray
    n_subjects: int
    synthesis: Synthesis | None = None

    @classmethod
    def read(cls, train: Dataset, validate: Dataset | None, bar: ProgressBar) -> Self:
        """Read, check and prepare every scan, those for validation as the others.

        Args:
            train: scans to train on.
            validate: scans to validate on.
            bar: shows how many scans are read.

        Raises:
            InputError: some scans cannot be used, or no training scan has a voxel of a
                class but background.
        """
        preprocess = train.preprocess
        bar.begin("reading", len(train))
        volumes = train.prepare(progress=bar.advance)
        validation: Sequence[Ready] = ()
        if validate is not None:
            bar.begin("reading", len(validate))
            validation = validate.prepare(preprocess, progress=bar.advance)
        counts = np.array([one.count_voxels(train.n_classes) for one in volumes])
        check_seen(counts, train.labels)
        n_subjects = len({*train.subjects})
        return cls(volumes, validation, counts, n_subjects, train.config.synthesis)

    def validator(self, labels: LabelTable, device: torch.device) -> Validation | None:
        """What measures a network after each epoch; None without scans for it.

        Args:
            labels: names of the classes.
            device: device that the network runs on.
        """
        if not self.validation:
            return None
        return Validation(self.validation, labels, device)

    @property
    def class_weights(self) -> tuple[float, ...]:
        """Weights of the classes in the loss that even out how frequent they are."""
        return tuple(inverse_frequency(torch.from_numpy(self.counts.sum(0))).tolist())

    def cohort(self) -> Cohort:
        """How large the classes are in the training scans, and what these look like.

        The heads of label maps are seen in other sizes, too: this adds the variance of
        the logarithm of a volume whose three sides are drawn by `Synthesis.scale`.
        """
        is_map = [volume.head is not None for volume in self.volumes]
        scale = 0.0 if self.synthesis is None else self.synthesis.scale
        added = float(np.mean(is_map)) * scale**2
        voxel_mm3 = np.array([volume.geometry.voxel_mm3 for volume in self.volumes])
        sizes = self.counts * voxel_mm3[:, None]
        mean: list[float | None] = []
        sd: list[float | None] = []
        for found in sizes.T:
            logs = np.log(found[found > 0])
            enough = len(logs) >= 2
            mean.append(float(logs.mean()) if enough else None)
            sd.append(math.sqrt(logs.var(ddof=1) + added) if enough else None)
        looks = []
        for volume in _to_measure(self.volumes):
            assert volume.label is not None
            grid = volume.geometry
            look = measure(volume.image, volume.label, grid, volume.voxel_mm)
            if volume.head is not None:
                # A lesion in a label map stands out by chance in each of its images.
                look = replace(look, misfits=())
            looks.append(look)
        return Cohort(
            n_subjects=self.n_subjects,
            log_mean=tuple(mean),
            log_sd=tuple(sd),
            n_having=tuple(np.count_nonzero(self.counts, axis=0).tolist()),
            appearance=summarise(looks),
            n_scans=len(self.volumes),
        )


def _to_measure(volumes: Sequence[Ready]) -> Iterator[Prepared]:
    """The scans whose looks are measured, one after the other.

    Those in memory all count. Those in a store must be read for it: of many, a number
    at even distances stand for all.
    """
    n_stored = sum(isinstance(volume, Stored) for volume in volumes)
    step = max(1, math.ceil(n_stored / MOST_MEASURED))
    place = 0
    for volume in volumes:
        if isinstance(volume, Prepared):
            yield volume
            continue
        if place % step == 0:
            yield volume.read()
        place += 1


def check_seen(counts: np.ndarray, labels: LabelTable) -> None:
    """Warn of classes that no training scan has; refuse where that is all of them.

    Args:
        counts: (n_scans, C) voxels of each class.
        labels: names of the C classes.

    Raises:
        InputError: there is nothing but background.
    """
    missing = [labels.names[index] for index in np.flatnonzero(counts.sum(0) == 0)]
    if not counts[:, 1:].any():
        raise InputError(
            "dataset_train has no voxel of a class but background: check its labels, "
            "and what relabel and binarize make of them"
        )
    if missing:
        warnings.warn(
            f"no training scan has a voxel of {', '.join(missing)}: the model cannot "
            "find what it has never seen",
            stacklevel=4,
        )
