"""The settings of a training that most users leave as they are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from nobrainer.checks import check_choice, check_count
from nobrainer.cores import check_cores
from nobrainer.models.ensemble import MOST_MEMBERS
from nobrainer.training.engine import check_devices

SCHEDULES = ("cosine", "late-cosine", "constant")


@dataclass(frozen=True)
class TrainingOptions:
    """How a training steps, ends and runs: `fit` takes each of these by its name.

    schedule: course of the learning rate: "cosine" rises over the first 5 % of the
        training and then decays to 0, "late-cosine" stays high until the last 35 %,
        "constant" stays where it starts.
    gradient_clip: largest norm of the gradient, > 0; None clips nothing.
    accumulate: number of batches whose mean gradient makes one step of the optimiser.
    patience: number of epochs without a better validation Dice after which training
        stops; None waits for the last epoch.
    max_steps: number of batches at which training ends, if need be in the middle of an
        epoch; each member of an ensemble has as many. None sets no limit.
    max_minutes: minutes at which training ends, with a learning rate that has decayed
        by then; the members of an ensemble share them. None sets no limit.
    averaging: decay, in [0, 1), of an exponential moving average of the weights over
        the steps of the optimiser, which is what is validated and kept: 0.999 averages
        over about the last thousand. None keeps the weights as they are.
    warm_start_delta: initial standard deviations of a posterior that begins at trained
        weights, as a share of the sizes of these weights.
    precision: number format: "auto" (bf16-mixed on a GPU that has bfloat16, else
        32-true), "32-true", "tf32" (a GPU may round products), "bf16-mixed" or
        "16-mixed".
    devices: number of GPUs to train on, or without one of processes, at most one a
        core.
    num_workers: number of processes that cut patches beside the training, at most one
        a core; 0 cuts them in the training's own.
    folds: number of parts, 2 or more, into which the subjects are divided at random.
        An ensemble is trained of as many copies of the model, each of which does not
        see the scans of one part. None trains one network on all scans.
    on_epoch: function that is called after each epoch with its row of the history.

    Raises:
        InputError: an unknown schedule, a number below its least value, or more devices
            or processes than this machine has.
    """

    schedule: str = "cosine"
    gradient_clip: float | None = None
    accumulate: int = 1
    patience: int | None = None
    max_steps: int | None = None
    max_minutes: float | None = None
    averaging: float | None = None
    warm_start_delta: float = 0.05
    precision: str = "auto"
    devices: int = 1
    num_workers: int = 0
    folds: int | None = None
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None

    def __post_init__(self) -> None:
        check_choice("schedule", self.schedule, SCHEDULES)
        if self.patience is not None:
            check_count("patience", self.patience, 1)
        if self.folds is not None:
            check_count("folds", self.folds, 2, MOST_MEMBERS)
        check_devices(self.devices)
        check_count("num_workers", self.num_workers, 0)
        check_cores("num_workers", self.num_workers)


class TrainingArguments(TypedDict, total=False):
    """The fields of `TrainingOptions` as keyword arguments, for type checkers."""

    schedule: str
    gradient_clip: float | None
    accumulate: int
    patience: int | None
    max_steps: int | None
    max_minutes: float | None
    averaging: float | None
    warm_start_delta: float
    precision: str
    devices: int
    num_workers: int
    folds: int | None
    on_epoch: Callable[[Mapping[str, Any]], None] | None
