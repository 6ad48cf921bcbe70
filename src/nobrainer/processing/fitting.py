"""A trained model, and what is fitted to it on labelled scans after training."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

from torch import nn

from nobrainer.calibration import Method, calibrate
from nobrainer.checks import check_share
from nobrainer.data.labels import LabelTable
from nobrainer.data.prepare import read_scan
from nobrainer.data.prepared import Prepared
from nobrainer.errors import InputError
from nobrainer.posthoc import Calibration, QualityModel
from nobrainer.processing import seen
from nobrainer.processing.dataset import Dataset, check_dataset
from nobrainer.processing.folds import Folds, check_draws
from nobrainer.processing.learned import Learned
from nobrainer.processing.progress import ProgressBar
from nobrainer.quality import check_enough, fit_quality
from nobrainer.quality.examples import collect_examples
from nobrainer.recipe import PreprocessConfig, Recipe
from nobrainer.training.engine import default_device
from nobrainer.types import Shape3


class Fitting:
    """A trained model, its calibration and its quality model.

    learned_: everything that `fit` or `load` found; absent before.
    """

    learned_: Learned

    @property
    def model_(self) -> nn.Module:
        """The trained network."""
        return self.learned_.network

    @property
    def recipe_(self) -> Recipe:
        """How the model was made."""
        return self.learned_.recipe

    @property
    def labels_(self) -> LabelTable:
        """The names, colours and ids of the classes."""
        return self.learned_.labels

    @property
    def n_classes_(self) -> int:
        """Number of classes, with background."""
        return self.recipe_.data.n_classes

    @property
    def block_shape_(self) -> Shape3:
        """Voxels of the patches of the training along each axis."""
        return self.recipe_.data.block_shape

    @property
    def history_(self) -> tuple[dict[str, Any], ...]:
        """A row for each epoch of the training."""
        return self.learned_.history

    @property
    def calibration_(self) -> Calibration | None:
        """What `calibrate` found; None before."""
        return self.learned_.calibration

    @property
    def quality_(self) -> QualityModel | None:
        """What `fit_quality` found; None before."""
        return self.learned_.quality

    @property
    def device(self) -> str:
        """The device that predictions are computed on, such as "cpu" or "cuda"."""
        return str(default_device())

    def calibrate(
        self,
        dataset: Dataset,
        method: Method = "temperature",
        coverage: float | None = None,
        n_samples: int | None = None,
        seed: int = 0,
        *,
        intensity_weight: float = 0.0,
        out_of_fold: bool = False,
        block_shape: Sequence[int] | None = None,
        batch_size: int = 1,
        precision: str = "float32",
        verbose: bool = True,
    ) -> Self:
        """Fit what makes probabilities, and intervals of volumes, mean what they say.

        `predict` and `evaluate` then use it, and `save` keeps it. An earlier
        calibration is replaced, and what `fit_quality` learned is dropped: calibrate
        first.

        Args:
            dataset: scans with labels that training has not seen, or label maps, of
                which images are made: what is fitted then holds for images like
                these. Files that training was fitted to are refused. Scans that it was
                validated on are not, though the best weights were chosen by them.
            method: "temperature", or "vector" for a weight and a bias per class.
            coverage: share of scans, in (0, 1), whose true volumes shall lie in the
                intervals of structure volumes, 0.9 say; None fits no intervals.
            n_samples, block_shape, batch_size, precision: as in `predict`.
            seed: seed of the draws.
            intensity_weight: how much the intensities of a scan itself count beside
                the network in predictions from now on, in [0, 1]; 0 not at all. See
                `nobrainer.inference.intensities`. Choose it by held-out Dice.
            out_of_fold: the scans are those that a model with folds was trained on;
                each is predicted by the one member that has not seen it.
            verbose: show progress: a bar on a terminal, else a line a scan.

        Returns: self, with `calibration_`.

        Raises:
            InputError: scans that training has seen or without labels, too few for the
                coverage, or a weight out of bounds.
        """
        check_share("intensity_weight", intensity_weight)
        learned = self._check_dataset(dataset)
        folds = Folds.of_scans(dataset, learned, out_of_fold=out_of_fold)
        dataset.warn_of_subjects(stacklevel=2)
        predictor = replace(
            learned.predictor(n_samples, seed, block_shape, batch_size, precision),
            evidence=learned.evidence(intensity_weight),
        )
        predictors = folds.predictors(predictor, len(dataset))
        if coverage is not None:
            check_draws(predictors, predictor)
        with ProgressBar(verbose=verbose) as bar:
            bar.begin_scans(len(dataset))
            calibration = calibrate(
                predictors,
                partial(_read_some, dataset, learned.recipe.preprocess, bar),
                dataset.subjects,
                synthesised=[scan.is_map for scan in dataset.data],
                method=method,
                coverage=coverage,
                totals=learned.totals,
                sides=learned.labels.sides_together(),
            )
        calibration = replace(
            calibration,
            checksums=seen.scan_checksums(dataset),
            intensity_weight=float(intensity_weight),
            out_of_fold=out_of_fold,
        )
        # It changes what the model of quality was fitted on.
        self.learned_ = replace(learned, calibration=calibration, quality=None)
        return self

    def fit_quality(
        self,
        dataset: Dataset,
        n_samples: int | None = None,
        seed: int = 0,
        *,
        out_of_fold: bool = False,
        severities: Sequence[float] = (1 / 3, 2 / 3, 1.0),
        block_shape: Sequence[int] | None = None,
        batch_size: int = 1,
        precision: str = "float32",
        verbose: bool = True,
    ) -> Self:
        """Learn to tell how good a segmentation is without a reference.

        Each scan is predicted as it is and under every simulated shift of
        `nobrainer.data.shifts` at each severity, so that there are bad segmentations
        to learn from. `quality` then uses it, and `save` keeps it.

        Args:
            dataset: scans with labels, or label maps, of three subjects or more, which
                training has not seen.
            n_samples, block_shape, batch_size, precision: as in `predict`.
            seed: seed of the draws.
            out_of_fold: the scans are those that a model with folds was trained on. The
                Dice is that of the one member that has not seen a scan, with its mean
                weights; the features are those of all members together.
            severities: severities of each shift, in (0, 1].
            verbose: show progress: a bar on a terminal, else lines.

        Returns: self, with `quality_`.

        Raises:
            InputError: scans that training has seen or without labels, or too few.
        """
        learned = self._check_dataset(dataset)
        folds = Folds.of_scans(dataset, learned, out_of_fold=out_of_fold)
        dataset.warn_of_subjects(stacklevel=2)
        predictor = learned.predictor(
            n_samples, seed, block_shape, batch_size, precision
        )
        check_enough(dataset.subjects)
        preparation = dataset.preparation(learned.recipe.preprocess)
        scans = (
            replace(read_scan(scan, preparation), name=scan.shown)
            for scan in dataset.data
        )
        with ProgressBar(verbose=verbose) as bar:
            bar.begin("learning quality", len(dataset))
            examples = collect_examples(
                predictor,
                scans,
                dataset.subjects,
                preparation.preprocess,
                labels=learned.labels,
                cohorts=folds.cohorts(dataset, learned),
                judges=folds.judges(predictor),
                severities=severities,
                progress=bar.advance,
            )
        quality = fit_quality(examples, predictor.n_passes)
        quality = replace(
            quality,
            n_images=sum(scan.is_map for scan in dataset.data),
            checksums=seen.scan_checksums(dataset),
            out_of_fold=out_of_fold,
        )
        self.learned_ = replace(learned, quality=quality)
        return self

    def _check_fitted(self) -> Learned:
        """What the model has learned; `InputError` where that is nothing yet."""
        if not hasattr(self, "learned_"):
            raise InputError("this Segmentation is not fitted: call fit or load first")
        return self.learned_

    def _check_dataset(self, dataset: Dataset) -> Learned:
        """Refuse a dataset without labels, or whose classes are not the model's."""
        learned = self._check_fitted()
        check_dataset("dataset", dataset)
        dataset.check_labelled()
        if dataset.n_classes != learned.recipe.data.n_classes:
            raise InputError(
                f"the dataset has n_classes={dataset.n_classes}, the model "
                f"{learned.recipe.data.n_classes}: make the dataset with the model's"
            )
        return learned


def _read_some(
    dataset: Dataset, how: PreprocessConfig, bar: ProgressBar, scans: Sequence[int]
) -> Iterator[Prepared]:
    """The scans of these numbers, prepared, while the bar shows each at work."""
    some = replace(dataset, data=tuple(dataset.data[scan] for scan in scans))
    for volume in some.iterate(how, shown=True):
        with bar.scan(volume.name):
            yield volume
