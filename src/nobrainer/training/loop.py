"""The one training loop."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nobrainer.bayes.draws import mix_seed
from nobrainer.errors import DivergedError, InputError
from nobrainer.memory import kept_memory
from nobrainer.models.check import load_weights
from nobrainer.models.registry import FAILURES, first_line
from nobrainer.rounding import float32_products
from nobrainer.training.averaging import WeightAverage
from nobrainer.training.checkpoint import (
    BEST,
    LAST,
    Checkpoint,
    check_continues,
    check_same_optimizer,
    read_checkpoint,
    write_checkpoint,
)
from nobrainer.training.checkpoint_folder import CHECKPOINT_S, CheckpointFolder
from nobrainer.training.fabric import Fabric
from nobrainer.training.job import Job, Progress, Row
from nobrainer.training.objective import Loss
from nobrainer.training.schedule import Budget, learning_rate_factor
from nobrainer.training.tally import Tally
from nobrainer.training.watch import Watch


class Training:
    """A training under way: `run` takes it to its end, or to the next failure.

    Weight draws and dropout are seeded anew in every batch from the seed, the epoch,
    the batch and the process; patches from the seed, the epoch and their number. So on
    a CPU a training that is killed and resumed ends with the same bits as one that is
    not, unless its length is limited in minutes.

    Args:
        fabric: the devices to train on.
        job: what is to be trained, and how.
        progress: shows the progress in the first process; None shows nothing.
    """

    def __init__(self, fabric: Fabric, job: Job, progress: Progress | None) -> None:
        self.job = job
        self.config = job.recipe.training
        self.model = job.objective.model
        # channels_last_3d was measured up to 1.6 times faster on a CPU.
        self.model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.fabric = fabric
        self.progress = progress if fabric.is_global_zero else None
        self.history: list[Row] = []
        self.best: tuple[float, int] | None = None
        self.best_row: Row | None = None
        self.best_weights: dict[str, Tensor] | None = None
        self.objective, self.optimizer = fabric.setup(job.objective, job.optimizer)
        self.loader = fabric.setup_dataloaders(job.loader)
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        self.budget = Budget.of(job.recipe, len(self.loader))
        self.tally, self.watch = Tally(), Watch()
        self.shown = (0.0, 0.0)
        self.average: WeightAverage | None = None
        if self.config.averaging is not None:
            self.average = WeightAverage(self.model, self.config.averaging)
        self.folder = CheckpointFolder(
            job.directory if fabric.is_global_zero else None, self._write
        )

    def resume(self, directory: Path) -> None:
        """Go on from the last checkpoint in `directory`, if there is one.

        Raises `InputError` where that checkpoint belongs to another training.
        """
        if not (directory / LAST).exists():
            return
        checkpoint = read_checkpoint(directory / LAST)
        check_continues(checkpoint.recipe, self.job.recipe, directory)
        self._restore(checkpoint, directory / LAST)
        for weight, state in self.optimizer.state.items():
            for name, value in state.items():
                # A fused optimiser needs the weights' memory order, which files lose.
                if value.shape == weight.shape:
                    state[name] = torch.empty_like(weight).copy_(value)
        self._go_on(checkpoint)
        if checkpoint.best is not None and (directory / BEST).exists():
            # Its own score: where the disk was full, it is of an earlier epoch.
            best = read_checkpoint(directory / BEST)
            self.best, self.best_weights = best.best, best.model_weights
            self.best_row = best.history[-1]

    def _go_on(self, checkpoint: Checkpoint) -> None:
        """Take the history, and the epoch that is to be gone on with, if there is one.

        An epoch under way has no row yet. One that a limit cut short has: where the
        training may last longer now, its other batches follow.
        """
        self.history = list(checkpoint.history)
        self.tally = checkpoint.tally or Tally()
        done = self.tally.steps
        if self.history and self.history[-1].get("steps") == done:
            is_over = self.budget.is_over(self._earlier_s())
            if done < self.budget.steps_of(len(self.history) - 1) and not is_over:
                del self.history[-1]
            else:
                self.tally = Tally()

    def _restore(self, checkpoint: Checkpoint, path: Path) -> None:
        """Take weights and optimiser's state; `InputError` where they do not fit."""
        try:
            load_weights(self.model, checkpoint.weights)
            check_same_optimizer(checkpoint.optimizer, self.optimizer.state_dict())
            self.optimizer.load_state_dict(checkpoint.optimizer)
            if self.average is not None and checkpoint.average is not None:
                self.average.restore(checkpoint.average, checkpoint.n_averaged)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except FAILURES as error:
            raise InputError(
                f"{path}: is not a checkpoint of this optimiser: {first_line(error)}"
            ) from error

    def run(self) -> list[Row]:
        """Train to the end and leave the model with its best weights.

        Best by `validation_dice`; without validation the last weights stay, or their
        average where the recipe asks for one.

        Returns: the history, a row an epoch.

        Raises:
            DivergedError: a loss was not finite.
            KeyboardInterrupt: with a message that says where the weights are.
        """
        rounded = float32_products(tf32=self.config.precision == "tf32")
        with torch.random.fork_rng(), kept_memory(), rounded:
            try:
                while not self._finished():
                    self._epoch(len(self.history))
            except KeyboardInterrupt:
                if not self.fabric.is_global_zero:
                    raise
                self.watch.look()
                text = self.folder.keep_interrupted(len(self.history) + 1)
                raise KeyboardInterrupt(text) from None
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)
        elif self.average is not None:
            self.model.load_state_dict(self.average.weights)
        # Each process has running figures of batch norm of its own.
        self.model.load_state_dict(self.fabric.broadcast(self.model.state_dict()))
        # Files keep this order in memory, on which a draw's last bits depend.
        self.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return self.history

    def _finished(self) -> bool:
        config, epoch = self.config, len(self.history)
        if not self.budget.steps_of(epoch):
            return True
        if epoch and self.budget.is_over(self._earlier_s()):
            return True
        if config.patience is None or self.best is None:
            return False
        return epoch - self.best[1] >= config.patience

    def _earlier_s(self) -> float:
        """Seconds that the finished epochs took."""
        return sum(row["seconds"] for row in self.history)

    def _epoch(self, epoch: int) -> None:
        started = time.monotonic() - self.tally.seconds
        # The loader of a network of one's own need not know its epochs.
        if (choose := getattr(self.job.loader.dataset, "set_epoch", None)) is not None:
            choose(epoch)
        self.objective.train()
        if self.progress:
            self.progress.begin_epoch(epoch + 1, self.budget.steps_of(epoch))
        self._steps(epoch, started)
        self._check_weights(epoch + 1)
        row, known = self._row(epoch, time.monotonic() - started), self.best
        if self.job.validate is not None:
            row |= self._validate(self.job.validate, epoch)
        row["seconds"] = time.monotonic() - started
        row = self.fabric.broadcast(row)
        self.history.append(row)
        if self.best is not known:
            self.best_row = row
        if self.tally.steps == self.budget.steps_per_epoch:
            self.tally = Tally()
        if self.progress:
            self.progress.end_epoch(row)
        self.folder.keep(f"epoch {epoch + 1}", best=self.best is not known)
        self.tally = Tally()
        if self.job.on_epoch is not None and self.fabric.is_global_zero:
            self.job.on_epoch(row)

    def _steps(self, epoch: int, started: float) -> None:
        """Train on the batches of an epoch that are still to come.

        Args:
            epoch: counted from 0.
            started: when the epoch was begun, by the monotonic clock.
        """
        accumulate, n_steps = self.config.accumulate, self.budget.steps_of(epoch)
        kept = self.fabric.broadcast(time.monotonic() - started)
        begun = self.tally.steps
        for step, batch in enumerate(islice(self._batches(), n_steps)):
            # These batches were done before the training was resumed.
            if step < begun:
                continue
            # All processes follow one clock, so that they stop at the same batch. The
            # clocks of two differ, and so do the times at which they began.
            spent = self.fabric.broadcast(time.monotonic() - started)
            seconds = self._earlier_s() + spent
            # An epoch has at least one step, so that it has figures.
            if step and self.budget.is_over(seconds):
                break
            torch.manual_seed(
                mix_seed(self.config.seed, epoch, step, self.fabric.global_rank)
            )
            self._adjust(epoch * self.budget.steps_per_epoch + step, seconds)
            # From where it goes on: a limit may have cut a group short.
            place = (step - begun) % accumulate
            group = min(accumulate, n_steps - step + place)
            last = place + 1 == group
            where = f"epoch {epoch + 1}, batch {step + 1}", spent
            loss = self._forward_backward(batch, group, last=last, where=where)
            self.tally.add(loss, batch["label"])
            self.tally.seconds = time.monotonic() - started
            if self.progress:
                rate = self.tally.patches / self.tally.seconds
                if self.watch.is_waiting:
                    self.shown = self.tally.mean("total"), self.tally.dice()
                self.progress.step(*self.shown, rate)
            if last and step + 1 < n_steps and spent - kept >= CHECKPOINT_S:
                kept = spent
                self.watch.look()
                self.folder.keep(f"batch {step + 1} of epoch {epoch + 1}")

    def _batches(self) -> Iterator[dict[str, Any]]:
        """The batches of an epoch; the workers start with the first one."""
        batches: Iterator[Any] = iter(self.loader)
        with _uninterrupted():
            first = next(batches)
        return map(self.job.as_batch, chain([first], batches))

    def _row(self, epoch: int, trained_s: float) -> Row:
        """The figures of an epoch that took so many seconds."""
        tally = self.tally
        return {
            "epoch": epoch + 1,
            "steps": tally.steps,
            "loss": tally.mean("total"),
            "data_loss": tally.mean("data"),
            "kl": tally.mean("kl"),
            "dice": tally.dice(),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "patches_per_s": tally.patches * self.fabric.world_size / trained_s,
        }

    def _check_weights(self, epoch: int) -> None:
        """Raise where losses or weights are not finite, before these are kept."""
        self.watch.look()
        if not all(bool(t.isfinite().all()) for t in self.model.state_dict().values()):
            raise DivergedError(
                f"weights are not finite at the end of epoch {epoch}: give a lower "
                "learning rate or gradient_clip"
            )

    def _forward_backward(
        self, batch: dict[str, Any], group: int, *, last: bool, where: tuple[str, float]
    ) -> Loss:
        """Add a batch's share of its group's mean gradient; the `last` one steps."""
        # A copy: `contiguous` leaves an image of one channel in the order that PyTorch
        # takes for the other one, and the first convolution four times slower.
        image = torch.empty_like(
            batch["image"], memory_format=torch.channels_last_3d
        ).copy_(batch["image"])
        with self.fabric.no_backward_sync(self.objective, enabled=not last):
            loss: Loss = self.objective(image, batch["label"])
            figures = self._of_all(loss)
            name = f"{where[0]} ({', '.join(batch['source'])})"
            self.watch.add(figures.total, name, where[1])
            self.fabric.backward(loss.total / group)
        if last:
            if self.config.gradient_clip is not None:
                # A gradient that is not finite shows in the next loss.
                self.fabric.clip_gradients(
                    self.objective,
                    self.optimizer,
                    max_norm=self.config.gradient_clip,
                    error_if_nonfinite=False,
                )
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.average is not None:
                self.average.update(self.model)
        return figures

    def _of_all(self, loss: Loss) -> Loss:
        """The loss without a gradient, of the batches of all processes."""
        if self.fabric.world_size == 1:
            return loss
        figures = torch.stack([loss.total.detach(), loss.data.detach()])
        # It changes what it is given, which the gradient needs: hence the copy.
        total, data = self.fabric.all_reduce(figures)
        return loss._replace(total=total, data=data)

    def _adjust(self, steps: int, seconds: float) -> None:
        """Set the learning rate and batch norm by how much of the training is over.

        Args:
            steps: batches of the whole training so far.
            seconds: time that it has taken.
        """
        if self.budget.is_settled(steps, seconds):
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm3d):
                    module.eval()
        factor = learning_rate_factor(
            self.config.schedule,
            self.budget.progress(steps, seconds),
            self.budget.step,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]

    def _validate(
        self, validate: Callable[[nn.Module], dict[str, float]], epoch: int
    ) -> dict[str, float]:
        figures: dict[str, float] = {}
        with self._averaged():
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

    def _averaged(self) -> AbstractContextManager[None]:
        """Give the model inside the weights that training would end with."""
        return (
            nullcontext() if self.average is None else self.average.applied(self.model)
        )

    def _write(self, path: Path) -> None:
        """Write the present state to a file."""
        average = self.average
        checkpoint = Checkpoint(
            recipe=self.job.recipe,
            weights=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            history=tuple(self.history),
            labels=self.job.labels,
            best=self.best,
            average=None if average is None else average.weights,
            n_averaged=0 if average is None else average.n_steps,
            tally=self.tally if self.tally.steps else None,
        )
        write_checkpoint(checkpoint, path)


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
