"""What is to be trained and how, and what shows its progress."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.data import DataLoader

from nobrainer.data.labels import LabelTable
from nobrainer.recipe import Recipe
from nobrainer.training.objective import Elbo, Supervised

Row = dict[str, Any]


class Progress(Protocol):
    """What shows the progress of a training."""

    def begin_epoch(self, epoch: int, n_steps: int) -> None:
        """Show that an epoch starts.

        Args:
            epoch: number of the epoch, from 1.
            n_steps: number of its batches.
        """

    def step(self, loss: float, dice: float, patches_per_s: float) -> None:
        """Show that a batch is done.

        Args:
            loss: total loss, mean over the epoch so far.
            dice: Dice of the foreground over the epoch so far, in [0, 1].
            patches_per_s: patches per second over the epoch so far.
        """

    def end_epoch(self, row: Row) -> None:
        """Show that an epoch is done, which has this row of the history."""


@dataclass(frozen=True)
class Job:
    """What is to be trained, and how.

    objective: what is minimised; it holds the model.
    optimizer: optimiser of the model's parameters.
    loader: loader of the batches; its dataset's `set_epoch`, where it has one, is
        called before each epoch.
    recipe: recipe of the model; its `training` says how it is trained.
    labels: names of the classes, for the checkpoints.
    validate: function that measures the model; its figure `validation_dice` is the
        score, by which the best epoch is chosen. None does not validate.
    directory: folder of the checkpoints; None keeps none.
    on_epoch: function that gets the history's row after each epoch, in the first of
        the processes that train.
    as_batch: function that turns what the loader gives into a dictionary with "image"
        (B, C, I, J, K), "label", and the names of the batch's files as "source".
    """

    objective: Supervised | Elbo
    optimizer: torch.optim.Optimizer
    loader: DataLoader[dict[str, Any]]
    recipe: Recipe
    labels: LabelTable
    validate: Callable[[nn.Module], dict[str, float]] | None = None
    directory: Path | None = None
    on_epoch: Callable[[Row], None] | None = None
    as_batch: Callable[[Any], dict[str, Any]] = lambda batch: batch
