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
"""Seconds after which work that is no scan and no epoch of its own has a line, too."""


class ProgressBar:
    """Progress on standard error: a bar on a terminal, else a line a scan or an epoch.

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
            # What is printed as a result may be a file while the bar is on a terminal.
            redirect_stdout=False,
            # A scan can take longer than the 30 s from which speed is told by default.
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
        """Start a bar of `total` steps."""
        self._number, self._n_scans = 0, 0
        self._name(what)
        self._progress.reset(self._task, total=total, visible=True, figures="")

    def begin_scans(self, n_scans: int) -> None:
        """Start a bar of so many scans; the work on each is done inside of `scan`."""
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
            # What took no time says nothing about the time left.
            self._progress.reset(
                self._task, total=self._n_scans, completed=self._number, figures=""
            )
            return
        self._progress.update(self._task, completed=self._number)
        if self._n_scans > 1:
            self._tell(f"{self._what} ({time.monotonic() - started_s:.0f} s)")

    def skip(self) -> None:
        """Say, inside of `scan`, that this scan needs no work."""
        self._is_skipped = True

    def advance(self, done: int, total: int) -> None:
        """Set how far the bar, or the scan, is."""
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
        """Start the bar of an epoch."""
        self.begin(f"epoch {epoch}", n_steps)

    def step(self, loss: float, dice: float, patches_per_s: float) -> None:
        """Count a training step and show its figures."""
        figures = f"loss {loss:.4f}  Dice {dice:.3f}  {patches_per_s:.1f} patches/s"
        self._progress.update(self._task, advance=1, figures=figures)

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Leave a line with the epoch's figures above the bar."""
        text = f"epoch {row['epoch']}: loss {row['loss']:.4f}, Dice {row['dice']:.3f}"
        if "validation_dice" in row:
            text += f", validation Dice {row['validation_dice']:.3f}"
        text += f" ({row['seconds']:.0f} s)"
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
            # Work is worth more than the news of it.
            with suppress(OSError):
                print(text, file=sys.stderr, flush=True)
