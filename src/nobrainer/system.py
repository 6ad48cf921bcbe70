"""Questions to the operating system: processes, and places to write."""

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

# Constants of Linux's headers prctl.h, fcntl.h and fs.h, which Python does not have.
_PR_SET_PDEATHSIG = 1
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_LOOK_S = 0.5


def end_with_parent(parent: int) -> None:
    """Have this process killed as soon as the process that started it has ended.

    A process that must not outlive its parent calls this first. It works however the
    parent ends.

    Args:
        parent: process number of the parent, as the parent itself has passed it on.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    # The parent may have ended before this call.
    _end_unless_child_of(parent)


def _watch(parent: int) -> None:
    while True:
        _end_unless_child_of(parent)
        time.sleep(_LOOK_S)


def _end_unless_child_of(parent: int) -> None:
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def check_writable(directory: Path, shown: str | Path | None = None) -> None:
    """Check that files can be written to a directory.

    The test file is removed again.

    Args:
        directory: the directory; it need not exist, nor its parents.
        shown: name of the directory in the message; None gives its path.

    Raises: InputError where nothing can be written.
    """
    shown = directory if shown is None else shown
    directory = directory.absolute()
    try:
        there = next(p for p in (directory, *directory.parents) if p.exists())
        with TemporaryDirectory(prefix=".", dir=there) as probe:
            place = Path(probe, *directory.relative_to(there).parts)
            place.mkdir(parents=True, exist_ok=True)
            # A file, because on a full disk a folder can still be made.
            (place / "probe").write_bytes(bytes(4096))
    except OSError as error:
        raise InputError(
            f"{shown}: cannot be written ({error.strerror}): choose another place "
            "or free some space"
        ) from error


def exchange(first: Path, second: Path) -> bool:
    """Let two files or folders change names in one step, where the system can.

    Args:
        first: path of a file or folder.
        second: path of another one on the same file system.

    Returns: whether the system can; if not, nothing is changed.
    Raises: OSError where the exchange fails for another reason.
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
    # The file system or the kernel cannot exchange names.
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))
