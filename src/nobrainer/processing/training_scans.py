"""The scans of a training, read and prepared, and what they hold."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from nobrainer.appearance import measure, summarise
from nobrainer.data.labels import LabelTable
from nobrainer.data.prepare import Prepared
from nobrainer.errors import InputError
from nobrainer.losses import inverse_frequency
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.progress import ProgressBar
from nobrainer.recipe import Cohort, Synthesis


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

    volumes: Sequence[Prepared]
    validation: Sequence[Prepared]
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
        validation: Sequence[Prepared] = ()
        if validate is not None:
            bar.begin("reading", len(validate))
            validation = validate.prepare(preprocess, progress=bar.advance)
        counts = count_voxels(volumes, train.n_classes)
        check_seen(counts, train.labels)
        n_subjects = len({*train.subjects})
        return cls(volumes, validation, counts, n_subjects, train.config.synthesis)

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
        for volume in self.volumes:
            assert volume.label is not None
            grid_mm = volume.geometry.spacing_mm
            looks.append(measure(volume.image, volume.label, grid_mm, volume.voxel_mm))
        return Cohort(
            n_subjects=self.n_subjects,
            log_mean=tuple(mean),
            log_sd=tuple(sd),
            n_having=tuple(np.count_nonzero(self.counts, axis=0).tolist()),
            appearance=summarise(looks),
            n_scans=len(self.volumes),
        )


def count_voxels(volumes: Sequence[Prepared], n_classes: int) -> np.ndarray:
    """Count the voxels of each class in the labels of prepared scans.

    Args:
        volumes: the scans, all with labels; of label maps those of the map count, not
            those of the one image that is made of it.
        n_classes: number of classes, background among them.

    Returns:
        Numbers of voxels, (n_scans, n_classes).
    """
    counts = []
    for volume in volumes:
        label = volume.label if volume.head is None else volume.head.classes
        assert label is not None
        counts.append(np.bincount(label.ravel(), minlength=n_classes))
    return np.array(counts, np.int64)


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
