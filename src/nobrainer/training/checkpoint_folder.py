"""The folder in which a training keeps its checkpoints."""

import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from nobrainer.errors import InputError
from nobrainer.training.checkpoint import (
    BEST,
    INTERRUPTED,
    LAST,
    Checkpoint,
    write_checkpoint,
)

CHECKPOINT_S = 300.0
"""Seconds after which an epoch that is still under way is kept."""


class CheckpointFolder:
    """Where one training writes: the last state, the best and an interrupted one.

    Args:
        path: of the folder; None keeps nothing.
        snapshot: makes the checkpoint of this moment.
    """

    def __init__(self, path: Path | None, snapshot: Callable[[], Checkpoint]) -> None:
        self.path = path
        self._snapshot = snapshot
        self._resumable = ""

    def keep(self, where: str, *, best: bool = False) -> None:
        """Write the last state, and where it is the `best` one that as well.

        A file that cannot be written is a warning: it is not worth a training.

        Args:
            where: the place in the training, such as "epoch 3".
            best: whether the state is the best so far.
        """
        if self.path is None:
            return
        try:
            checkpoint = self._snapshot()
            if best:
                write_checkpoint(checkpoint, self.path / BEST)
            write_checkpoint(checkpoint, self.path / LAST)
            self._resumable = where
        except InputError as error:
            warnings.warn(
                f"{error}: training goes on, and tries again later", stacklevel=2
            )

    def keep_interrupted(self, epoch: int) -> str:
        """Keep the weights as they are; returns what to tell the user.

        Args:
            epoch: the one that was interrupted, counted from 1.
        """
        text = f"interrupted in epoch {epoch}"
        try:
            path = self._write_interrupted()
        except (InputError, OSError) as error:
            return f"{text}, and the weights so far are lost: {error}"
        text = f"{text}: the weights so far are in {path}"
        if not self._resumable:
            return text
        return f"{text}; resume=True goes on after {self._resumable}"

    def _write_interrupted(self) -> Path:
        """Keep the weights, in a temporary folder if need be; returns the file."""
        checkpoint = self._snapshot()
        if self.path is not None:
            with suppress(InputError):
                write_checkpoint(checkpoint, self.path / INTERRUPTED)
                return self.path / INTERRUPTED
        elsewhere = Path(tempfile.mkdtemp(prefix="nobrainer-"))
        write_checkpoint(checkpoint, elsewhere / INTERRUPTED)
        return elsewhere / INTERRUPTED
