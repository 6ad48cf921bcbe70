"""What is to be trained and how, and who is told how it goes on."""

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
    """What shows how training goes on."""

    def begin_epoch(self, epoch: int, n_steps: int) -> None:
        """An epoch (from 1) of so many batches starts."""

    def step(self, loss: float, dice: float, patches_per_s: float) -> None:
        """A batch is done; the figures are means over the epoch so far."""

    def end_epoch(self, row: Row) -> None:
        """An epoch is done; `row` is its row of the history."""


@dataclass(frozen=True)
class Job:
    """What is to be trained, and how.

    objective: holds the model.
    loader: batches; its dataset has `set_epoch`.
    recipe: of which `training` is the configuration.
    labels: the classes, for the checkpoints.
    validate: maps the model to figures, of which `validation_dice` is the score.
    directory: where checkpoints go; None keeps none.
    on_epoch: is given the history's row after each epoch, on the first process.
    """

    objective: Supervised | Elbo
    optimizer: torch.optim.Optimizer
    loader: DataLoader[dict[str, Any]]
    recipe: Recipe
    labels: LabelTable
    validate: Callable[[nn.Module], dict[str, float]] | None = None
    directory: Path | None = None
    on_epoch: Callable[[Row], None] | None = None
