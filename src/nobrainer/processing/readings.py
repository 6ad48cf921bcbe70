"""What is read from a trained model: how good it is, how sure, which scan is next."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from nobrainer import bundle
from nobrainer.data.entries import Entry
from nobrainer.data.labels import LabelTable
from nobrainer.data.preprocess import background_value, preprocess_image
from nobrainer.errors import InputError
from nobrainer.evaluation import Evaluation, evaluate
from nobrainer.io import ImageSource, read_image
from nobrainer.naming import count, repeats, scan_names
from nobrainer.processing import seen
from nobrainer.processing.alike import dataset_alike
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.fitting import Fitting
from nobrainer.processing.guard import Batch
from nobrainer.processing.prediction import BatchError, Prediction
from nobrainer.processing.progress import ProgressBar
from nobrainer.quality import Case, assess
from nobrainer.ranking import Ranked, check_strategy, rank
from nobrainer.recipe import WeightsFormat
from nobrainer.structures import Structure
from nobrainer.training.engine import is_first_process


class Readings(Fitting):
    """A trained model, and what can be read from it; `Segmentation` is one."""

    def evaluate(
        self,
        dataset: Dataset,
        n_samples: int | None = None,
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
            n_samples, block_shape, batch_size: as in `predict`.
            seed: seed of the draws.
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
        if evaluation:
            _warn_of_strangers(evaluation, learned.labels)
        if batch.problems:
            raise BatchError(evaluation, batch.problems)
        return evaluation

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
        n_samples: int | None = None,
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
        if isinstance(scans, str | PathLike):
            raise InputError(f"scans must be a list of scans, got {str(scans)!r} alone")
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

    def n_draws(self, n_samples: int | None = None) -> int:
        """How many draws there are where `predict` is asked for `n_samples`.

        Args:
            n_samples: the number; None is what `predict` takes by itself.
        """
        return self._check_fitted().n_passes(n_samples)

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

        Warns: `FewerDrawsWarning` where there will be fewer draws, as `predict` does.

        Args:
            n_samples: what `predict` is asked for.

        Raises:
            InputError: quality was learned with another number of draws.
        """
        learned = self._check_fitted()
        learned.check_quality_draws(learned.predictor(n_samples, 0).n_passes)

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


def _warn_of_strangers(evaluation: Evaluation, labels: LabelTable) -> None:
    """Warn where the labels have next to nothing of what the model segments."""
    there = {
        row.structure
        for row in evaluation
        if row.metric == "volume_true_mm3" and row.value > 0
    }
    names = labels.names[1:]
    n_absent = sum(name not in there for name in names)
    if 2 * n_absent > len(names):
        some = ", ".join(map(str, labels.values[1:4]))
        warnings.warn(
            f"the labels lack {n_absent} of the model's "
            f"{count(len(names), 'structure')}: check that they have the values that "
            f"its training had (such as {some}), and what relabel made of them there",
            stacklevel=3,
        )
