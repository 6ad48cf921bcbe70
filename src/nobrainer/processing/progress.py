"""The progress of training and prediction: a bar on a terminal, else lines."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from nobrainer.errors import printable

_DAY_S = 86400.0
_SILENCE_S = 30.0
"""Seconds without a line after which one says how far the work is."""


class ProgressBar:
    """Progress on standard error: a bar on a terminal, else a line per scan or epoch.

    Silent if `verbose` is false. Use it as a context manager; it is what training
    calls a `Progress`.
    """

    def __init__(self, *, verbose: bool) -> None:
        console = Console(stderr=True)
        self._has_lines = verbose and not console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not (verbose and console.is_terminal),
            # Results are printed to standard output, which may go to a file.
            redirect_stdout=False,
            # The default tells speed from the last 30 s; a scan can take longer.
            speed_estimate_period=_DAY_S,
        )
        self._task = self._progress.add_task("", figures="", visible=False)
        self._what, self._told_s = "", time.monotonic()
        self._number, self._n_scans, self._is_skipped = 0, 0, False

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def begin(self, what: str, total: int) -> None:
        """Start a bar.

        Args:
            what: text before the bar: what is done.
            total: number of steps.
        """
        self._number, self._n_scans = 0, 0
        self._name(what)
        self._progress.reset(self._task, total=total, visible=True, figures="")

    def begin_scans(self, n_scans: int) -> None:
        """Start a bar over a number of scans; each is worked on inside of `scan`."""
        self.begin("", n_scans)
        self._n_scans = n_scans

    @contextmanager
    def scan(self, name: str) -> Iterator[None]:
        """Work on the next scan inside; `advance` says how far it is."""
        self._number += 1
        self._is_skipped = False
        started_s = time.monotonic()
        if self._n_scans == 1:
            self._name(name)
        else:
            self._name(f"scan {self._number} of {self._n_scans}: {name}")
        yield
        if self._is_skipped:
            # A scan without work must not make the estimate of the time left shorter.
            self._progress.reset(
                self._task, total=self._n_scans, completed=self._number, figures=""
            )
            return
        self._progress.update(self._task, completed=self._number)
        if self._n_scans > 1:
            self._tell(f"{self._what} ({time.monotonic() - started_s:.0f} s)")

    def end_scan(self, name: str, seconds: float) -> None:
        """Count a scan that another process has done.

        Args:
            name: name of the scan.
            seconds: how long it took.
        """
        self._number += 1
        self._name(f"scan {self._number} of {self._n_scans}: {name}")
        self._progress.update(self._task, completed=self._number)
        self._tell(f"{self._what} ({seconds:.0f} s)")

    def pass_over(self) -> None:
        """Count a scan that needs no work."""
        self._number += 1
        self._progress.reset(
            self._task, total=self._n_scans, completed=self._number, figures=""
        )

    def skip(self) -> None:
        """Say, inside of `scan`, that this scan needs no work."""
        self._is_skipped = True

    def advance(self, done: int, total: int) -> None:
        """Show how far the work is: the current scan if there is one, else the bar.

        Args:
            done: number of steps that are done.
            total: number of all steps.
        """
        if self._n_scans:
            self._progress.update(
                self._task, completed=self._number - 1 + done / max(total, 1)
            )
        else:
            self._progress.update(self._task, completed=done, total=total)
        if time.monotonic() - self._told_s > _SILENCE_S:
            self._tell(f"{self._what}: {done} of {total}")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bar away while something else is printed."""
        self._progress.stop()
        yield
        self._progress.start()

    def begin_epoch(self, epoch: int, n_steps: int) -> None:
        """Start the bar of an epoch.

        Args:
            epoch: number of the epoch, which the bar shows.
            n_steps: number of its steps.
        """
        self.begin(f"epoch {epoch}", n_steps)

    def step(self, loss: float, dice: float, patches_per_s: float) -> None:
        """Count a training step and show its figures.

        Args:
            loss: loss of the step.
            dice: Dice on the patches of the step, in [0, 1].
            patches_per_s: speed, patches per second.
        """
        figures = f"loss {loss:.4f}  Dice {dice:.3f}  {patches_per_s:.1f} patches/s"
        self._progress.update(self._task, advance=1, figures=figures)

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Leave a line with the epoch's figures above the bar."""
        text = f"epoch {row['epoch']}: loss {row['loss']:.4f}, Dice {row['dice']:.3f}"
        if "validation_dice" in row:
            text += f", validation Dice {row['validation_dice']:.3f}"
        if "synthetic_validation_dice" in row:
            text += f" (images of label maps {row['synthetic_validation_dice']:.3f})"
        self.note(f"{text} ({row['seconds']:.0f} s)")

    def note(self, text: str) -> None:
        """Leave a line above the bar."""
        if not self._progress.disable:
            self._progress.print(text)
        self._tell(text)

    def _name(self, what: str) -> None:
        self._what = printable(what)
        self._progress.update(self._task, description=escape(self._what))

    def _tell(self, text: str) -> None:
        """Print a line where there is no bar."""
        self._told_s = time.monotonic()
        if self._has_lines:
            # Nobody reads the lines any more; the work goes on all the same.
            with suppress(OSError):
                print(text, file=sys.stderr, flush=True)
