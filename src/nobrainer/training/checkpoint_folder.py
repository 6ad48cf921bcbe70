"""The folder in which a training keeps its checkpoints."""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path

from nobrainer.errors import InputError
from nobrainer.system import check_writable
from nobrainer.training.checkpoint import BEST, INTERRUPTED, LAST

CHECKPOINT_S = 300.0
"""Seconds after which the state of an unfinished epoch is saved."""


def open_folder(
    given: str | PathLike[str] | None, n_members: int, *, resume: bool
) -> Path | None:
    """Make or open the folder in which checkpoints are kept.

    Args:
        given: path of the folder as the user gave it; None keeps no checkpoints.
        n_members: number of networks that are trained.
        resume: whether the training goes on from checkpoints in the folder.

    Returns:
        The path of the folder, or None.

    Raises:
        InputError: the folder cannot be written, holds checkpoints that nobody asked to
            resume, or those of another kind of model; or there is none to resume from.
    """
    if given is None:
        if resume:
            raise InputError(
                "resume=True needs checkpoints: give a checkpoint_filepath, too"
            )
        return None
    directory = Path(given)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{directory}: cannot be a folder for checkpoints "
            f"({error.strerror}): give another checkpoint_filepath"
        ) from error
    check_writable(directory)
    found = _members_in(directory)
    if found and not resume:
        raise InputError(
            f"{directory}: holds checkpoints of an earlier training: go on "
            "with resume=True, or give another folder"
        )
    _check_kind(directory, found, n_members)
    return directory


def member_folder(directory: Path | None, number: int, n_members: int) -> Path | None:
    """The folder of one network's checkpoints.

    Args:
        directory: folder of the training's checkpoints; None keeps none.
        number: number of the network, from 0.
        n_members: number of networks; each of several has a folder of its own.
    """
    if directory is None or n_members == 1:
        return directory
    return directory / f"member-{number}"


def _members_in(directory: Path) -> list[str]:
    """Folders of the members that have checkpoints; "" stands for a single model."""
    lone = [""] if (directory / LAST).exists() else []
    return lone + sorted(p.parent.name for p in directory.glob(f"member-*/{LAST}"))


def _check_kind(directory: Path, found: Sequence[str], n_members: int) -> None:
    """Raise where there are checkpoints of another kind of model, not to be used."""
    members = [f"member-{number}" for number in range(n_members)]
    if not set(found) <= set([""] if n_members == 1 else members):
        raise InputError(
            f"{directory}: cannot resume: its checkpoints are of "
            f"{'one model' if found[0] == '' else f'an ensemble of {len(found)}'}, "
            f"this is {'one model' if n_members == 1 else f'one of {n_members}'}: "
            "give another checkpoint directory"
        )


class CheckpointFolder:
    """The files that one training writes: its last, its best and an interrupted state.

    Args:
        path: path of the folder; None keeps nothing.
        write: function that writes the present state to a file.
    """

    def __init__(self, path: Path | None, write: Callable[[Path], None]) -> None:
        self.path = path
        self._write = write
        self._resumable = ""

    def keep(self, where: str, *, best: bool = False) -> None:
        """Write the present state as the last one, and where it is, as the best one.

        A file that cannot be written gives a warning: it must not end a training.

        Args:
            where: the place in the training, such as "epoch 3".
            best: whether the state is the best so far.
        """
        if self.path is None:
            return
        try:
            if best:
                self._write(self.path / BEST)
            self._write(self.path / LAST)
            self._resumable = where
        except InputError as error:
            warnings.warn(
                f"{error}: training goes on, and tries again later", stacklevel=2
            )

    def keep_interrupted(self, epoch: int) -> str:
        """Keep the weights of an interrupted training.

        Args:
            epoch: number of the interrupted epoch, from 1.

        Returns: the message for the user.
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
        if self.path is not None:
            with suppress(InputError):
                self._write(self.path / INTERRUPTED)
                return self.path / INTERRUPTED
        elsewhere = Path(tempfile.mkdtemp(prefix="nobrainer-"))
        self._write(elsewhere / INTERRUPTED)
        return elsewhere / INTERRUPTED
