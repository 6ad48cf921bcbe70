"""The estimator: fit a network to labelled scans, predict with uncertainty."""

import secrets
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from inspect import Parameter, signature
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self, overload

import nibabel as nib
import numpy as np
import torch
from torch import Tensor, nn

from nobrainer import bundle, models, training
from nobrainer.appearance import measure
from nobrainer.bayes.draws import is_stochastic
from nobrainer.bayes.ensemble import EnsembleNetwork
from nobrainer.bayes.layers import name_sites
from nobrainer.bayes.warm_start import warm_start as start_warm
from nobrainer.calibration import Method, calibrate
from nobrainer.checks import check_arguments, check_choice, takes
from nobrainer.data.entries import Entry, Scan
from nobrainer.data.labels import LabelTable
from nobrainer.data.patches import patch_loader
from nobrainer.data.prepare import Prepared
from nobrainer.data.preprocess import NORMALIZERS, background_value, preprocess_image
from nobrainer.data.shifts import SHIFTS
from nobrainer.errors import InputError, UnusualScanWarning, list_problems
from nobrainer.evaluation import Evaluation, evaluate
from nobrainer.inference.moments import MOST_DRAWS
from nobrainer.inference.predict import Sampling, Scaling, TileResult
from nobrainer.inference.predictor import Predictor
from nobrainer.io import (
    ImageSource,
    read_image,
    source_name,
    to_nibabel,
)
from nobrainer.losses import LOSSES
from nobrainer.memory import require_memory
from nobrainer.metrics.overlap import confusion, dice
from nobrainer.models.check import load_weights
from nobrainer.models.registry import OWN, Model, at_most, builder_of
from nobrainer.naming import repeats, scan_names
from nobrainer.posthoc import Calibration, Intervals, QualityModel
from nobrainer.processing import fitting
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.guard import Batch
from nobrainer.processing.prediction import BatchError, Prediction
from nobrainer.processing.progress import ProgressBar
from nobrainer.provenance import now
from nobrainer.quality import (
    FEATURES,
    Case,
    Example,
    assess,
    check_enough,
    features,
    fit_quality,
    unlike_training,
)
from nobrainer.ranking import Ranked, check_strategy, rank
from nobrainer.recipe import ModelConfig, Provenance, Recipe, TrainingConfig
from nobrainer.structures import Structure, StructureSums
from nobrainer.system import check_writable
from nobrainer.training.checkpoint import LAST, read_checkpoint
from nobrainer.training.engine import (
    default_device,
    inference_dtype,
    is_first_process,
    resolve_precision,
)
from nobrainer.training.options import TrainingOptions
from nobrainer.types import Shape3
from nobrainer.volume import Geometry, restore

MAPS = ("label", "variance", "entropy", "mutual_information")
DEFAULT_LEARNING_RATE = 3e-3
"""Of Adam, where `fit` is given no `opt_args`."""
DEFAULT_DRAWS = 10
"""Of a model that can draw, where `predict` is not told how many."""


class Segmentation:
    """A segmentation network with `fit` and `predict`.

    Args:
        base_model: a name of `nobrainer.models.available_models()`, or a network of
            your own: a `torch.nn.Module`, of which each `fit` trains a copy, or its
            class or a function that builds it.
        model_args: arguments of that model; `n_classes` is taken from the training
            data where it is not given and the model takes it.
        checkpoint_filepath: folder for checkpoints during training (`last`, `best`);
            None keeps none.

    Learned: `model_` (the network), `recipe_`, `history_` (a row an epoch),
    `labels_`; on held-out scans `calibration_` and `quality_`, None before.

    Raises `InputError` for an unknown model or argument, naming the near miss.
    """

    calibration_: Calibration | None
    quality_: QualityModel | None

    def __init__(
        self,
        base_model: Model = "bayesian_vnet",
        model_args: Mapping[str, Any] | None = None,
        checkpoint_filepath: str | PathLike[str] | None = None,
    ) -> None:
        args = dict(model_args or {})
        build = builder_of(base_model)
        kind = f"argument of model {models.name_of(base_model)!r}"
        check_arguments(kind, build, args)
        self.base_model = base_model
        self.model_args = args
        self.checkpoint_filepath = checkpoint_filepath

    def __repr__(self) -> str:
        state = "not trained"
        if hasattr(self, "recipe_"):
            names = _shortened(self.labels_.names[1:])
            state = f"trained for {len(self.history_)} epochs, classes {names}"
        return f"Segmentation({models.name_of(self.base_model)!r}, {state})"

    def fit(
        self,
        dataset_train: Dataset,
        dataset_validate: Dataset | None = None,
        epochs: int = 1,
        optimizer: type[torch.optim.Optimizer] = torch.optim.Adam,
        opt_args: Mapping[str, Any] | None = None,
        loss: str | Callable[[Tensor, Tensor], Tensor] | None = None,
        class_weights: Sequence[float] | str | None = None,
        *,
        seed: int = 0,
        warm_start: "Segmentation | str | PathLike[str] | None" = None,
        resume: bool = False,
        verbose: bool = True,
        options: TrainingOptions | None = None,
    ) -> Self:
        """Train on a dataset; all its files are read and checked before the first step.

        Args:
            dataset_train: scans with labels.
            dataset_validate: scans on which the Dice of whole volumes is measured
                after each epoch (with the posterior mean); the model keeps its best
                weights by it.
            epochs: number of passes of `patches_per_volume` patches per volume.
            optimizer: class of the optimiser.
            opt_args: its arguments; default {"lr": DEFAULT_LEARNING_RATE}.
            loss: "cross_entropy" (default), "dice", "dice_ce", or a function of logits
                (B, C, I, J, K) and labels (B, I, J, K). A Bayesian model adds
                kl_weight · KL / n_weights.
            class_weights: one weight per class, or "auto" for inverse frequency.
            seed: seed of initial weights, patches and weight draws.
            warm_start: a trained deterministic model (or its folder) of the same
                network, at whose weights the posterior means begin.
            resume: go on from the last checkpoint in `checkpoint_filepath`, if any.
            verbose: show progress: a bar on a terminal, else lines.
            options: what else can be said of a training: schedule of the learning rate,
                gradients, when to stop, precision and devices.

        Returns: self.

        Raises:
            InputError: files or arguments that cannot be used, or training labels
                without foreground.
            DivergedError: a loss was not finite; names the batch's files.
        """
        options = options or TrainingOptions()
        _check_datasets(dataset_train, dataset_validate, options.patience)
        _check_loss(loss, class_weights)
        opt_args = dict(opt_args or {"lr": DEFAULT_LEARNING_RATE})
        check_arguments(f"argument of {optimizer.__name__}", optimizer, opt_args)
        precision = resolve_precision(options.precision)
        data = dataset_train.config
        model = ModelConfig(
            models.name_of(self.base_model), self._model_args(data.n_classes)
        )
        trained = None if warm_start is None else _trained(warm_start, model)
        config = TrainingConfig(
            epochs=epochs,
            optimizer=f"{optimizer.__module__}.{optimizer.__qualname__}",
            opt_args=opt_args,
            loss=_loss_name(loss),
            class_weights=fitting.class_weights(class_weights, data.n_classes),
            schedule=options.schedule,
            seed=seed,
            precision=precision,
            gradient_clip=options.gradient_clip,
            accumulate=options.accumulate,
            patience=options.patience,
            max_minutes=options.max_minutes,
            warm_start=None if trained is None else _digest(trained),
            warm_start_delta=None if trained is None else options.warm_start_delta,
        )
        # All of it once, as `load` does, before anything is read or trained.
        network = fitting.first_network(model, seed, self.base_model)
        if trained is not None:
            start_warm(network, trained, options.warm_start_delta)
        members = fitting.members(model, seed)
        n_patches = len(dataset_train) * data.patches_per_volume
        fitting.check_networks(
            [*members.values()],
            self.base_model,
            data,
            -(-n_patches // options.devices),
            optimizer,
            opt_args,
        )
        directory = self._directory(resume, len(members))
        started = now()
        fabric = training.make_fabric(precision, options.devices)
        slow = dataset_train.batch_size == 1 and fabric.device.type == "cpu"
        if slow and precision == "32-true":
            warnings.warn(
                "on a CPU, PyTorch convolves float32 batches of one several times "
                "slower than batches of two: use .batch(2)",
                stacklevel=2,
            )
        preprocess = dataset_train.preprocess
        with ProgressBar(verbose=verbose and fabric.is_global_zero) as bar:
            bar.begin("reading", len(dataset_train))
            volumes = dataset_train.prepare(progress=bar.advance)
            validation: list[Prepared] = []
            if dataset_validate is not None:
                bar.begin("reading", len(dataset_validate))
                validation = dataset_validate.prepare(preprocess, progress=bar.advance)
            counts = fitting.count_voxels(volumes, dataset_train.n_classes)
            fitting.check_seen(counts, dataset_train.labels)
            if class_weights == "auto":
                found = fitting.automatic_weights(counts)
                config = replace(config, class_weights=found)
            recipe = Recipe(
                model=model,
                preprocess=preprocess,
                data=dataset_train.config,
                training=config,
                provenance=Provenance(
                    started=started,
                    ended=started,
                    versions=fitting.software(),
                    files=fitting.records(dataset_train, dataset_validate),
                    metrics={},
                    cohort=fitting.cohort(
                        volumes, counts, len({*dataset_train.subjects})
                    ),
                    member_seeds=tuple(members) if len(members) > 1 else (),
                    n_synthetic=fitting.count_synthetic(dataset_train),
                    n_maps=fitting.count_maps(dataset_train),
                ),
            )
            data_loss = _data_loss(loss, config.class_weights)
            validate = fitting.validator(
                validation, dataset_train.labels, fabric.device
            )
            networks: list[nn.Module] = []
            history: list[dict[str, Any]] = []
            metrics: list[dict[str, float]] = []
            for number, (member_seed, member) in enumerate(members.items()):
                network = fitting.initial_network(member, member_seed, self.base_model)
                if trained is not None:
                    start_warm(network, trained, options.warm_start_delta)
                lone = len(members) == 1
                folder = directory and (
                    directory if lone else directory / f"member-{number}"
                )
                minutes = options.max_minutes and options.max_minutes / len(members)
                job = training.Job(
                    objective=fitting.objective(network, data_loss, volumes),
                    optimizer=fitting.make_optimizer(optimizer, network, opt_args),
                    loader=patch_loader(
                        volumes,
                        data,
                        seed=member_seed,
                        num_workers=options.num_workers,
                    ),
                    recipe=replace(
                        recipe,
                        model=member,
                        training=replace(
                            recipe.training, seed=member_seed, max_minutes=minutes
                        ),
                    ),
                    labels=dataset_train.labels,
                    validate=validate,
                    directory=folder,
                    on_epoch=options.on_epoch
                    if lone or options.on_epoch is None
                    else partial(_with_member, options.on_epoch, number),
                )
                loop = training.Training(fabric, job, bar)
                if resume and folder is not None:
                    loop.resume(folder)
                rows = loop.run()
                networks.append(network.eval())
                metrics.append(fitting.final_metrics(rows, loop.best))
                history += rows if lone else [{"member": number, **r} for r in rows]
        ended = replace(
            recipe.provenance, ended=now(), metrics=fitting.mean_of(metrics)
        )
        self._learned(
            networks[0]
            if len(networks) == 1
            else name_sites(EnsembleNetwork(networks)),
            replace(recipe, provenance=ended),
            tuple(history),
            dataset_train.labels,
        )
        return self

    @overload
    def predict(
        self,
        x: ImageSource,
        batch_size: int = ...,
        block_shape: Sequence[int] | None = ...,
        n_samples: None = ...,
        seed: int | None = ...,
        *,
        probabilities: Literal[False] = ...,
        class_numbers: bool = ...,
        precision: str = ...,
        verbose: bool = ...,
        on_pass: Callable[[int, int], None] | None = ...,
    ) -> nib.Nifti1Image | Prediction: ...
    @overload
    def predict(
        self,
        x: ImageSource,
        batch_size: int = ...,
        block_shape: Sequence[int] | None = ...,
        n_samples: Literal[0] = ...,
        seed: int | None = ...,
        *,
        probabilities: Literal[False] = ...,
        class_numbers: bool = ...,
        precision: str = ...,
        verbose: bool = ...,
        on_pass: Callable[[int, int], None] | None = ...,
    ) -> nib.Nifti1Image: ...
    @overload
    def predict(
        self,
        x: ImageSource,
        batch_size: int = ...,
        block_shape: Sequence[int] | None = ...,
        n_samples: int | None = ...,
        seed: int | None = ...,
        *,
        probabilities: bool = ...,
        class_numbers: bool = ...,
        precision: str = ...,
        verbose: bool = ...,
        on_pass: Callable[[int, int], None] | None = ...,
    ) -> Prediction: ...
    @overload
    def predict(
        self,
        x: list[Any],
        batch_size: int = ...,
        block_shape: Sequence[int] | None = ...,
        n_samples: None = ...,
        seed: int | None = ...,
        *,
        probabilities: Literal[False] = ...,
        class_numbers: bool = ...,
        precision: str = ...,
        verbose: bool = ...,
        on_pass: Callable[[int, int], None] | None = ...,
    ) -> list[nib.Nifti1Image | Prediction]: ...
    @overload
    def predict(
        self,
        x: list[Any],
        batch_size: int = ...,
        block_shape: Sequence[int] | None = ...,
        n_samples: Literal[0] = ...,
        seed: int | None = ...,
        *,
        probabilities: Literal[False] = ...,
        class_numbers: bool = ...,
        precision: str = ...,
        verbose: bool = ...,
        on_pass: Callable[[int, int], None] | None = ...,
    ) -> list[nib.Nifti1Image]: ...
    @overload
    def predict(
        self,
        x: list[Any],
        batch_size: int = ...,
        block_shape: Sequence[int] | None = ...,
        n_samples: int | None = ...,
        seed: int | None = ...,
        *,
        probabilities: bool = ...,
        class_numbers: bool = ...,
        precision: str = ...,
        verbose: bool = ...,
        on_pass: Callable[[int, int], None] | None = ...,
    ) -> list[Prediction]: ...
    def predict(
        self,
        x: ImageSource | list[Any],
        batch_size: int = 1,
        block_shape: Sequence[int] | None = None,
        n_samples: int | None = None,
        seed: int | None = None,
        *,
        probabilities: bool = False,
        class_numbers: bool = False,
        precision: str = "float32",
        verbose: bool = True,
        on_pass: Callable[[int, int], None] | None = None,
    ) -> nib.Nifti1Image | Prediction | list[Any]:
        """Segment a scan, or several.

        Each of `n_samples` draws of the weights is applied to the whole scan. A scan
        that is unlike the training scans, or whose segmentation is, gets an
        `UnusualScanWarning` that says why; a `Prediction` keeps the reasons in
        `flags`. The result does not depend on `block_shape` or `batch_size` (except
        for networks with global operations, such as `unet` with instance norm).

        Args:
            x: a path, a nibabel image or an (array, affine) tuple; or a list of them.
            batch_size: slabs per pass: more at a time, with more memory.
            block_shape: voxels of a tile; None lets the memory decide.
            n_samples: draws of the weights; 0 is one pass with the posterior mean. None
                takes 10 of a model that can draw, and one pass of a deterministic
                one, which has no more than that in any case.
            seed: seed of the draws; None takes a fresh one, which the result records.
            probabilities: keep the mean class probabilities, too.
            class_numbers: label maps carry the numbers 0, 1, 2, ... of the classes;
                else the values of the training's label files (FreeSurfer's ids, say)
                where every class has one, see `LabelTable.values`.
            precision: "float32", or "bfloat16", faster on a device that has it.
            verbose: show progress: a bar on a terminal, else a line a scan.
            on_pass: is called with how many passes over the scan are done, and of how
                many.

        Returns: a `Prediction`, which unpacks into label, variance and entropy. For
            n_samples=0, and for a deterministic model where n_samples is not given,
            the label image alone, unless there are to be probabilities. For a list, a
            list of them.

        Raises:
            InputError: a scan or argument that cannot be used.
            BatchError: some scans of a list could not be used; the others are done.
        """
        self._check_fitted()
        if n_samples is None:
            n_samples = self._draws(DEFAULT_DRAWS)
        elif n_samples and not is_stochastic(self.model_):
            warnings.warn(
                f"{self.recipe_.model.name} has no stochastic layer: one pass is all "
                "there is, and variance is 0",
                stacklevel=2,
            )
        predictor = self._predictor(n_samples, seed, block_shape, batch_size, precision)
        label_only = n_samples == 0 and not probabilities
        labels = self.labels_.numbered() if class_numbers else self.labels_
        how = predictor, label_only, probabilities, labels
        sources = x if isinstance(x, list) else [x]
        names = scan_names([source_name(source) for source in sources])
        results: list[Any] = [None] * len(sources)
        batch = Batch(stop_at_first=sources is not x)
        with ProgressBar(verbose=verbose) as bar:
            bar.begin_scans(len(sources))
            on_pass = on_pass or bar.advance
            for number, (source, name) in enumerate(zip(sources, names, strict=True)):
                with bar.scan(name), batch.scan(source):
                    results[number] = self._predict_one(source, name, *how, on_pass)
        if sources is not x:
            return results[0]
        if batch.problems:
            raise BatchError(results, batch.problems)
        return results

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
            n_samples: draws; a deterministic model makes one pass.
            seed, block_shape, batch_size: as in `predict`.
            surfaces: measure distances between surfaces, too, which takes longer.
            allow_seen: take scans, too, that the model was trained, validated or
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
        self._check_dataset(dataset)
        if not allow_seen:
            self.check_unused(dataset)
        used = self._used_before(dataset) if allow_seen else []
        predictor = self._predictor(n_samples, seed, block_shape, batch_size)
        batch = Batch()
        with ProgressBar(verbose=verbose) as bar:
            bar.begin_scans(len(dataset))

            @contextmanager
            def each(name: str) -> Iterator[None]:
                with bar.scan(name), batch.scan(name):
                    yield

            evaluation = evaluate(
                predictor,
                dataset.iterate(self.recipe_.preprocess, shown=True, each=batch.scan),
                labels=self.labels_,
                intervals=self._intervals(predictor),
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
        block_shape: Sequence[int] | None = None,
        batch_size: int = 1,
        verbose: bool = True,
    ) -> Self:
        """Fit what makes probabilities, and intervals of volumes, mean what they say.

        `predict` and `evaluate` then use it, and `save` keeps it. An earlier
        calibration is replaced, and what `fit_quality` learned is dropped: calibrate
        first.

        Args:
            dataset: scans with labels that training has not seen; files that it was
                fitted to are refused. Scans that it was validated on are not, though
                the best weights were chosen by them.
            method: "temperature", or "vector" for a weight and a bias per class.
            coverage: also fit intervals of structure volumes that hold the true
                volume of this share of scans (0.9, say); None fits none.
            n_samples, seed, block_shape, batch_size: as in `predict`; a
                deterministic model makes one pass.
            verbose: show progress: a bar on a terminal, else a line a scan.

        Returns: self, with `calibration_`.

        Raises:
            InputError: scans that training has seen or without labels, or too few
                for the coverage.
        """
        self._check_dataset(dataset)
        self._refuse_seen(dataset)
        dataset.warn_of_subjects(stacklevel=2)
        predictor = self._predictor(n_samples, seed, block_shape, batch_size)
        with ProgressBar(verbose=verbose) as bar:
            bar.begin_scans(len(dataset))

            def volumes(scans: Sequence[int]) -> Iterator[Prepared]:
                some = replace(
                    dataset, data=tuple(dataset.data[scan] for scan in scans)
                )
                for volume in some.iterate(self.recipe_.preprocess, shown=True):
                    with bar.scan(volume.name):
                        yield volume

            calibration = calibrate(
                predictor, volumes, dataset.subjects, method=method, coverage=coverage
            )
        # It changes what the model of quality was fitted on.
        checksums = fitting.fingerprint(dataset)
        self.calibration_ = replace(calibration, checksums=checksums)
        self.quality_ = None
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
        verbose: bool = True,
    ) -> Self:
        """Learn to tell how good a segmentation is without a reference.

        Each scan is predicted as it is and under every simulated shift of
        `nobrainer.data.shifts` at each severity, so that there are bad segmentations
        to learn from. `quality` then uses it, and `save` keeps it.

        Args:
            dataset: scans with labels of three subjects or more, which training has
                not seen.
            n_samples, seed, block_shape, batch_size: as in `predict`; a
                deterministic model makes one pass.
            severities: severities of each shift, in (0, 1].
            verbose: show progress: a bar on a terminal, else lines.

        Returns: self, with `quality_`.

        Raises:
            InputError: scans that training has seen or without labels, or too few.
        """
        self._check_dataset(dataset)
        self._refuse_seen(dataset)
        dataset.warn_of_subjects(stacklevel=2)
        predictor = self._predictor(n_samples, seed, block_shape, batch_size)
        subjects = dataset.subjects
        check_enough(subjects)
        examples = []
        total = len(dataset) * (1 + len(SHIFTS) * len(severities))
        with ProgressBar(verbose=verbose) as bar:
            bar.begin("learning quality", total)
            versions = fitting.versions_of(dataset, severities, seed)
            for done, (number, is_shifted, source) in enumerate(versions):
                one = replace(dataset, data=(source,))
                (volume,) = one.iterate(self.recipe_.preprocess)
                assert volume.label is not None
                n_classes = dataset.n_classes
                table = np.zeros((n_classes, n_classes), np.int64)
                label = np.empty_like(volume.label)

                def count(
                    tile: TileResult,
                    truth: np.ndarray = volume.label,
                    table: np.ndarray = table,
                    label: np.ndarray = label,
                ) -> None:
                    table += confusion(truth[tile.where], tile.label, len(table))
                    label[tile.where] = tile.label

                _, structures = self._measure(
                    predictor,
                    volume.image,
                    volume.geometry,
                    volume.background,
                    on_tile=count,
                )
                scores = dice(table)[1:]
                # A shift can push all that is labelled out of the field of view.
                if not np.isnan(scores).all():
                    grid_mm = volume.geometry.spacing_mm
                    found = features(
                        structures,
                        self.recipe_.provenance.cohort,
                        measure(volume.image, label, grid_mm, volume.voxel_mm),
                    )
                    mean = float(np.nanmean(scores))
                    examples.append(Example(subjects[number], found, mean, is_shifted))
                bar.advance(done + 1, total)
        self.quality_ = replace(
            fit_quality(examples, predictor.n_passes),
            checksums=fitting.fingerprint(dataset),
        )
        return self

    def quality(self, prediction: Prediction, threshold: float = 0.8) -> Case:
        """Score a prediction of this model without a reference, and say why to look.

        Args:
            prediction: of `predict`, with several draws where the model can draw.
            threshold: a score below it is a reason to look.

        Returns: the score, the features that it comes from and the reasons; see
            `nobrainer.quality`. Without `fit_quality` the score is the mean pairwise
            Dice of the draws.
        """
        self._check_fitted()
        is_ours = isinstance(prediction, Prediction) and (
            prediction.labels.numbered() == self.labels_.numbered()
        )
        if not is_ours:
            raise InputError(
                "prediction must be what predict of this model returned for "
                "n_samples > 0"
            )
        self._check_quality_draws(len(prediction.volumes_mm3))
        return assess(
            prediction.name,
            prediction.structures,
            self.recipe_.provenance.cohort,
            self.quality_,
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
        self._check_fitted()
        check_strategy(strategy, n_draws=self._draws(n_samples))
        predictor = self._predictor(n_samples, seed, block_shape, batch_size)
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
            for name, source in zip(names, scans, strict=True):
                with bar.scan(name), batch.scan(source):
                    scan = preprocess_image(read_image(source), self.recipe_.preprocess)
                    _, tables[name] = self._measure(
                        predictor,
                        scan.data,
                        scan.geometry,
                        background_value(scan.data),
                        on_pass=bar.advance,
                    )
        ranked = rank(tables, strategy, seed)
        if batch.problems:
            raise BatchError(ranked, batch.problems)
        return ranked

    def dataset(self, files: Iterable[Entry]) -> Dataset:
        """Scans, with or without labels, prepared as those that the model learned from.

        Args:
            files: as for `Dataset.from_files`.

        Raises:
            InputError: files that cannot be used, or a model whose labels were
                binarized by a function, which is not kept: binarize them yourself.
        """
        self._check_fitted()
        data = self.recipe_.data
        if data.binarize == "callable":
            raise InputError(
                f"the model's labels were binarized by {data.binarize_name}, which is "
                "not kept with it: use Dataset.from_files(...).binarize(function)"
            )
        return replace(
            Dataset.from_files(files, n_classes=data.n_classes),
            config=data,
            labels=self.labels_,
            normalizer=self.recipe_.preprocess.normalize,
            outliers=self.recipe_.preprocess.outliers,
            spacing_mm=self.recipe_.preprocess.spacing_mm,
        )

    def check_quality(self, n_samples: int) -> None:
        """Raise `InputError` unless `quality` can score what has so many draws."""
        self._check_fitted()
        self._check_quality_draws(self.n_draws(n_samples))

    def n_draws(self, n_samples: int) -> int:
        """How many draws there are where `predict` is asked for `n_samples`."""
        return self._predictor(n_samples, 0).n_passes

    def coverage(self, n_samples: int) -> float | None:
        """The share of scans whose true volumes lie in the conformal intervals.

        Args:
            n_samples: what `predict` is asked for: intervals hold for the number of
                draws that they were fitted with.

        Returns: None where there are no intervals for so many draws.
        """
        fitted = None if self.calibration_ is None else self.calibration_.intervals
        if fitted is None or fitted.n_draws != self.n_draws(n_samples):
            return None
        return fitted.coverage

    @property
    def device(self) -> str:
        """The device that predictions are computed on, such as "cpu" or "cuda"."""
        return str(default_device())

    def _check_quality_draws(self, n_draws: int) -> None:
        if self.quality_ is not None and n_draws != self.quality_.n_draws:
            raise InputError(
                f"prediction has {n_draws} draws, quality was learned with "
                f"{self.quality_.n_draws}: predict with as many, or fit_quality with "
                "these"
            )

    def _draws(self, n_samples: int) -> int:
        """What a model that cannot draw makes of a number of draws: one pass."""
        return n_samples if is_stochastic(self.model_) else 0

    def _intervals(self, predictor: Predictor) -> Intervals | None:
        """What makes intervals of volumes, for the number of draws they hold for."""
        if self.calibration_ is None or self.calibration_.intervals is None:
            return None
        intervals, n_draws = self.calibration_.intervals, predictor.n_passes
        if n_draws == intervals.n_draws:
            return intervals
        if predictor.sampling.n_draws:
            warnings.warn(
                f"no conformal intervals: they hold for {intervals.n_draws} draws, got "
                f"{n_draws}: predict with as many, or calibrate with these",
                stacklevel=2,
            )
        return None

    def save(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model as a folder that `load` reads; returns the folder.

        An existing bundle is replaced only with `overwrite=True`. Of the processes
        of a training on several devices only the first one writes.
        """
        self._check_fitted()
        if not is_first_process():
            return Path(directory)
        return bundle.save(
            bundle.Bundle(
                self.recipe_,
                self.model_.state_dict(),
                self.labels_,
                self.history_,
                self.calibration_,
                self.quality_,
            ),
            directory,
            overwrite=overwrite,
        )

    @classmethod
    def load(cls, path: str | Path, base_model: Model | None = None) -> Self:
        """Read a model that `save` wrote, or a checkpoint file of a training.

        Args:
            path: the model's folder, or the file.
            base_model: what the model was made with, where that was a network of your
                own: a recipe holds its name and no code.

        No pickled code runs. Raises `InputError` for a file that is missing,
        damaged, from a newer nobrainer or not what its own recipe says.
        """
        if Path(path).is_file():
            checkpoint = read_checkpoint(Path(path))
            saved = bundle.Bundle(
                checkpoint.recipe,
                checkpoint.model_weights,
                checkpoint.labels,
                checkpoint.history,
            )
        else:
            saved = bundle.load(path)
        config = saved.recipe.model
        if base_model is None and config.name.startswith(OWN):
            raise InputError(
                f"{path}: was made with a network of your own, {config.name}, whose "
                "code is not kept: give it, Segmentation.load(..., base_model=...)"
            )
        source = config.name if base_model is None else base_model
        try:
            model = _rebuild(source, saved)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        segmentation = cls(source, config.args)
        segmentation._learned(
            model.eval(),
            saved.recipe,
            saved.history,
            saved.labels,
            saved.calibration,
            saved.quality,
        )
        return segmentation

    def _learned(
        self,
        model: nn.Module,
        recipe: Recipe,
        history: tuple[dict[str, Any], ...],
        labels: LabelTable,
        calibration: Calibration | None = None,
        quality: QualityModel | None = None,
    ) -> None:
        self.model_ = model
        self.recipe_ = recipe
        self.history_ = history
        self.labels_ = labels
        self.calibration_ = calibration
        self.quality_ = quality

    def _check_dataset(self, dataset: Dataset) -> None:
        """Refuse a dataset without labels, or whose classes are not the model's."""
        self._check_fitted()
        dataset.check_labelled()
        if dataset.n_classes != self.recipe_.data.n_classes:
            raise InputError(
                f"the dataset has n_classes={dataset.n_classes}, the model "
                f"{self.recipe_.data.n_classes}: make the dataset with the model's"
            )

    def check_unused(self, dataset: Dataset) -> None:
        """Raise `InputError` for scans that the model has used, which flatter it."""
        if used := self._used_before(dataset):
            raise InputError(
                list_problems(
                    (
                        scan.name,
                        f"the model has used it in {use}, so that figures would be too "
                        "good: give scans that it has not seen, or allow_seen=True",
                    )
                    for scan, use in used
                )
            )

    def _used_before(self, dataset: Dataset) -> list[tuple[Scan, str]]:
        self._check_fitted()
        return fitting.used_before(
            dataset, self.recipe_, self.calibration_, self.quality_
        )

    def _refuse_seen(self, dataset: Dataset) -> None:
        """Refuse scans that the weights were fitted to: what they teach is too good."""
        used = fitting.used_before(dataset, self.recipe_, None, None)
        found = [str(scan.name) for scan, use in used if use == "training"]
        if found:
            raise InputError(
                f"{', '.join(found)}: the model was trained on it: give scans that it "
                "has not seen"
            )

    def _check_fitted(self) -> None:
        if not hasattr(self, "model_"):
            raise InputError("this Segmentation is not fitted: call fit or load first")

    def _directory(self, resume: bool, n_members: int) -> Path | None:
        if self.checkpoint_filepath is not None:
            directory = Path(self.checkpoint_filepath)
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"{directory}: cannot be a folder for checkpoints "
                    f"({error.strerror}): give another checkpoint_filepath"
                ) from error
            check_writable(directory)
            if not resume and _checkpoints(directory):
                raise InputError(
                    f"{directory}: holds checkpoints of an earlier training: go on "
                    "with resume=True, or give another folder"
                )
            if resume:
                _check_resumable(directory, _checkpoints(directory), n_members)
            return directory
        if resume:
            raise InputError(
                "resume=True needs checkpoints: give a checkpoint_filepath, too"
            )
        return None

    def _model_args(self, n_classes: int) -> dict[str, Any]:
        args = dict(self.model_args)
        if takes(builder_of(self.base_model), "n_classes"):
            args = {"n_classes": n_classes} | args
        if args.get("n_classes", n_classes) != n_classes:
            raise InputError(
                f"the model has n_classes={args['n_classes']}, the dataset "
                f"{n_classes}: give both the same"
            )
        if args.get("in_channels", 1) != 1:
            raise InputError(
                f"in_channels={args['in_channels']}, but scans have 1 channel: "
                "give in_channels=1"
            )
        return args

    def _predictor(
        self,
        n_samples: int,
        seed: int | None,
        block_shape: Sequence[int] | None = None,
        batch_size: int = 1,
        precision: str = "float32",
    ) -> Predictor:
        """The network and how it is applied, its calibration included."""
        n_samples = self._draws(n_samples)
        if batch_size < 1:
            raise InputError(f"batch_size must be >= 1, got {batch_size}")
        if not 0 <= n_samples <= MOST_DRAWS:
            raise InputError(
                f"n_samples must be from 0 to {MOST_DRAWS}, got {n_samples}"
            )
        block: Shape3 | None = None
        if block_shape is not None:
            if np.shape(block_shape) != (3,) or min(block_shape) < 1:
                raise InputError(
                    f"block_shape must be three positive integers, got {block_shape!r}"
                )
            block = (int(block_shape[0]), int(block_shape[1]), int(block_shape[2]))
        if seed is None:
            seed = secrets.randbelow(2**31)
        scaling = None
        if self.calibration_ is not None:
            scaling = Scaling(self.calibration_.weight, self.calibration_.bias)
        device = default_device()
        return Predictor(
            self.model_,
            self.recipe_.data.n_classes,
            Sampling(seed, n_samples, block, batch_size),
            device,
            inference_dtype(precision, device),
            scaling,
        )

    def _predict_one(
        self,
        source: ImageSource,
        name: str,
        predictor: Predictor,
        label_only: bool,
        probabilities: bool,
        labels: LabelTable,
        on_pass: Callable[[int, int], None],
    ) -> nib.Nifti1Image | Prediction:
        volume = read_image(source)
        recipe = self.recipe_
        scan = preprocess_image(volume, recipe.preprocess)
        n_classes = recipe.data.n_classes
        shape = scan.data.shape
        n_maps = len(MAPS) + (n_classes if probabilities else 0)
        # Each map is kept on the working grid, then brought to the grid of the scan.
        needed_bytes = 4 * n_maps * (scan.data.size + volume.data.size)
        require_memory(volume.source, needed_bytes, "predict it")
        maps = {kind: np.zeros(shape, np.float32) for kind in MAPS[1:]}
        maps["label"] = np.zeros(shape, np.min_scalar_type(n_classes - 1))
        mean = np.zeros((n_classes, *shape) if probabilities else 0, np.float32)

        def keep(tile: TileResult) -> None:
            for kind in MAPS:
                maps[kind][tile.where] = getattr(tile, kind)
            if probabilities:
                mean[:, *tile.where] = tile.probabilities

        volumes_mm3, structures = self._measure(
            predictor,
            scan.data,
            scan.geometry,
            background_value(scan.data),
            labels=labels,
            on_tile=keep,
            on_pass=on_pass,
        )

        grids_mm = scan.geometry.spacing_mm, volume.geometry.spacing_mm
        appearance = measure(scan.data, maps["label"], *grids_mm)
        flags = unlike_training(structures, recipe.provenance.cohort, appearance)
        if flags:
            reasons = "; ".join(flags)
            warnings.warn(f"{name}: {reasons}", UnusualScanWarning, stacklevel=3)

        def image(kind: str) -> nib.Nifti1Image:
            native = restore(
                maps.pop(kind), scan.geometry, volume.geometry, labels=kind == "label"
            )
            if kind == "label":
                native = labels.to_values(native)
            return to_nibabel(native, volume)

        if label_only:
            return image("label")
        probability_image = None
        if probabilities:
            native = [restore(p, scan.geometry, volume.geometry) for p in mean]
            probability_image = to_nibabel(np.stack(native, axis=-1), volume)
        return Prediction(
            label=image("label"),
            variance=image("variance"),
            entropy=image("entropy"),
            mutual_information=image("mutual_information"),
            probabilities=probability_image,
            volumes_mm3=volumes_mm3,
            structures=structures,
            seed=predictor.sampling.seed,
            labels=labels,
            data=self.recipe_.data,
            scan=to_nibabel(volume.data, volume),
            name=name,
            appearance=appearance,
            flags=flags,
        )

    def _measure(
        self,
        predictor: Predictor,
        image: np.ndarray,
        geometry: Geometry,
        background: float,
        *,
        labels: LabelTable | None = None,
        on_tile: Callable[[TileResult], None] = lambda tile: None,
        on_pass: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[np.ndarray, tuple[Structure, ...]]:
        """Predict a preprocessed scan: (n_draws, C) volumes in mm³, and structures."""
        sums = StructureSums(predictor.n_classes)

        def add(tile: TileResult) -> None:
            sums.add(tile)
            on_tile(tile)

        counts = predictor(image, background, add, on_pass=on_pass)
        volumes_mm3 = counts * geometry.voxel_mm3
        cohort = self.recipe_.provenance.cohort
        return volumes_mm3, sums.table(
            volumes_mm3,
            labels or self.labels_,
            self._intervals(predictor),
            () if cohort is None else cohort.never_seen,
        )


def _rebuild(source: Model, saved: bundle.Bundle) -> nn.Module:
    """The network of a bundle; `InputError` where it does not go with its recipe."""
    config, data = saved.recipe.model, saved.recipe.data
    # Not only where the arguments say it: a model has a number of its own otherwise.
    usual = signature(builder_of(source)).parameters.get("n_classes")
    n_classes = config.args.get("n_classes", usual.default if usual else None)
    if n_classes not in (None, Parameter.empty, data.n_classes):
        raise InputError(
            f"the recipe's network has n_classes={n_classes}, its data {data.n_classes}"
        )
    if len(saved.labels.names) != data.n_classes:
        raise InputError(
            f"its labels are {len(saved.labels.names)}, the classes {data.n_classes}"
        )
    NORMALIZERS.check(saved.recipe.preprocess.normalize)
    for name in () if saved.quality is None else saved.quality.features:
        check_choice("feature of quality.json", name, FEATURES)
    # A Bayesian layer is built from a plain one, which is not among the weights.
    n_numbers = 2 * sum(weight.numel() for weight in saved.weights.values())
    with at_most(n_numbers):
        network = models.build(source, **config.args)
    load_weights(network, saved.weights)
    return network


def _check_datasets(
    train: Dataset, validate: Dataset | None, patience: int | None
) -> None:
    if patience is not None and validate is None:
        raise InputError("patience needs dataset_validate: give scans to validate")
    train.check_labelled()
    if validate is None:
        return
    validate.check_labelled()
    if validate.n_classes != train.n_classes:
        raise InputError(
            f"dataset_validate has n_classes={validate.n_classes}, dataset_train "
            f"{train.n_classes}: give both the same"
        )


def _checkpoints(directory: Path) -> list[str]:
    """What has checkpoints in a folder: members of an ensemble, or "" for one model."""
    lone = [""] if (directory / LAST).exists() else []
    return lone + sorted(p.parent.name for p in directory.glob(f"member-*/{LAST}"))


def _check_resumable(directory: Path, found: Sequence[str], n_members: int) -> None:
    """Refuse checkpoints of another kind of model, which would stay unused."""
    members = [f"member-{number}" for number in range(n_members)]
    if not set(found) <= set([""] if n_members == 1 else members):
        raise InputError(
            f"{directory}: cannot resume: its checkpoints are of "
            f"{'one model' if found[0] == '' else f'an ensemble of {len(found)}'}, "
            f"this is {'one model' if n_members == 1 else f'one of {n_members}'}: "
            "give another checkpoint directory"
        )


def _with_member(
    on_epoch: Callable[[Mapping[str, Any]], None], number: int, row: Mapping[str, Any]
) -> None:
    """Call back with the row of a member of an ensemble."""
    on_epoch({"member": number, **row})


def _trained(
    source: "Segmentation | str | PathLike[str]", model: ModelConfig
) -> nn.Module:
    """The deterministic network to start from, in a model that it can start."""
    given = (
        source if isinstance(source, Segmentation) else Segmentation.load(Path(source))
    )
    given._check_fitted()
    if model.name == "ensemble":
        raise InputError(
            "warm_start begins a Bayesian network, not an ensemble: leave it out"
        )
    return given.model_


def _digest(network: nn.Module) -> str:
    """The SHA-256 of the network's weights, as its folder lists it."""
    return sha256(bundle.pack_weights(network.state_dict())).hexdigest()


def _shortened(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _check_loss(
    loss: str | Callable[[Tensor, Tensor], Tensor] | None,
    class_weights: Sequence[float] | str | None,
) -> None:
    if isinstance(loss, str):
        LOSSES.check(loss)
    elif loss is not None and class_weights is not None:
        raise InputError(
            "class_weights go with a named loss: put them into your own loss"
        )


def _loss_name(loss: str | Callable[[Tensor, Tensor], Tensor] | None) -> str:
    if loss is None:
        return "cross_entropy"
    if isinstance(loss, str):
        return loss
    return f"callable:{getattr(loss, '__qualname__', type(loss).__qualname__)}"


def _data_loss(
    loss: str | Callable[[Tensor, Tensor], Tensor] | None,
    weights: tuple[float, ...] | None,
) -> Callable[[Tensor, Tensor], Tensor]:
    if callable(loss):
        return loss
    return LOSSES[loss or "cross_entropy"](
        None if weights is None else torch.tensor(weights)
    )
