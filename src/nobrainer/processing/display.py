"""A progress bar for training and prediction, quiet when nobody watches."""

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


class ProgressBar:
    """A bar on standard error; silent if `verbose` is false or it is no terminal.

    Use it as a context manager; it is what training calls a `Display`.
    """

    def __init__(self, *, verbose: bool) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not (verbose and console.is_terminal),
        )
        self._task = self._progress.add_task("", figures="", visible=False)

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
        self._progress.reset(
            self._task, total=total, description=what, visible=True, figures=""
        )

    def advance(self, done: int, total: int) -> None:
        """Set how far the bar is."""
        self._progress.update(self._task, completed=done, total=total)

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
        if not self._progress.disable:
            self._progress.print(f"{text} ({row['seconds']:.0f} s)")
