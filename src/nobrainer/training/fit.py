"""The one training loop."""

import math
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nobrainer.bayes.draws import mix_seed
from nobrainer.data.labels import LabelTable
from nobrainer.errors import DivergedError, InputError
from nobrainer.models.check import load_weights
from nobrainer.models.registry import FAILURES, first_line
from nobrainer.recipe import Recipe
from nobrainer.training.checkpoint import (
    BEST,
    INTERRUPTED,
    LAST,
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from nobrainer.training.fabric import Fabric
from nobrainer.training.memory import kept_memory
from nobrainer.training.objective import Elbo, Loss, Supervised

Row = dict[str, Any]

WARM_UP = 0.05
"""Share of the training in which the learning rate rises to its full value."""
SETTLED, SETTLING_STEPS = 1 / 3, 30
"""Share of the training, and batches at least, after which batch norm uses its running
figures.

Those of the few patches of a batch change with what the patches show, so that a
network trained on them alone cannot tell air from tissue: on the embedded subjects the
tutorial's Dice was measured to rise from 0.94 to 0.98, and the entropy far from the
boundary to fall from 0.2 to 0.02.
"""


class Display(Protocol):
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


class Training:
    """A training under way: `run` takes it to its end, or to the next failure.

    Randomness (weight draws, dropout) is seeded anew in every epoch from the seed,
    the epoch and the process, and patches from the seed, the epoch and their
    number. So a training that was killed and resumed from its last finished epoch
    has, on a CPU, the same bits as one that was not.
    """

    def __init__(self, fabric: Fabric, job: Job, display: Display | None) -> None:
        self.job = job
        self.config = job.recipe.training
        self.model = job.objective.model
        # channels_last_3d was measured up to 1.6 times faster on a CPU.
        self.model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.fabric = fabric
        self.display = display if fabric.is_global_zero else None
        self.history: list[Row] = []
        self.best: tuple[float, int] | None = None
        self.best_weights: dict[str, Tensor] | None = None
        self.objective, self.optimizer = fabric.setup(job.objective, job.optimizer)
        self.loader = fabric.setup_dataloaders(job.loader)
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]

    def resume(self, directory: Path) -> None:
        """Go on from the last checkpoint in `directory`, if there is one.

        Raises `InputError` where that checkpoint belongs to another training.
        """
        if not (directory / LAST).exists():
            return
        checkpoint = read_checkpoint(directory / LAST)
        _check_same(checkpoint.recipe, self.job.recipe, directory)
        self._restore(checkpoint, directory / LAST)
        for weight, state in self.optimizer.state.items():
            for name, value in state.items():
                # A fused optimiser goes by the order in memory, which files lose.
                if value.shape == weight.shape:
                    state[name] = torch.empty_like(weight).copy_(value)
        self.history = list(checkpoint.history)
        if checkpoint.best is not None and (directory / BEST).exists():
            # Its own score: it may be of an earlier epoch where the disk was full.
            best = read_checkpoint(directory / BEST)
            self.best, self.best_weights = best.best, best.weights

    def _restore(self, checkpoint: Checkpoint, path: Path) -> None:
        """Take weights and optimiser's state; `InputError` where they do not fit."""
        try:
            load_weights(self.model, checkpoint.weights)
            self.optimizer.load_state_dict(checkpoint.optimizer)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except FAILURES as error:
            raise InputError(
                f"{path}: is not a checkpoint of this optimiser: {first_line(error)}"
            ) from error

    def run(self) -> list[Row]:
        """Train to the end and leave the model with its best weights.

        Best by `validation_dice`; without validation the last weights stay.

        Returns: the history, a row an epoch.

        Raises:
            DivergedError: a loss was not finite.
            KeyboardInterrupt: with a message that says where the weights are.
        """
        with torch.random.fork_rng(), kept_memory():
            try:
                while not self._finished():
                    self._epoch(len(self.history))
            except KeyboardInterrupt:
                raise KeyboardInterrupt(self._save_interrupted()) from None
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)
        # Each process has running figures of batch norm of its own.
        self.model.load_state_dict(self.fabric.broadcast(self.model.state_dict()))
        # As files keep them: the last bits of a draw follow the order in memory.
        self.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return self.history

    def _finished(self) -> bool:
        config, epoch = self.config, len(self.history)
        if epoch >= config.epochs or (epoch and self._time_is_up()):
            return True
        if config.patience is None or self.best is None:
            return False
        return epoch - self.best[1] >= config.patience

    def _elapsed_s(self) -> float:
        return sum(row["seconds"] for row in self.history)

    def _time_is_up(self, this_epoch_s: float = 0.0) -> bool:
        limit = self.config.max_minutes
        return limit is not None and self._elapsed_s() + this_epoch_s >= 60 * limit

    def _epoch(self, epoch: int) -> None:
        config, started = self.config, time.monotonic()
        torch.manual_seed(mix_seed(config.seed, epoch, self.fabric.global_rank))
        self.job.loader.dataset.set_epoch(epoch)  # type: ignore[attr-defined]
        self.objective.train()
        n_steps = len(self.loader)
        if self.display:
            self.display.begin_epoch(epoch + 1, n_steps)
        sums = _Sums()
        batches: Iterator[dict[str, Any]] = iter(self.loader)  # type: ignore[arg-type]
        with _uninterrupted():  # The first batch starts the workers.
            first = next(batches)
        for step, batch in enumerate(chain([first], batches)):
            # One clock for all processes, or they would part ways.
            seconds = self.fabric.broadcast(time.monotonic() - started)
            # At least one step, so that an epoch's figures are of something.
            if step and self._time_is_up(seconds):
                break
            done = epoch * n_steps + step
            progress = self._progress(done, n_steps, seconds)
            if progress >= SETTLED and done >= SETTLING_STEPS:
                self._settle_batch_norm()
            self._set_learning_rate(progress, n_steps)
            place = step % config.accumulate
            group = min(config.accumulate, n_steps - step + place)
            loss = self._forward_backward(
                batch, group, last=place + 1 == group, where=(epoch + 1, step + 1)
            )
            sums.add(loss, batch["label"])
            if self.display:
                rate = sums.patches / (time.monotonic() - started)
                self.display.step(sums.mean("total"), sums.dice(), rate)
        self._check_weights(epoch + 1)
        trained_s = time.monotonic() - started
        row: Row = {
            "epoch": epoch + 1,
            "steps": sums.steps,
            "loss": sums.mean("total"),
            "data_loss": sums.mean("data"),
            "kl": sums.mean("kl"),
            "dice": sums.dice(),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "patches_per_s": sums.patches * self.fabric.world_size / trained_s,
        }
        if self.job.validate is not None:
            row |= self._validate(self.job.validate, epoch)
        row["seconds"] = time.monotonic() - started
        row = self.fabric.broadcast(row)
        self.history.append(row)
        if self.display:
            self.display.end_epoch(row)
        if self.job.directory is not None:
            self._keep_epoch(self.job.directory)
        if self.job.on_epoch is not None and self.fabric.is_global_zero:
            self.job.on_epoch(row)

    def _check_weights(self, epoch: int) -> None:
        """Raise before weights are kept that training cannot go on from."""
        if not all(bool(t.isfinite().all()) for t in self.model.state_dict().values()):
            raise DivergedError(
                f"weights are not finite at the end of epoch {epoch}: give a lower "
                "learning rate or gradient_clip"
            )

    def _forward_backward(
        self, batch: dict[str, Any], group: int, *, last: bool, where: tuple[int, int]
    ) -> Loss:
        """Add a batch's share of its group's mean gradient; the `last` one steps."""
        # A copy: `contiguous` leaves an image of one channel in the order that PyTorch
        # takes for the other one, and the first convolution four times slower.
        image = torch.empty_like(
            batch["image"], memory_format=torch.channels_last_3d
        ).copy_(batch["image"])
        with self.fabric.no_backward_sync(self.objective, enabled=not last):
            loss: Loss = self.objective(image, batch["label"])
            total = float(self.fabric.all_reduce(loss.total.detach()))  # type: ignore[arg-type]
            if not math.isfinite(total):
                raise DivergedError(
                    f"the loss is {total} in epoch {where[0]}, batch {where[1]} "
                    f"({', '.join(batch['source'])}): give a lower learning rate or "
                    "gradient_clip, and look at these files"
                )
            self.fabric.backward(loss.total / group)
        if last:
            if self.config.gradient_clip is not None:
                self.fabric.clip_gradients(
                    self.objective, self.optimizer, max_norm=self.config.gradient_clip
                )
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss

    def _progress(self, step: int, n_steps: int, seconds: float) -> float:
        """Share of the training that is over, by steps or by time."""
        progress = step / (n_steps * self.config.epochs)
        if self.config.max_minutes is None:
            return progress
        spent = (self._elapsed_s() + seconds) / (60 * self.config.max_minutes)
        return max(progress, spent)

    def _settle_batch_norm(self) -> None:
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eval()

    def _set_learning_rate(self, progress: float, n_steps: int) -> None:
        factor = 1.0
        if self.config.schedule == "cosine":
            step = 1 / (n_steps * self.config.epochs)
            rise = min(1.0, (progress + step) / WARM_UP)
            factor = rise * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]

    def _validate(
        self, validate: Callable[[nn.Module], dict[str, float]], epoch: int
    ) -> dict[str, float]:
        figures: dict[str, float] = {}
        if self.fabric.is_global_zero:
            self.model.eval()
            figures = validate(self.model)
        figures = self.fabric.broadcast(figures)
        score = figures["validation_dice"]
        if self.best is None or score > self.best[0]:
            self.best = (score, epoch + 1)
            self.best_weights = {
                k: v.detach().clone() for k, v in self.model.state_dict().items()
            }
        return figures

    def _keep_epoch(self, directory: Path) -> None:
        """Write the checkpoints of an epoch, or warn: they are not worth a training."""
        try:
            if self.best is not None and self.best[1] == len(self.history):
                self._write(directory / BEST)
            self._write(directory / LAST)
        except InputError as error:
            warnings.warn(
                f"{error}: training goes on, and tries again after the next epoch",
                stacklevel=2,
            )

    def _write(self, path: Path) -> None:
        if not self.fabric.is_global_zero:
            return
        checkpoint = Checkpoint(
            recipe=self.job.recipe,
            weights=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            history=tuple(self.history),
            labels=self.job.labels,
            best=self.best,
        )
        write_checkpoint(checkpoint, path)

    def _save_interrupted(self) -> str:
        """Keep the weights as they are; returns what to tell the user."""
        directory = self.job.directory
        text = f"interrupted in epoch {len(self.history) + 1}"
        try:
            path = self._write_interrupted(directory)
        except (InputError, OSError) as error:
            return f"{text}, and the weights so far are lost: {error}"
        text = f"{text}: the weights so far are in {path}"
        if directory is None or not self.history:
            return text
        return f"{text}; resume=True goes on after epoch {len(self.history)}"

    def _write_interrupted(self, directory: Path | None) -> Path:
        """Keep the weights, in a temporary folder if need be; returns the file."""
        if directory is not None:
            with suppress(InputError):
                self._write(directory / INTERRUPTED)
                return directory / INTERRUPTED
        elsewhere = Path(tempfile.mkdtemp(prefix="nobrainer-"))
        self._write(elsewhere / INTERRUPTED)
        return elsewhere / INTERRUPTED


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait, for good in the processes that start inside.

    A terminal sends it to them, too: a loader's worker that dies of it while it starts
    would end the training with that worker's error, and without saved weights.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Sums:
    """Sums over the batches of an epoch."""

    def __init__(self) -> None:
        self.patches = 0
        self.steps = 0
        self._values = {"total": 0.0, "data": 0.0, "kl": 0.0}
        self._overlap: Tensor | None = None

    def add(self, loss: Loss, label: Tensor) -> None:
        self.patches += len(label)
        self.steps += 1
        for name in self._values:
            self._values[name] += float(getattr(loss, name).detach())
        n_classes = loss.logits.shape[1]
        # Rows: label, columns: prediction.
        pairs = label * n_classes + loss.logits.detach().max(1).indices
        counts = torch.bincount(pairs.flatten(), minlength=n_classes**2)
        counts = counts.reshape(n_classes, n_classes)
        self._overlap = counts if self._overlap is None else self._overlap + counts

    def mean(self, name: str) -> float:
        return self._values[name] / max(1, self.steps)

    def dice(self) -> float:
        """Mean Dice of the foreground classes that occur, pooled over patches."""
        if self._overlap is None:
            return 0.0
        sizes = self._overlap.sum(0) + self._overlap.sum(1)
        scores = 2 * self._overlap.diagonal() / sizes
        found = scores[1:][sizes[1:] > 0]
        return float(found.mean()) if len(found) else 0.0


def _check_same(old: Recipe, new: Recipe, directory: Path) -> None:
    """Raise unless `new` continues `old`: it may only train for longer."""
    for part in ("model", "data", "preprocess", "training"):
        before, after = getattr(old, part), getattr(new, part)
        for name, value in vars(before).items():
            if name in ("epochs", "max_minutes", "patience"):
                continue
            if getattr(after, name) != value:
                raise InputError(
                    f"{directory}: cannot resume: {part}.{name} was {value!r} and now "
                    f"is {getattr(after, name)!r}; give the old value or another "
                    "checkpoint directory"
                )
    if old.provenance.files != new.provenance.files:
        raise InputError(
            f"{directory}: cannot resume: the training files have changed; give "
            "another checkpoint directory"
        )
