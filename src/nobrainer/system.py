"""What the system is asked: cores, processes that end with others, places to write."""

import ctypes
import errno
import os
import signal
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from nobrainer.errors import InputError

# Numbers of Linux's headers prctl.h, fcntl.h and fs.h, which cannot be asked.
_PR_SET_PDEATHSIG = 1
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_LOOK_S = 0.5


def count_cores() -> int:
    """Cores that this process may use: those it is bound to, where that can be told."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_cores(name: str, processes: int) -> None:
    """Raise `InputError` where `name` asks for more processes than there are cores."""
    cores = count_cores()
    if processes > cores:
        raise InputError(
            f"{name} must be at most the {cores} cores that this process may use, got "
            f"{processes}: give fewer"
        )


def end_with_parent(parent: int) -> None:
    """Have this process killed as soon as the one that started it has ended.

    To be called first thing in a process that shall not outlive its parent, whatever
    ends that one.

    Args:
        parent: process number of the parent, which this process was told by it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    # It may have ended before.
    _end_unless_child_of(parent)


def _watch(parent: int) -> None:
    while True:
        _end_unless_child_of(parent)
        time.sleep(_LOOK_S)


def _end_unless_child_of(parent: int) -> None:
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def check_writable(directory: Path, shown: str | Path | None = None) -> None:
    """Raise `InputError` unless files can be written to a directory.

    What is written to try it is removed.

    Args:
        directory: the directory, which is tried with all its missing parents.
        shown: what the message calls it, where that is not its path.
    """
    shown = directory if shown is None else shown
    directory = directory.absolute()
    try:
        there = next(p for p in (directory, *directory.parents) if p.exists())
        with TemporaryDirectory(prefix=".", dir=there) as probe:
            place = Path(probe, *directory.relative_to(there).parts)
            place.mkdir(parents=True, exist_ok=True)
            # On a full disk a folder can still be made.
            (place / "probe").write_bytes(bytes(4096))
    except OSError as error:
        raise InputError(
            f"{shown}: cannot be written ({error.strerror}): choose another place "
            "or free some space"
        ) from error


def exchange(first: Path, second: Path) -> bool:
    """Let two files or folders change names in one step, where the system can.

    Returns: False where it cannot, and nothing is changed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    paths = (os.fsencode(first), os.fsencode(second))
    if not libc.renameat2(
        _AT_FDCWD, paths[0], _AT_FDCWD, paths[1], ctypes.c_uint(_RENAME_EXCHANGE)
    ):
        return True
    number = ctypes.get_errno()
    # The file system or the kernel does not know it.
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))
