"""Folds of subjects: which scans each member of an ensemble has not seen."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import numpy as np
import torch
from torch import nn

from nobrainer.bayes.draws import is_stochastic
from nobrainer.bayes.ensemble import EnsembleNetwork
from nobrainer.data.cohort import fold_scans
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError, list_problems
from nobrainer.inference.predictor import Predictor
from nobrainer.processing import seen
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.learned import Learned
from nobrainer.processing.training_scans import TrainingScans
from nobrainer.recipe import Cohort, Fold
from nobrainer.training.validation import Validation

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Folds:
    """Which member of an ensemble has not seen a scan.

    numbers: for each scan of a dataset the number of its fold, which is that of the
        member that did not learn from it; empty where there are no folds.
    records: whom each fold has.
    """

    numbers: tuple[int, ...] = ()
    records: tuple[Fold, ...] = ()

    @classmethod
    def divide(cls, dataset: Dataset, n_folds: int | None, seed: int) -> Self:
        """Divide the subjects of a dataset at random, without reading its scans.

        Args:
            dataset: scans with labels, or label maps.
            n_folds: number of folds; None makes none.
            seed: seed of the choice.

        Raises:
            InputError: there are fewer subjects than folds, both scans and label maps,
                or copies of one file in two folds.
        """
        if n_folds is None:
            return cls()
        if len({scan.is_map for scan in dataset.data}) > 1:
            raise InputError(
                "folds divide scans or label maps, not both at once: train on one of "
                "them, or without folds"
            )
        numbers = fold_scans(dataset.data, n_folds, seed)
        dataset.warn_of_subjects(stacklevel=3)
        checksums = seen.image_checksums(dataset)
        _check_apart(dataset, numbers, checksums)
        records = []
        for fold in range(n_folds):
            own = [place for place, number in enumerate(numbers) if number == fold]
            subjects = dict.fromkeys(dataset.subjects[place] for place in own)
            digests = sorted({checksums[place] for place in own} - {""})
            records.append(Fold(tuple(subjects), len(own), tuple(digests)))
        return cls(tuple(numbers), tuple(records))

    @classmethod
    def of_scans(cls, dataset: Dataset, learned: Learned, *, out_of_fold: bool) -> Self:
        """Find out which networks of a model have not seen the scans of a dataset.

        A file is known by its checksum, whatever it is called; a scan in memory by its
        subject.

        Args:
            dataset: scans that training has not seen; with `out_of_fold` all scans that
                it has seen, and no others.
            learned: the model.
            out_of_fold: whether each scan is for the member that has not seen it.

        Returns:
            The folds of the scans; without `out_of_fold` none.

        Raises:
            InputError: the model was trained on a scan; with `out_of_fold`, it was
                trained without folds or on other scans.
        """
        if not out_of_fold:
            seen.check_not_trained_on(dataset, learned)
            return cls()
        records = learned.recipe.provenance.folds
        if not records or not isinstance(learned.network, EnsembleNetwork):
            raise InputError(
                "out_of_fold needs an ensemble that was trained with folds: train one, "
                "or leave it out and give scans that training has not seen"
            )
        of_digest = {d: n for n, fold in enumerate(records) for d in fold.checksums}
        of_subject = {s: n for n, fold in enumerate(records) for s in fold.subjects}
        checksums = seen.image_checksums(dataset)
        numbers = [
            of_digest.get(digest) if digest else of_subject.get(subject)
            for digest, subject in zip(checksums, dataset.subjects, strict=True)
        ]
        found = [number for number in numbers if number is not None]
        if len(found) < len(numbers):
            pairs = zip(dataset.data, numbers, strict=True)
            unknown = (scan.name for scan, number in pairs if number is None)
            what = "is in no fold: give the scans that the model was trained on"
            raise InputError(list_problems((name, what) for name in unknown))
        n_given = Counter(found)
        if any(fold.n_scans > n_given[n] for n, fold in enumerate(records)):
            raise InputError(
                "out_of_fold needs all scans that the model was trained on, got "
                f"{len(found)} of {sum(fold.n_scans for fold in records)}"
            )
        return cls(tuple(found), records)

    def n_patches(self, dataset: Dataset, n_members: int) -> list[int]:
        """How many patches each member learns from in an epoch.

        Args:
            dataset: the scans of all members.
            n_members: number of members.
        """
        taught = self.taught(dataset.data, n_members)
        return [len(scans) * dataset.config.patches_per_volume for scans in taught]

    def taught(self, items: Sequence[T], n_members: int) -> list[Sequence[T]]:
        """What each member learns from: all, or with folds all but its own.

        Args:
            items: something of each scan.
            n_members: number of members.
        """
        if not self.records:
            return [items] * n_members
        pairs = list(zip(items, self.numbers, strict=True))
        return [[one for one, n in pairs if n != fold] for fold in range(n_members)]

    def check_labels(self, counts: np.ndarray, labels: LabelTable) -> None:
        """Check that each scan can be judged; warn of classes that its member lacks.

        Args:
            counts: (n_scans, C) voxels of each class in the labels of the scans.
            labels: names of the C classes.

        Raises:
            InputError: a scan has no voxel of a class but background.
        """
        if not self.records:
            return
        if not counts[:, 1:].any(1).all():
            raise InputError(
                "with folds every scan is judged, so each needs a voxel of a class but "
                "background: leave out the scans that have none"
            )
        for fold, rows in enumerate(self.taught(list(counts), len(self.records))):
            lacking = np.flatnonzero((counts.sum(0) > 0) & (np.sum(rows, axis=0) == 0))
            if lacking.size:
                warnings.warn(
                    f"{', '.join(labels.names[index] for index in lacking)}: only "
                    f"{', '.join(self.records[fold].subjects)} of fold {fold} show it, "
                    "so that the member that is judged on them has never seen it",
                    stacklevel=3,
                )

    def measure(
        self,
        network: nn.Module,
        scans: TrainingScans,
        labels: LabelTable,
        device: torch.device,
    ) -> dict[str, float]:
        """Measure the Dice of each scan with the member that has not seen it.

        Args:
            network: the ensemble.
            scans: the prepared scans.
            labels: names of the classes.
            device: device that the network runs on.

        Returns:
            Figures whose names begin with "out_of_fold_dice"; none without folds.
        """
        if not self.records:
            return {}
        validation = Validation(scans.volumes, labels, device)
        return validation.of_folds(self._members(network))

    def predictors(self, predictor: Predictor, n_scans: int) -> list[Predictor]:
        """What predicts each scan: with folds the member that has not seen it.

        Args:
            predictor: the whole model, and how it is applied.
            n_scans: number of scans.
        """
        if not self.records:
            return [predictor] * n_scans
        members = self._members(predictor.model)
        if not is_stochastic(members[0]):
            sampling = replace(predictor.sampling, n_draws=0)
            predictor = replace(predictor, sampling=sampling)
        return [replace(predictor, model=member) for member in members]

    def judges(self, predictor: Predictor) -> list[Predictor]:
        """The member that has not seen each scan, in one pass with its mean weights.

        Args:
            predictor: the whole model, and how it is applied.

        Returns:
            A predictor for each scan; none without folds.
        """
        if not self.records:
            return []
        sampling = replace(predictor.sampling, n_draws=0)
        return self.predictors(replace(predictor, sampling=sampling), len(self.numbers))

    def cohorts(self, dataset: Dataset, learned: Learned) -> list[Cohort | None]:
        """What the training scans were like for the network that predicts each scan.

        Args:
            dataset: the scans.
            learned: the model.
        """
        if not self.records:
            return [learned.cohort] * len(dataset)
        n_members = len(self.records)
        volumes = dataset.prepare(learned.recipe.preprocess)
        counts = [volume.count_voxels(dataset.n_classes) for volume in volumes]
        known = [
            TrainingScans(
                part, (), np.array(rows), len({*people}), dataset.config.synthesis
            ).cohort()
            for part, rows, people in zip(
                self.taught(volumes, n_members),
                self.taught(counts, n_members),
                self.taught(dataset.subjects, n_members),
                strict=True,
            )
        ]
        return [known[number] for number in self.numbers]

    def _members(self, network: nn.Module) -> list[nn.Module]:
        """For each scan the member of an ensemble that has not seen it."""
        assert isinstance(network, EnsembleNetwork)
        return [network.members[number] for number in self.numbers]


def check_draws(predictors: Sequence[Predictor], whole: Predictor) -> None:
    """Check that what predicts the scans makes as many draws as the model itself.

    Args:
        predictors: what predicts each scan.
        whole: the whole model, and how it is applied.

    Raises:
        InputError: a member has one pass, its ensemble has several.
    """
    n_draws = predictors[0].n_passes
    if n_draws != whole.n_passes:
        raise InputError(
            f"out of fold a member makes {n_draws} pass, but the ensemble "
            f"{whole.n_passes}, so that no intervals can be fitted: give n_samples, or "
            "train a model that draws, such as bayesian_vnet"
        )


def _check_apart(
    dataset: Dataset, numbers: Sequence[int], checksums: Sequence[str]
) -> None:
    """Refuse copies of one scan that are in two folds, under names of two subjects."""
    first: dict[str, int] = {}
    for place, digest in enumerate(checksums):
        other = first.setdefault(digest, place) if digest else place
        if numbers[other] != numbers[place]:
            raise InputError(
                f"{dataset.data[place].name}: is the same scan as "
                f"{dataset.data[other].name}, but of another subject: give one of "
                "them, or say that both are of one subject"
            )
