"""What is read from a trained model: how good it is, how sure, which scan is next."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Self

from torch import nn

from nobrainer import bundle
from nobrainer.calibration import Method, calibrate
from nobrainer.checks import check_share
from nobrainer.data.entries import Entry
from nobrainer.data.labels import LabelTable
from nobrainer.data.prepare import read_scan
from nobrainer.data.prepared import Prepared
from nobrainer.data.preprocess import background_value, preprocess_image
from nobrainer.errors import InputError
from nobrainer.evaluation import Evaluation, evaluate
from nobrainer.io import ImageSource, read_image
from nobrainer.naming import repeats, scan_names
from nobrainer.posthoc import Calibration, QualityModel
from nobrainer.processing import seen
from nobrainer.processing.alike import dataset_alike
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.guard import Batch
from nobrainer.processing.learned import Learned
from nobrainer.processing.prediction import BatchError, Prediction
from nobrainer.processing.progress import ProgressBar
from nobrainer.quality import Case, assess, check_enough, fit_quality
from nobrainer.quality.examples import collect_examples
from nobrainer.ranking import Ranked, check_strategy, rank
from nobrainer.recipe import Recipe, WeightsFormat
from nobrainer.structures import Structure
from nobrainer.training.engine import default_device, is_first_process


class Readings:
    """A trained model, and what can be read from it; `Segmentation` is one.

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

    def evaluate(
        self,
        dataset: Dataset,
        n_samples: int = 10,
        seed: int = 0,
        *,
        block_shape: Sequence[int] | None = None,
        batch_size: int = 1,
        surfaces: bool = True,
        allow_seen: bool = False,
        verbose: bool = True,
    ) -> Evaluation:
        """Compare predictions with the labels of a dataset, one scan at a time.

        Args:
            dataset: scans with labels.
            n_samples: number of draws; a deterministic model makes one pass.
            seed, block_shape, batch_size: as in `predict`.
            surfaces: also measure distances between surfaces, which takes longer.
            allow_seen: also take scans that the model was trained, validated or
                calibrated on, or that its quality was learned from. Figures on them
                are too good: `seen` of their rows and `warning` say so. Such scans
                are known by the checksums of their files, those in memory are not.
            verbose: show progress: a bar on a terminal, else a line a scan.

        Returns: tidy rows (subject, region, structure, metric, value, seen), and
            curves; see `nobrainer.evaluation`.

        Raises:
            InputError: a dataset that is not like the model's, or scans that the model
                has used before.
            BatchError: some scans could not be used; `results` is the evaluation of
                the others.
        """
        learned = self._check_dataset(dataset)
        if not allow_seen:
            seen.check_unused(dataset, learned)
        used = seen.used_before(dataset, learned) if allow_seen else []
        predictor = learned.predictor(n_samples, seed, block_shape, batch_size)
        batch = Batch()
        with ProgressBar(verbose=verbose) as bar:
            bar.begin_scans(len(dataset))

            @contextmanager
            def each(name: str) -> Iterator[None]:
                with bar.scan(name), batch.scan(name):
                    yield

            evaluation = evaluate(
                predictor,
                dataset.iterate(learned.recipe.preprocess, shown=True, each=batch.scan),
                labels=learned.labels,
                intervals=learned.intervals(predictor),
                surfaces=surfaces,
                seen={scan.shown: use for scan, use in used},
                each=each,
            )
        shown = {row.subject for row in evaluation}
        whom = {whom for name, whom in dataset.shown_subjects.items() if name in shown}
        evaluation = replace(evaluation, n_subjects=len(whom))
        if batch.problems:
            raise BatchError(evaluation, batch.problems)
        return evaluation

    def calibrate(
        self,
        dataset: Dataset,
        method: Method = "temperature",
        coverage: float | None = None,
        n_samples: int = 10,
        seed: int = 0,
        *,
        intensity_weight: float = 0.0,
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
            n_samples, seed, block_shape, batch_size, precision: as in `predict`; a
                deterministic model makes one pass.
            intensity_weight: how much the intensities of a scan itself count beside
                the network in predictions from now on, in [0, 1]; 0 not at all. See
                `nobrainer.inference.intensities`. Choose it by held-out Dice.
            verbose: show progress: a bar on a terminal, else a line a scan.

        Returns: self, with `calibration_`.

        Raises:
            InputError: scans that training has seen or without labels, too few for the
                coverage, or a weight out of bounds.
        """
        check_share("intensity_weight", intensity_weight)
        learned = self._check_held_out(dataset)
        dataset.warn_of_subjects(stacklevel=2)
        predictor = replace(
            learned.predictor(n_samples, seed, block_shape, batch_size, precision),
            evidence=learned.evidence(intensity_weight),
        )
        with ProgressBar(verbose=verbose) as bar:
            bar.begin_scans(len(dataset))

            def volumes(scans: Sequence[int]) -> Iterator[Prepared]:
                some = replace(
                    dataset, data=tuple(dataset.data[scan] for scan in scans)
                )
                for volume in some.iterate(learned.recipe.preprocess, shown=True):
                    with bar.scan(volume.name):
                        yield volume

            calibration = calibrate(
                predictor,
                volumes,
                dataset.subjects,
                synthesised=[scan.is_map for scan in dataset.data],
                method=method,
                coverage=coverage,
                totals=learned.totals,
            )
        calibration = replace(
            calibration,
            checksums=seen.scan_checksums(dataset),
            intensity_weight=float(intensity_weight),
        )
        # It changes what the model of quality was fitted on.
        self.learned_ = replace(learned, calibration=calibration, quality=None)
        return self

    def fit_quality(
        self,
        dataset: Dataset,
        n_samples: int = 10,
        seed: int = 0,
        *,
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
            n_samples, seed, block_shape, batch_size, precision: as in `predict`; a
                deterministic model makes one pass.
            severities: severities of each shift, in (0, 1].
            verbose: show progress: a bar on a terminal, else lines.

        Returns: self, with `quality_`.

        Raises:
            InputError: scans that training has seen or without labels, or too few.
        """
        learned = self._check_held_out(dataset)
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
                cohort=learned.cohort,
                severities=severities,
                progress=bar.advance,
            )
        quality = fit_quality(examples, predictor.n_passes)
        quality = replace(
            quality,
            n_images=sum(scan.is_map for scan in dataset.data),
            checksums=seen.scan_checksums(dataset),
        )
        self.learned_ = replace(learned, quality=quality)
        return self

    def quality(self, prediction: Prediction, threshold: float | None = None) -> Case:
        """Score a prediction of this model without a reference, and say why to look.

        Args:
            prediction: what `predict` returned, with several draws where the model can
                draw.
            threshold: score, in [0, 1], below which the score is a reason to look; None
                takes that of the quality model, or 0.8 without one.

        Returns: the score, the features that it comes from and the reasons; see
            `nobrainer.quality`. Without `fit_quality` the score is the mean pairwise
            Dice of the draws.

        Raises:
            InputError: a prediction of another model, or with another number of draws
                than quality was learned with.
        """
        learned = self._check_fitted()
        is_ours = isinstance(prediction, Prediction) and (
            prediction.labels.numbered() == learned.labels.numbered()
        )
        if not is_ours:
            raise InputError(
                "prediction must be what predict of this model returned for "
                "n_samples > 0"
            )
        learned.check_quality_draws(len(prediction.volumes_mm3))
        return assess(
            prediction.name,
            prediction.structures,
            learned.cohort,
            learned.quality,
            threshold=threshold,
            scan=prediction.appearance,
        )

    def rank(
        self,
        scans: Sequence[ImageSource],
        strategy: str = "entropy",
        n_samples: int = 10,
        seed: int = 0,
        *,
        block_shape: Sequence[int] | None = None,
        batch_size: int = 1,
        verbose: bool = True,
    ) -> list[Ranked]:
        """Order unlabelled scans by how much a label for them is wanted.

        Args:
            scans: paths, nibabel images or (array, affine) tuples.
            strategy: a name of `nobrainer.ranking.STRATEGIES`.
            n_samples, seed, block_shape, batch_size: as in `predict`.
            verbose: show progress: a bar on a terminal, else lines.

        Returns: names and scores, most wanted first.

        Raises:
            InputError: an unknown strategy, one that needs draws for a model that
                cannot draw, or a scan that is given twice.
            BatchError: some scans could not be used; `results` ranks the others.
        """
        learned = self._check_fitted()
        check_strategy(strategy, n_draws=learned.n_draws(n_samples))
        predictor = learned.predictor(n_samples, seed, block_shape, batch_size)
        if twice := repeats(s for s in scans if isinstance(s, str | PathLike)):
            raise InputError("\n".join(twice))
        names = scan_names(
            [
                str(source) if isinstance(source, str | PathLike) else f"scans[{n}]"
                for n, source in enumerate(scans)
            ]
        )
        tables: dict[str, tuple[Structure, ...]] = {}
        batch = Batch()
        with ProgressBar(verbose=verbose) as bar:
            bar.begin_scans(len(scans))
            predictor = replace(predictor, on_pass=bar.advance)
            for name, source in zip(names, scans, strict=True):
                with bar.scan(name), batch.scan(source):
                    scan = preprocess_image(
                        read_image(source), learned.recipe.preprocess
                    )
                    _, tables[name], _ = learned.measure(
                        predictor,
                        scan.data,
                        scan.geometry,
                        background_value(scan.data),
                    )
        ranked = rank(tables, strategy, seed)
        if batch.problems:
            raise BatchError(ranked, batch.problems)
        return ranked

    def dataset(
        self,
        files: Iterable[Entry] = (),
        label_maps: Iterable[ImageSource | Mapping[str, Any]] = (),
        n_images: int = 1,
        store: str | PathLike[str] | None = None,
        split: str | None = None,
    ) -> Dataset:
        """Scans, with or without labels, prepared as those that the model learned from.

        Args:
            files: as for `Dataset.from_files`.
            label_maps: as for `Dataset.from_label_maps`: heads of which images are made
                as for the training. They come after the scans.
            n_images: number of images of each label map.
            store, split: as for `Dataset.from_zarr`; its scans come first.

        Raises:
            InputError: files that cannot be used; a model whose labels were
                binarized by a function, which is not kept: binarize them yourself; or
                label maps for a model that has not learned from any.
        """
        learned = self._check_fitted()
        of_files, of_maps = list(files), list(label_maps)
        return dataset_alike(
            *(learned.recipe, learned.labels, of_files, of_maps, n_images),
            store=store,
            split=split,
        )

    def n_draws(self, n_samples: int) -> int:
        """How many draws there are where `predict` is asked for `n_samples`."""
        return self._check_fitted().predictor(n_samples, 0).n_passes

    def coverage(self, n_samples: int) -> float | None:
        """The share of scans whose true volumes lie in the conformal intervals.

        Args:
            n_samples: what `predict` is asked for: intervals hold for the number of
                draws that they were fitted with.

        Returns: the share, in (0, 1); None without intervals for so many draws.
        """
        calibration = self.calibration_
        intervals = None if calibration is None else calibration.intervals
        if intervals is None or intervals.n_draws != self.n_draws(n_samples):
            return None
        return intervals.coverage

    def check_quality(self, n_samples: int) -> None:
        """Check that `quality` can score predictions with this number of draws.

        Args:
            n_samples: what `predict` is asked for.

        Raises:
            InputError: quality was learned with another number of draws.
        """
        self._check_fitted().check_quality_draws(self.n_draws(n_samples))

    def check_unused(self, dataset: Dataset) -> None:
        """Check that the model has not used a dataset's scans for anything before.

        Raises:
            InputError: it has used some; figures on them would be too good.
        """
        seen.check_unused(dataset, self._check_fitted())

    def save(
        self,
        directory: str | Path,
        *,
        overwrite: bool = False,
        weights: WeightsFormat | None = None,
    ) -> Path:
        """Write the model as a folder that `load` reads.

        In a training on several devices only the first process writes.

        Args:
            directory: the folder; new or empty, unless a model is to be replaced.
            overwrite: replace the model that is there.
            weights: number format in which the file keeps the kernels, "float32",
                "float16" or "bfloat16"; the last two halve its size, and round. None
                keeps that of the file which the model was loaded from; for a new model
                it is "float32".

        Returns: the folder.

        Raises:
            InputError: the folder is taken or cannot be written, or the format is
                unknown or too narrow for the weights.
        """
        learned = self._check_fitted()
        if not is_first_process():
            return Path(directory)
        saved = learned.to_bundle()
        if weights is not None:
            model = replace(saved.recipe.model, weights=weights)
            saved = replace(saved, recipe=replace(saved.recipe, model=model))
        return bundle.save(saved, directory, overwrite=overwrite)

    def _check_fitted(self) -> Learned:
        """What the model has learned; `InputError` where that is nothing yet."""
        if not hasattr(self, "learned_"):
            raise InputError("this Segmentation is not fitted: call fit or load first")
        return self.learned_

    def _check_dataset(self, dataset: Dataset) -> Learned:
        """Refuse a dataset without labels, or whose classes are not the model's."""
        learned = self._check_fitted()
        dataset.check_labelled()
        if dataset.n_classes != learned.recipe.data.n_classes:
            raise InputError(
                f"the dataset has n_classes={dataset.n_classes}, the model "
                f"{learned.recipe.data.n_classes}: make the dataset with the model's"
            )
        return learned

    def _check_held_out(self, dataset: Dataset) -> Learned:
        """Refuse a dataset that does not fit, or scans that taught the weights."""
        learned = self._check_dataset(dataset)
        seen.check_not_trained_on(dataset, learned)
        return learned
