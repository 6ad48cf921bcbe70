"""The estimator: fit a network to labelled scans, predict with uncertainty."""

import os
import platform
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import file_digest
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any, Self

import nibabel as nib
import numpy as np
import torch
from torch import Tensor, nn

from nobrainer import bundle, models
from nobrainer.bayes.draws import is_stochastic, mix_seed
from nobrainer.data.labels import LabelTable
from nobrainer.data.patches import Prepared
from nobrainer.data.preprocess import background_value, preprocess_image
from nobrainer.errors import InputError
from nobrainer.evaluation import Row, evaluate
from nobrainer.inference.predict import Sampling, TileResult, predict_volume
from nobrainer.io import ImageSource, read_image, to_nibabel
from nobrainer.losses import LOSSES, inverse_frequency
from nobrainer.metrics.overlap import confusion, dice
from nobrainer.models.registry import check_count
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.display import ProgressBar
from nobrainer.recipe import (
    FileRecord,
    ModelConfig,
    Provenance,
    Recipe,
    TrainingConfig,
)
from nobrainer.registry import check_arguments, near_miss
from nobrainer.training.checkpoint import LAST, read_checkpoint
from nobrainer.training.engine import (
    default_device,
    inference_dtype,
    is_first_process,
    make_fabric,
    resolve_precision,
)
from nobrainer.training.fit import SCHEDULES, Job, Training
from nobrainer.training.objective import Elbo, Supervised
from nobrainer.types import Shape3
from nobrainer.volume import restore

MAPS = ("label", "variance", "entropy", "mutual_information")
DEFAULT_LEARNING_RATE = 3e-3
"""Of Adam, where `fit` is given no `opt_args`."""


@dataclass(frozen=True)
class Prediction:
    """What several draws say about one scan, on the scan's own grid.

    Unpacks into exactly (label, variance, entropy).

    label: the most frequent class of the draws, smallest unsigned type; ties go to
        the class of higher mean probability.
    variance: population variance of the class probabilities across draws, mean over
        classes; float32 in [0, 0.25].
    entropy: Shannon entropy of the mean distribution, nats; float32 in [0, ln C].
    mutual_information: entropy minus the draws' mean entropy, nats; what the draws
        disagree about.
    probabilities: mean class probabilities (I, J, K, C) if asked for, else None.
    volumes_mm3: (n_samples, C) volume of each class in each draw, mm³, counted on
        the working grid of the model; one row, of the posterior mean, for 0 samples.
    seed: with which the same call gives the same result.
    labels: the names of the classes.
    """

    label: nib.Nifti1Image
    variance: nib.Nifti1Image
    entropy: nib.Nifti1Image
    mutual_information: nib.Nifti1Image
    probabilities: nib.Nifti1Image | None
    volumes_mm3: np.ndarray
    seed: int
    labels: LabelTable

    def __iter__(self) -> Iterator[nib.Nifti1Image]:
        return iter((self.label, self.variance, self.entropy))

    def __len__(self) -> int:
        return 3


class BatchError(InputError):
    """Some of several inputs could not be predicted.

    `results` has a prediction or None for each input, `problems` the messages.
    """

    def __init__(self, results: list[Any], problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.results = results
        self.problems = problems


class Segmentation:
    """A segmentation network with `fit` and `predict`.

    Args:
        base_model: a name of `nobrainer.models.available_models()`.
        model_args: arguments of that model; `n_classes` is taken from the training
            data where it is not given.
        checkpoint_filepath: folder for checkpoints during training (`last`, `best`);
            None keeps none.

    Learned: `model_` (the network), `recipe_`, `history_` (a row an epoch),
    `labels_`.

    Raises `InputError` for an unknown model or argument, naming the near miss.
    """

    def __init__(
        self,
        base_model: str = "bayesian_vnet",
        model_args: Mapping[str, Any] | None = None,
        checkpoint_filepath: str | PathLike[str] | None = None,
    ) -> None:
        args = dict(model_args or {})
        kind = f"argument of model {base_model!r}"
        check_arguments(kind, models.get(base_model), args)
        self.base_model = base_model
        self.model_args = args
        self.checkpoint_filepath = checkpoint_filepath

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
        schedule: str = "cosine",
        seed: int = 0,
        precision: str = "auto",
        devices: int = 1,
        gradient_clip: float | None = None,
        accumulate: int = 1,
        patience: int | None = None,
        max_minutes: float | None = None,
        num_workers: int = 0,
        resume: bool = False,
        verbose: bool = True,
    ) -> Self:
        """Train on a dataset; all its files are read and checked before the first step.

        Args:
            dataset_train: scans with labels.
            dataset_validate: scans on which the Dice of whole volumes is measured
                after each epoch (with the posterior mean); the model keeps its best
                weights by it.
            epochs: passes of `patches_per_volume` patches per volume.
            optimizer: class of the optimiser.
            opt_args: its arguments; default {"lr": DEFAULT_LEARNING_RATE}.
            loss: "cross_entropy" (default), "dice", "dice_ce", or a function of logits
                (B, C, I, J, K) and labels (B, I, J, K). A Bayesian model adds
                kl_weight · KL / n_weights.
            class_weights: one weight per class, or "auto" for inverse frequency.
            schedule: "cosine" (rise over the first 5 %, then decay to 0) or "constant".
            seed: of initial weights, patches and weight draws.
            precision: "auto" (bf16-mixed on a GPU that has bfloat16, else 32-true),
                "32-true", "bf16-mixed", "16-mixed".
            devices: GPUs (or CPU processes) to train on.
            gradient_clip: largest norm of the gradient.
            accumulate: batches per optimiser step.
            patience: epochs without a better validation Dice before training stops.
            max_minutes: training ends at this many minutes, the learning rate decaying
                by then.
            num_workers: processes that cut patches.
            resume: go on from the last checkpoint in `checkpoint_filepath`, if any.
            verbose: show progress (on a terminal).

        Returns: self.

        Raises:
            InputError: files or arguments that cannot be used.
            DivergedError: a loss was not finite; names the batch's files.
        """
        _check_datasets(dataset_train, dataset_validate, patience)
        check_count("epochs", epochs, 1)
        check_count("seed", seed, 0)
        check_count("devices", devices, 1)
        check_count("accumulate", accumulate, 1)
        check_count("num_workers", num_workers, 0)
        _check_positive("gradient_clip", gradient_clip)
        _check_positive("max_minutes", max_minutes)
        if isinstance(loss, str):
            LOSSES[loss]
        if schedule not in SCHEDULES:
            raise near_miss("schedule", schedule, SCHEDULES)
        opt_args = dict(opt_args or {"lr": DEFAULT_LEARNING_RATE})
        check_arguments(f"argument of {optimizer.__name__}", optimizer, opt_args)
        directory = self._directory(resume)
        model_args = self._model_args(dataset_train.n_classes)
        started = _now()
        precision = resolve_precision(precision)
        fabric = make_fabric(precision, devices)
        slow = dataset_train.batch_size == 1 and fabric.device.type == "cpu"
        if slow and precision == "32-true":
            warnings.warn(
                "on a CPU, PyTorch convolves float32 batches of one several times "
                "slower than batches of two: use .batch(2) or precision='bf16-mixed'",
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
            loader = dataset_train.loader(seed=seed, num_workers=num_workers)
            weights = _class_weights(class_weights, volumes, dataset_train.n_classes)
            config = TrainingConfig(
                epochs=epochs,
                optimizer=f"{optimizer.__module__}.{optimizer.__qualname__}",
                opt_args=opt_args,
                loss=_loss_name(loss),
                class_weights=weights,
                schedule=schedule,
                seed=seed,
                precision=precision,
                gradient_clip=gradient_clip,
                accumulate=accumulate,
                patience=patience,
                max_minutes=max_minutes,
            )
            recipe = Recipe(
                model=ModelConfig(self.base_model, model_args),
                preprocess=preprocess,
                data=dataset_train.config,
                training=config,
                provenance=Provenance(
                    started=started,
                    ended=started,
                    versions=_versions(),
                    files=_records(dataset_train, dataset_validate),
                    metrics={},
                ),
            )
            with torch.random.fork_rng():
                torch.manual_seed(mix_seed(seed, "initial weights"))
                model = models.build(self.base_model, **model_args)
            data_loss = _data_loss(loss, weights)
            objective: Elbo | Supervised
            if hasattr(model, "kl_weight"):
                n_voxels = sum(v.image.size for v in volumes)
                objective = Elbo(model, data_loss, n_voxels)
            else:
                objective = Supervised(model, data_loss)
            job = Job(
                objective=objective,
                optimizer=optimizer(model.parameters(), **config.opt_args),
                loader=loader,
                recipe=recipe,
                labels=dataset_train.labels.names,
                validate=_validator(validation, dataset_train.labels, fabric.device),
                directory=directory,
            )
            training = Training(fabric, job, bar)
            if resume and directory is not None:
                training.resume(directory)
            history = training.run()
        metrics = _final_metrics(history, training.best)
        ended = replace(recipe.provenance, ended=_now(), metrics=metrics)
        self._learned(
            model.eval(),
            replace(recipe, provenance=ended),
            tuple(history),
            dataset_train.labels,
        )
        return self

    def predict(
        self,
        x: Any,
        batch_size: int = 1,
        block_shape: Sequence[int] | None = None,
        n_samples: int = 0,
        seed: int | None = None,
        *,
        probabilities: bool = False,
        precision: str = "float32",
        verbose: bool = True,
    ) -> Any:
        """Segment a scan, or several.

        Each of `n_samples` draws of the weights is applied to the whole scan. The
        result does not depend on `block_shape` or `batch_size` (except for networks
        with global operations, such as `unet` with instance norm).

        Args:
            x: a path, a nibabel image or an (array, affine) tuple; or a list of them.
            batch_size: tiles per pass.
            block_shape: voxels of a tile's core; None lets the memory decide.
            n_samples: draws of the weights; 0 is one pass with the posterior mean.
            seed: of the draws; None takes a fresh one, which the result records.
            probabilities: keep the mean class probabilities, too.
            precision: "float32", or "bfloat16", faster where the processor has it.
            verbose: show progress (on a terminal).

        Returns: for n_samples=0 the label image; else, or with probabilities, a
            `Prediction`, which unpacks into label, variance and entropy. For a list,
            a list of them.

        Raises:
            InputError: a scan or argument that cannot be used.
            BatchError: some scans of a list could not be used; the others are done.
        """
        self._check_fitted()
        sampling = self._sampling(batch_size, block_shape, n_samples, seed)
        dtype = inference_dtype(precision, default_device())
        if not isinstance(x, list):
            with ProgressBar(verbose=verbose) as bar:
                return self._predict_one(x, sampling, probabilities, dtype, bar)
        results: list[Any] = []
        problems = []
        for source in x:
            try:
                with ProgressBar(verbose=verbose) as bar:
                    results.append(
                        self._predict_one(source, sampling, probabilities, dtype, bar)
                    )
            except InputError as error:
                results.append(None)
                problems.append(str(error))
        if problems:
            raise BatchError(results, problems)
        return results

    def evaluate(
        self,
        dataset: Dataset,
        n_samples: int = 10,
        seed: int = 0,
        *,
        block_shape: Sequence[int] | None = None,
        batch_size: int = 1,
    ) -> list[Row]:
        """Compare predictions with the labels of a dataset, one scan at a time.

        Args:
            dataset: scans with labels.
            n_samples: draws; a deterministic model makes one pass.
            seed, block_shape, batch_size: as in `predict`.

        Returns: tidy rows (subject, region, structure, metric, value); see
            `nobrainer.evaluation`.
        """
        self._check_fitted()
        if dataset.n_classes != self.recipe_.data.n_classes:
            raise InputError(
                f"the dataset has n_classes={dataset.n_classes}, the model "
                f"{self.recipe_.data.n_classes}: make the dataset with the model's"
            )
        if not is_stochastic(self.model_):
            n_samples = 0
        device = default_device()
        return evaluate(
            self.model_,
            dataset.iterate(self.recipe_.preprocess),
            self._sampling(batch_size, block_shape, n_samples, seed),
            n_classes=dataset.n_classes,
            labels=self.labels_,
            device=device,
            dtype=inference_dtype("float32", device),
        )

    def save(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model as a folder that `load` reads; returns the folder.

        An existing bundle is replaced only with `overwrite=True`. Of the processes
        of a training on several devices only the first one writes.
        """
        self._check_fitted()
        if not is_first_process():
            return Path(directory)
        weights = {k: v.detach().cpu() for k, v in self.model_.state_dict().items()}
        return bundle.save(
            bundle.Bundle(self.recipe_, weights, self.labels_, self.history_),
            directory,
            overwrite=overwrite,
        )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a model that `save` wrote, or a checkpoint file of a training.

        No pickled code runs. Raises `InputError` for a file that is missing,
        damaged or from a newer nobrainer.
        """
        if Path(path).is_file():
            checkpoint = read_checkpoint(Path(path))
            saved = bundle.Bundle(
                checkpoint.recipe,
                checkpoint.weights,
                LabelTable(checkpoint.labels),
                checkpoint.history,
            )
        else:
            saved = bundle.load(path)
        config = saved.recipe.model
        model = models.build(config.name, **config.args)
        try:
            model.load_state_dict(saved.weights)
        except RuntimeError as error:
            raise InputError(
                f"{path}: the weights do not fit the recipe's model: {error}"
            ) from error
        segmentation = cls(config.name, config.args)
        segmentation._learned(model.eval(), saved.recipe, saved.history, saved.labels)
        return segmentation

    def _learned(
        self,
        model: nn.Module,
        recipe: Recipe,
        history: tuple[dict[str, Any], ...],
        labels: LabelTable,
    ) -> None:
        self.model_ = model
        self.recipe_ = recipe
        self.history_ = history
        self.labels_ = labels

    def _check_fitted(self) -> None:
        if not hasattr(self, "model_"):
            raise InputError("this Segmentation is not fitted: call fit or load first")

    def _directory(self, resume: bool) -> Path | None:
        if self.checkpoint_filepath is not None:
            directory = Path(self.checkpoint_filepath)
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"{directory}: cannot be a folder for checkpoints "
                    f"({error.strerror}): give another checkpoint_filepath"
                ) from error
            if not resume and (directory / LAST).exists():
                raise InputError(
                    f"{directory}: holds checkpoints of an earlier training: go on "
                    "with resume=True (--resume), or give another folder"
                )
            return directory
        if resume:
            raise InputError(
                "resume=True needs checkpoints: give Segmentation a checkpoint_filepath"
            )
        return None

    def _model_args(self, n_classes: int) -> dict[str, Any]:
        args = {"n_classes": n_classes} | self.model_args
        if args["n_classes"] != n_classes:
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

    def _sampling(
        self,
        batch_size: int,
        block_shape: Sequence[int] | None,
        n_samples: int,
        seed: int | None,
    ) -> Sampling:
        if batch_size < 1:
            raise InputError(f"batch_size must be >= 1, got {batch_size}")
        if n_samples < 0:
            raise InputError(f"n_samples must be >= 0, got {n_samples}")
        block: Shape3 | None = None
        if block_shape is not None:
            if np.shape(block_shape) != (3,) or min(block_shape) < 1:
                raise InputError(
                    f"block_shape must be three positive integers, got {block_shape!r}"
                )
            block = (int(block_shape[0]), int(block_shape[1]), int(block_shape[2]))
        if n_samples and not is_stochastic(self.model_):
            warnings.warn(
                f"{self.recipe_.model.name} has no stochastic layer: all draws are the "
                "same, and variance is 0",
                stacklevel=3,
            )
        if seed is None:
            seed = secrets.randbelow(2**31)
        return Sampling(seed, n_samples, block, batch_size)

    def _predict_one(
        self,
        source: ImageSource,
        sampling: Sampling,
        probabilities: bool,
        dtype: torch.dtype,
        bar: ProgressBar,
    ) -> Any:
        volume = read_image(source)
        recipe = self.recipe_
        scan = preprocess_image(volume, recipe.preprocess)
        n_classes = recipe.data.n_classes
        shape = scan.data.shape
        maps = {name: np.zeros(shape, np.float32) for name in MAPS[1:]}
        maps["label"] = np.zeros(shape, np.min_scalar_type(n_classes - 1))
        mean = np.zeros((n_classes, *shape) if probabilities else 0, np.float32)

        def keep(tile: TileResult) -> None:
            for name in MAPS:
                maps[name][tile.where] = getattr(tile, name)
            if probabilities:
                mean[:, *tile.where] = tile.probabilities

        bar.begin(Path(volume.source).name, 1)
        counts = predict_volume(
            self.model_,
            scan.data,
            sampling,
            n_classes=n_classes,
            background=background_value(scan.data),
            device=default_device(),
            dtype=dtype,
            on_tile=keep,
            on_pass=bar.advance,
        )

        def image(name: str) -> nib.Nifti1Image:
            native = restore(
                maps.pop(name), scan.geometry, volume.geometry, labels=name == "label"
            )
            return to_nibabel(native, volume)

        if sampling.n_samples == 0 and not probabilities:
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
            volumes_mm3=counts * float(np.prod(scan.geometry.spacing_mm)),
            seed=sampling.seed,
            labels=self.labels_,
        )


def _check_datasets(
    train: Dataset, validate: Dataset | None, patience: int | None
) -> None:
    if patience is not None:
        check_count("patience", patience, 1)
        if validate is None:
            raise InputError("patience needs dataset_validate: give scans to validate")
    if validate is None:
        return
    if validate.n_classes != train.n_classes:
        raise InputError(
            f"dataset_validate has n_classes={validate.n_classes}, dataset_train "
            f"{train.n_classes}: give both the same"
        )
    bare = [subject.name for subject in validate.data if subject.label is None]
    if bare:
        raise InputError("\n".join(f"{n}: has no labels: give them" for n in bare))


def _check_positive(name: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise InputError(f"{name} must be > 0, got {value!r}")


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
        if weights is not None:
            raise InputError(
                "class_weights go with a named loss: put them into your own loss"
            )
        return loss
    return LOSSES[loss or "cross_entropy"](
        None if weights is None else torch.tensor(weights)
    )


def _class_weights(
    given: Sequence[float] | str | None, volumes: Sequence[Prepared], n_classes: int
) -> tuple[float, ...] | None:
    if given is None:
        return None
    if isinstance(given, str):
        if given != "auto":
            raise near_miss("class_weights", given, ["auto"])
        counts = np.zeros(n_classes, np.int64)
        for volume in volumes:
            assert volume.label is not None
            counts += np.bincount(volume.label.ravel(), minlength=n_classes)
        return tuple(inverse_frequency(torch.from_numpy(counts)).tolist())
    if len(given) != n_classes or min(given) < 0:
        raise InputError(
            f"class_weights must be {n_classes} numbers >= 0, got {list(given)}"
        )
    return tuple(float(w) for w in given)


def _validator(
    volumes: list[Prepared], labels: LabelTable, device: torch.device
) -> Callable[[nn.Module], dict[str, float]] | None:
    """What measures Dice on whole volumes with the posterior mean."""
    if not volumes:
        return None
    if not any(volume.label is not None and volume.label.any() for volume in volumes):
        raise InputError("dataset_validate has no voxel of a class but background")
    n_classes = len(labels.names)

    def validate(model: nn.Module) -> dict[str, float]:
        scores = []
        for volume in volumes:
            table = np.zeros((n_classes, n_classes), np.int64)

            def count(
                tile: TileResult, volume: Prepared = volume, table: np.ndarray = table
            ) -> None:
                assert volume.label is not None
                table += confusion(volume.label[tile.where], tile.label, n_classes)

            predict_volume(
                model,
                volume.image,
                Sampling(seed=0, n_samples=0),
                n_classes=n_classes,
                background=volume.background,
                device=device,
                dtype=torch.float32,
                on_tile=count,
            )
            scores.append(dice(table)[1:])
        per_class = np.ma.masked_invalid(scores).mean(axis=0).filled(np.nan)
        named = zip(labels.names[1:], per_class, strict=True)
        figures = {f"validation_dice_{name}": float(v) for name, v in named if v == v}
        return figures | {"validation_dice": float(np.mean(list(figures.values())))}

    return validate


def _final_metrics(
    history: Sequence[Mapping[str, Any]], best: tuple[float, int] | None
) -> dict[str, float]:
    """The figures of the epoch whose weights the model has."""
    row = history[-1] if best is None else history[best[1] - 1]
    keep = ("loss", "dice", "validation_dice")
    return {k: float(v) for k, v in row.items() if k.startswith(keep)}


def _records(train: Dataset, validate: Dataset | None) -> tuple[FileRecord, ...]:
    """Name, role and checksum of every file that training reads."""
    found: list[tuple[Path, str]] = []
    for dataset, role in ((train, "train"), (validate, "validate")):
        for subject in dataset.data if dataset else ():
            if subject.paths is not None:
                image, label = subject.paths
                found.append((image, f"{role}-image"))
                if label is not None:
                    found.append((label, f"{role}-label"))
    if not found:
        return ()
    # The names that the user gave: links are not followed to where they point.
    absolute = [Path(os.path.abspath(path)) for path, _ in found]
    root = os.path.commonpath([path.parent for path in absolute])
    records = []
    for path, (_, role) in zip(absolute, found, strict=True):
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        name = path.relative_to(root).as_posix()
        records.append(FileRecord(name, role, digest, path.stat().st_size))  # type: ignore[arg-type]
    return tuple(records)


def _versions() -> dict[str, str]:
    names = ("nobrainer", "torch", "pyro-ppl", "monai", "lightning-fabric", "nibabel")
    return {name: version(name) for name in names} | {
        "python": platform.python_version()
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
