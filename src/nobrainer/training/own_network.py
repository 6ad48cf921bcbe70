"""The one training loop, for a network and a loader of one's own."""

import math
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from nobrainer import models
from nobrainer.checks import check_count
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.provenance import now
from nobrainer.recipe import (
    DataConfig,
    ModelConfig,
    PreprocessConfig,
    Provenance,
    Recipe,
    TrainingConfig,
)
from nobrainer.training.checkpoint_folder import open_folder
from nobrainer.training.data_loss import DataLoss
from nobrainer.training.engine import check_gpus
from nobrainer.training.fabric import make_fabric
from nobrainer.training.job import Job, Row
from nobrainer.training.loop import Training
from nobrainer.training.objective import make_objective

PRECISION = "32-true"


def fit(
    model: nn.Module,
    loader: DataLoader[Any],
    criterion: Callable[[Tensor, Tensor], Tensor],
    optimizer: Optimizer,
    max_epochs: int = 1,
    gpus: int | None = None,
    checkpoint_dir: str | PathLike[str] | None = None,
    *,
    resume: bool = False,
    gradient_clip: float | None = None,
    seed: int = 0,
    on_epoch: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Train a network of your own, with the loop that `Segmentation.fit` has.

    The network is trained in place, in single precision, at the learning rate that the
    optimiser has. A network with a `kl_weight` (the Bayesian ones of the registry)
    minimises its divergence as well. After a third of the training and 30 batches,
    batch norm uses its running figures, as it will in prediction.

    Args:
        model: maps images (B, C, I, J, K) to logits.
        loader: gives pairs (image, label), or dictionaries with "image" and "label".
        criterion: maps logits and labels, as the loader gives them, to the loss.
        optimizer: the optimiser of the network's parameters.
        max_epochs: number of passes over the loader.
        gpus: number of GPUs; 0 takes the CPU. None takes one GPU where there is one.
            For several the calling program runs once for each of them.
        checkpoint_dir: folder in which the last state is kept; None keeps none.
        resume: go on from the last state in that folder, if there is one.
        gradient_clip: largest norm of the gradient; None clips nothing.
        seed: seed of weight draws and dropout; the order of the batches is the
            loader's.
        on_epoch: called after each epoch with its row of the history.

    Returns: the history, a row for each epoch: its "loss", "dice" (of the foreground,
        over all patches), "seconds" and others.

    Raises:
        InputError: batches that cannot be used, fewer GPUs than asked for, or a folder
            that is taken.
        DivergedError: a loss was not finite.
    """
    check_count("max_epochs", max_epochs, 1)
    check_gpus(gpus)
    if resume and checkpoint_dir is None:
        raise InputError("resume needs checkpoint_dir, where the last state is")
    n_classes, block, n_voxels = _look_at(model, loader)
    recipe = Recipe(
        ModelConfig(models.name_of(model)),
        PreprocessConfig(normalize="none"),
        DataConfig(n_classes, block, loader.batch_size or 1),
        _describe(criterion, optimizer, max_epochs, gradient_clip, seed),
        Provenance(now(), now(), {}, (), {}),
    )
    folder = open_folder(checkpoint_dir, 1, resume=resume)
    loop = Training(
        make_fabric(PRECISION, gpus or 1, on_cpu=gpus == 0),
        Job(
            objective=make_objective(model, criterion, n_voxels),
            optimizer=optimizer,
            loader=loader,
            recipe=recipe,
            labels=LabelTable.generic(n_classes),
            directory=folder,
            on_epoch=on_epoch,
            as_batch=as_batch,
        ),
        None,
    )
    if resume and folder is not None:
        loop.resume(folder)
    return loop.run()


def _describe(
    criterion: Callable[[Tensor, Tensor], Tensor],
    optimizer: Optimizer,
    max_epochs: int,
    gradient_clip: float | None,
    seed: int,
) -> TrainingConfig:
    """How a network of one's own is trained, as a recipe has it."""
    return TrainingConfig(
        epochs=max_epochs,
        optimizer=f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
        opt_args={},
        loss=DataLoss(criterion).name,
        class_weights=None,
        schedule="constant",
        seed=seed,
        precision=PRECISION,
        gradient_clip=gradient_clip,
        accumulate=1,
        patience=None,
        max_minutes=None,
    )


def as_batch(given: object) -> dict[str, Any]:
    """A batch of a user's loader, as the loop takes it.

    Args:
        given: a pair (image, label), or a dictionary with "image" and "label", and the
            names of its files as "source" if it has them.

    Raises:
        InputError: it is anything else, or the image has not five axes.
    """
    if isinstance(given, Mapping) and {"image", "label"} <= given.keys():
        image, label = given["image"], given["label"]
        source = given.get("source", ())
    elif isinstance(given, list | tuple) and len(given) == 2:
        (image, label), source = given, ()
    else:
        raise InputError(
            "the loader must give pairs (image, label), or dictionaries with 'image' "
            f"and 'label', got {type(given).__name__}"
        )
    for name, tensor in (("image", image), ("label", label)):
        if not isinstance(tensor, Tensor):
            raise InputError(
                f"the {name} of a batch must be a tensor, got {type(tensor).__name__}"
            )
    if image.ndim != 5 or not image.is_floating_point():
        raise InputError(
            "the image of a batch must be real numbers (B, C, I, J, K), got "
            f"{str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}"
        )
    return {"image": image, "label": label, "source": source or ("the loader",)}


def _look_at(
    model: nn.Module, loader: DataLoader[Any]
) -> tuple[int, tuple[int, int, int], int]:
    """Number of classes, shape of a patch, and voxels of an epoch, from one batch.

    The random numbers of the batch are given back, and the network is left as it is.
    """
    with torch.random.fork_rng(devices=[]):
        batch = as_batch(next(iter(loader), None))
    image: Tensor = batch["image"][:1]
    n_channels = models.count_channels(model, image)
    i, j, k = image.shape[2:]
    n_patches = len(loader) * len(batch["image"])
    return max(2, n_channels), (i, j, k), n_patches * math.prod((i, j, k))
