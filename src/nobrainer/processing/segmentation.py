"""The estimator: fit a network to labelled scans, predict with uncertainty."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, Unpack, overload

import nibabel as nib
import torch

from nobrainer import bundle, models, training
from nobrainer.checks import check_arguments, takes
from nobrainer.errors import InputError
from nobrainer.io import ImageSource
from nobrainer.models.registry import Model, builder_of
from nobrainer.naming import count
from nobrainer.processing import seen
from nobrainer.processing.assembly import predict_each, predict_scan
from nobrainer.processing.dataset import Dataset, check_dataset
from nobrainer.processing.folds import Folds
from nobrainer.processing.guard import Batch
from nobrainer.processing.learned import Learned
from nobrainer.processing.origins import describe_origins
from nobrainer.processing.prediction import BatchError, Prediction
from nobrainer.processing.progress import ProgressBar
from nobrainer.processing.readings import Readings
from nobrainer.processing.training_scans import TrainingScans
from nobrainer.provenance import now
from nobrainer.recipe import DEFAULT_LEARNING_RATE, Recipe
from nobrainer.training.checkpoint_folder import open_folder
from nobrainer.training.data_loss import DataLoss, Loss
from nobrainer.training.engine import count_gpus
from nobrainer.training.options import TrainingArguments, TrainingOptions

Source = TypeVar("Source", bound=ImageSource)


class Segmentation(Readings):
    """A segmentation network with `fit` and `predict`.

    Args:
        base_model: a name of `nobrainer.models.available_models()`, or a network of
            your own: a `torch.nn.Module`, of which each `fit` trains a copy, or its
            class or a function that builds it.
        model_args: arguments of that model; `n_classes` is taken from the training
            data where it is not given and the model takes it.
        checkpoint_filepath: folder for checkpoints during training (`last`, `best`);
            None keeps none.
        multi_gpu: train on all GPUs of this machine, each with batches of its own;
            where there are fewer than two, on what there is, with a warning. False
            trains on one device, or on the `devices` that `fit` is told.

    After `fit` or `load` there are `model_` (the network), `recipe_`, `history_` (a row
    for each epoch), `labels_`, `n_classes_` and `block_shape_`. `calibration_` and
    `quality_` are None until they are fitted on held-out scans.

    Raises:
        InputError: an unknown model or argument; the closest name is suggested.
    """

    def __init__(
        self,
        base_model: Model = "bayesian_vnet",
        model_args: Mapping[str, Any] | None = None,
        checkpoint_filepath: str | PathLike[str] | None = None,
        multi_gpu: bool = False,
    ) -> None:
        args = dict(model_args or {})
        build = builder_of(base_model)
        kind = f"argument of model {models.name_of(base_model)!r}"
        check_arguments(kind, build, args)
        self.base_model = base_model
        self.model_args = args
        self.checkpoint_filepath = checkpoint_filepath
        self.multi_gpu = multi_gpu

    def __repr__(self) -> str:
        name, state = models.name_of(self.base_model), "not trained"
        if hasattr(self, "learned_"):
            # With folds it is an ensemble.
            name = self.recipe_.model.name
            names = _shortened(self.labels_.names[1:])
            state = f"trained for {self._trained}, classes {names}"
        return f"Segmentation({name!r}, {state})"

    @property
    def _trained(self) -> str:
        """How long it was trained; in steps where the training counted these."""
        steps = [row.get("steps", 0) for row in self.history_]
        if self.recipe_.training.epochs is None and all(steps):
            return count(sum(steps), "step")
        return count(len(steps), "epoch")

    def fit(
        self,
        dataset_train: Dataset,
        dataset_validate: Dataset | None = None,
        epochs: int | None = 1,
        optimizer: type[torch.optim.Optimizer] = torch.optim.Adam,
        opt_args: Mapping[str, Any] | None = None,
        loss: str | Loss | None = None,
        class_weights: Sequence[float] | str | None = None,
        *,
        seed: int = 0,
        warm_start: "Segmentation | str | PathLike[str] | None" = None,
        resume: bool = False,
        verbose: bool = True,
        **options: Unpack[TrainingArguments],
    ) -> Self:
        """Train on a dataset; all its files are checked before the first step.

        Args:
            dataset_train: scans with labels.
            dataset_validate: scans on which the Dice of whole volumes is measured after
                each epoch, with the posterior mean; the best weights by it are kept.
                With label maps mixed in, these are measured apart and decide nothing.
            epochs: number of passes of `patches_per_volume` patches a volume, or None.
            optimizer: class of the optimiser.
            opt_args: its arguments; default {"lr": DEFAULT_LEARNING_RATE}.
            loss: "cross_entropy" (default), "dice", "dice_ce", or a function of logits
                (B, C, I, J, K) and labels (B, I, J, K); a Bayesian model adds its KL.
            class_weights: one weight per class, or "auto" for inverse frequency.
            seed: seed of initial weights, patches and weight draws.
            warm_start: a trained deterministic model, or its folder, to begin at.
            resume: go on from the last checkpoint in `checkpoint_filepath`, if any.
            verbose: show progress: a bar on a terminal, else lines.
            **options: fields of `TrainingOptions` by name, `max_steps` among them.

        Returns: self.

        Raises:
            InputError: files or arguments that cannot be used.
            DivergedError: a loss was not finite; names the batch's files.
        """
        settings = self._settings(options)
        _check_datasets(dataset_train, dataset_validate, settings)
        folds = Folds.divide(dataset_train, settings.folds, seed)
        plan = training.TrainingPlan.create(
            self.base_model,
            self._args_for(dataset_train.n_classes),
            dataset_train.n_classes,
            epochs=epochs,
            optimizer=optimizer,
            opt_args=opt_args or {"lr": DEFAULT_LEARNING_RATE},
            loss=DataLoss(loss, class_weights),
            seed=seed,
            begin=_begin_at(warm_start, settings.warm_start_delta),
            options=settings,
        )
        data, labels = dataset_train.config, dataset_train.labels
        plan.check(data, folds.n_patches(dataset_train, plan.n_members))
        folder = open_folder(self.checkpoint_filepath, plan.n_members, resume=resume)
        started = now()
        fabric = training.make_fabric(plan.config.precision, settings.devices)
        _warn_of_lone_patches(dataset_train, plan.config.precision, fabric.device)
        with ProgressBar(verbose=verbose and fabric.is_global_zero) as bar:
            scans = TrainingScans.read(dataset_train, dataset_validate, bar)
            folds.check_labels(scans.counts, labels)
            if class_weights == "auto":
                plan = plan.weighted(scans.class_weights)
            origins = describe_origins(
                dataset_train, dataset_validate, scans, plan, folds.records, started
            )
            preprocess = dataset_train.preprocess
            recipe = Recipe(plan.model, preprocess, data, plan.config, origins)
            validate = scans.validator(labels, fabric.device)
            volumes = folds.taught(scans.volumes, plan.n_members)
            trained = plan.train(
                recipe, volumes, labels, validate, folder, resume, fabric, bar
            )
            judged = folds.measure(trained.network, scans, labels, fabric.device)
        self.learned_ = Learned.of_training(trained, recipe, labels, judged)
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
        tissues: Literal[False] = ...,
        class_numbers: bool = ...,
        precision: str = ...,
        memory_gb: float | None = ...,
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
        tissues: Literal[False] = ...,
        class_numbers: bool = ...,
        precision: str = ...,
        memory_gb: float | None = ...,
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
        tissues: bool = ...,
        class_numbers: bool = ...,
        precision: str = ...,
        memory_gb: float | None = ...,
        verbose: bool = ...,
        on_pass: Callable[[int, int], None] | None = ...,
    ) -> Prediction: ...
    @overload
    def predict(
        self,
        x: list[Source],
        batch_size: int = ...,
        block_shape: Sequence[int] | None = ...,
        n_samples: None = ...,
        seed: int | None = ...,
        *,
        probabilities: Literal[False] = ...,
        tissues: Literal[False] = ...,
        class_numbers: bool = ...,
        precision: str = ...,
        memory_gb: float | None = ...,
        verbose: bool = ...,
        on_pass: Callable[[int, int], None] | None = ...,
    ) -> list[nib.Nifti1Image | Prediction]: ...
    @overload
    def predict(
        self,
        x: list[Source],
        batch_size: int = ...,
        block_shape: Sequence[int] | None = ...,
        n_samples: Literal[0] = ...,
        seed: int | None = ...,
        *,
        probabilities: Literal[False] = ...,
        tissues: Literal[False] = ...,
        class_numbers: bool = ...,
        precision: str = ...,
        memory_gb: float | None = ...,
        verbose: bool = ...,
        on_pass: Callable[[int, int], None] | None = ...,
    ) -> list[nib.Nifti1Image]: ...
    @overload
    def predict(
        self,
        x: list[Source],
        batch_size: int = ...,
        block_shape: Sequence[int] | None = ...,
        n_samples: int | None = ...,
        seed: int | None = ...,
        *,
        probabilities: bool = ...,
        tissues: bool = ...,
        class_numbers: bool = ...,
        precision: str = ...,
        memory_gb: float | None = ...,
        verbose: bool = ...,
        on_pass: Callable[[int, int], None] | None = ...,
    ) -> list[Prediction]: ...
    def predict(
        self,
        x: ImageSource | list[Source],
        batch_size: int = 1,
        block_shape: Sequence[int] | None = None,
        n_samples: int | None = None,
        seed: int | None = None,
        *,
        probabilities: bool = False,
        tissues: bool = False,
        class_numbers: bool = False,
        precision: str = "float32",
        memory_gb: float | None = None,
        verbose: bool = True,
        on_pass: Callable[[int, int], None] | None = None,
    ) -> nib.Nifti1Image | Prediction | Sequence[nib.Nifti1Image | Prediction]:
        """Segment a scan, or several.

        Each of `n_samples` draws of the weights is applied to the whole scan. A scan
        or segmentation unlike those of the training gets an `UnusualScanWarning`; a
        `Prediction` keeps the reasons in `flags`. `block_shape` and `batch_size` change
        no result, but for networks with global operations (`unet` with instance norm).

        Args:
            x: a path, a nibabel image or an (array, affine) tuple; or a list of them.
            batch_size: number of slabs in one pass on a CPU; more of them take more
                memory.
            block_shape: voxels of a tile along each axis; None lets the memory decide.
            n_samples: number of draws of the weights; 0 is one pass with the posterior
                mean. None takes as many as the model was calibrated with, else 10; of a
                model that cannot draw, one pass. A model that cannot make as many as
                are asked for warns: there is one for each member of an ensemble of
                deterministic networks, and one pass of a deterministic network.
            seed: seed of the draws; None takes a fresh one, which the result records.
            probabilities: also keep the mean class probabilities.
            tissues: also keep the mean probabilities of grey matter, white matter and
                cerebrospinal fluid, for a model whose classes have FreeSurfer's ids.
            class_numbers: give label maps the numbers 0, 1, 2, ... of the classes in
                place of `LabelTable.values`, those of the training's label files.
            precision: "float32", "tf32" (a GPU may round products) or "bfloat16".
            memory_gb: most memory that a scan may take on the device, in GB, roughly:
                a larger one is cut up. None is half of what is free on a GPU, and 1.1
                on a CPU.
            verbose: show progress: a bar on a terminal, else a line a scan.
            on_pass: called after each pass over a scan with (passes done, all passes).

        Returns: a `Prediction`, which unpacks into label, variance and entropy; for a
            list, a list of them. Without draws, that is for n_samples=0 or a
            deterministic model by default, the label image alone unless there are to
            be probabilities or tissues.

        Raises:
            InputError: a scan or argument that cannot be used.
            BatchError: some scans of a list could not be used; the others are done.
        """
        learned = self._check_fitted()
        n_draws = learned.n_draws() if n_samples is None else n_samples
        predictor = learned.predictor(
            n_samples, seed, block_shape, batch_size, precision, memory_gb
        )
        labels = learned.labels.numbered() if class_numbers else learned.labels
        sources = x if isinstance(x, list) else [x]
        batch = Batch(stop_at_first=sources is not x)
        with ProgressBar(verbose=verbose) as bar:
            predict = partial(
                predict_scan,
                learned,
                replace(predictor, on_pass=on_pass or bar.advance),
                labels=labels,
                label_only=not (n_draws or probabilities or tissues),
                probabilities=probabilities,
                tissues=tissues,
            )
            results = predict_each(sources, predict, batch, bar)
        if sources is not x:
            return results[0]
        if batch.problems:
            raise BatchError(results, batch.problems)
        return results

    @classmethod
    def load(cls, path: str | Path, base_model: Model | None = None) -> Self:
        """Read a model that `save` wrote, comes with nobrainer, or is a checkpoint.

        Args:
            path: the model's folder, the file of the checkpoint, or a name of
                `nobrainer.shipped.names()`, such as "brain". A folder or file of that
                name in the working directory is taken first if it is a model.
            base_model: what the model was made with, where that was a network of your
                own: a recipe holds its name and no code.

        No pickled code runs.

        Raises:
            InputError: a file is missing, damaged, from a newer nobrainer, or not what
                its own recipe says.
        """
        learned = Learned.read(path, base_model)
        model = learned.recipe.model
        segmentation = cls(model.name if base_model is None else base_model, model.args)
        segmentation.learned_ = learned
        return segmentation

    def _settings(self, options: TrainingArguments) -> TrainingOptions:
        """What `fit` is told besides its arguments, and the devices for `multi_gpu`."""
        check_arguments("argument of fit", TrainingOptions, options)
        return TrainingOptions(**(self._usual_devices(options) | options))

    def _usual_devices(self, options: TrainingArguments) -> TrainingArguments:
        """All GPUs as the devices to train on where they are asked for; else nothing.

        Args:
            options: what `fit` is told; its devices go before.
        """
        if not self.multi_gpu or "devices" in options:
            return {}
        n_gpus = count_gpus()
        if n_gpus < 2:
            warnings.warn(
                f"multi_gpu=True, and this machine has {n_gpus or 'no'} GPU: training "
                f"on one device, {self.device}",
                stacklevel=4,
            )
        return {"devices": max(1, n_gpus)}

    def _args_for(self, n_classes: int) -> dict[str, Any]:
        """The arguments of the model, with the number of classes in the data."""
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


def _check_datasets(
    train: Dataset, validate: Dataset | None, settings: TrainingOptions
) -> None:
    """Refuse datasets without labels, or that do not go together."""
    if settings.folds is not None and (validate is not None or settings.patience):
        raise InputError(
            "with folds every subject is held out once, and no scans choose an epoch: "
            "leave out dataset_validate and patience"
        )
    if settings.patience is not None and validate is None:
        raise InputError("patience needs dataset_validate: give scans to validate")
    check_dataset("dataset_train", train)
    train.check_labelled()
    if validate is None:
        return
    check_dataset("dataset_validate", validate)
    validate.check_labelled()
    if validate.n_classes != train.n_classes:
        raise InputError(
            f"dataset_validate has n_classes={validate.n_classes}, dataset_train "
            f"{train.n_classes}: give both the same"
        )
    seen.warn_of_shared(train, validate, stacklevel=3)


def _warn_of_lone_patches(
    dataset: Dataset, precision: str, device: torch.device
) -> None:
    """Warn where batches of one patch make training slow."""
    if dataset.batch_size == 1 and device.type == "cpu" and precision == "32-true":
        warnings.warn(
            "on a CPU, PyTorch convolves float32 batches of one several times "
            "slower than batches of two: use .batch(2)",
            stacklevel=3,
        )


def _begin_at(
    source: Segmentation | str | PathLike[str] | None, delta: float
) -> "training.WarmStart | None":
    """The weights of a trained model, or of the folder that holds one."""
    if source is None:
        return None
    if isinstance(source, str | PathLike):
        source = Segmentation.load(Path(source))
    if not isinstance(source, Segmentation):
        raise InputError(
            f"warm_start must be a trained model or its folder, got {source!r}: resume "
            "goes on from a checkpoint"
        )
    learned = source._check_fitted()
    network, kept = learned.network, learned.recipe.model.weights
    digest = sha256(bundle.pack_weights(network.state_dict(), kept)).hexdigest()
    return training.WarmStart(network, digest, delta)


def _shortened(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
