"""The directory of a model: what is there, what may be replaced, and how.

A model that is replaced keeps its place until the new one takes it in one step. Where
the file system cannot do that in one step, and the process is killed between two, the
old model lies beside its place, and is found there.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from nobrainer.bundle.contents import LISTED, RECIPE, SUMS, WEIGHTS
from nobrainer.errors import InputError
from nobrainer.system import check_writable, exchange

NEW, OLD = ".new", ".old"


def put(
    contents: Mapping[str, bytes], directory: str | Path, *, overwrite: bool
) -> None:
    """Write the files of a model to its directory, all of them or none.

    Args:
        contents: the files, by name.
        directory: where to; made if missing.
        overwrite: replace the model that is there.

    Raises:
        InputError: the directory is taken, or cannot be written (full disk).
    """
    # Resolved, because a link or "." cannot be renamed over.
    target = Path(directory).resolve()
    new, old = _beside(target, NEW), _beside(target, OLD)
    try:
        replaces = is_taken(target)
        if replaces and not overwrite:
            raise _model_there(target)
        _clear(target)
        new.mkdir(parents=True)
        for name, data in contents.items():
            _write(new / name, data)
        if not replaces:
            new.rename(target)
        elif not exchange(new, target):
            target.rename(old)
            new.rename(target)
    except OSError as error:
        raise InputError(
            f"{directory}: the model cannot be written ({error.strerror}); "
            "choose another place or free some space"
        ) from error
    finally:
        # Here and not in the `except`, so that an interruption restores it too.
        if old.exists() and not target.exists():
            old.rename(target)
        _remove(new)
        _remove(old)


def check_place(directory: str | Path, *, overwrite: bool) -> None:
    """Check that a model can be saved in a directory, before long work begins.

    Args:
        directory: the directory for the model.
        overwrite: whether a model that is there may be replaced.

    Raises:
        InputError: the directory is taken, or cannot be written.
    """
    target = Path(directory).resolve()
    if is_taken(target) and not overwrite:
        raise _model_there(target)
    check_writable(_beside(target, NEW), shown=directory)


def digest(path: str | Path) -> str:
    """The SHA-256 that identifies a model, its calibration included.

    Args:
        path: a model's directory, or a file with a checkpoint.
    """
    path = Path(path)
    data = read_file(path) if path.is_file() else read_file(find(path) / SUMS)
    return hashlib.sha256(data).hexdigest()


def is_taken(target: Path) -> bool:
    """Whether there is a model in a directory, which may be replaced on request.

    A model that a killed save has left beside its place is put back first.

    Args:
        target: the directory, without links.

    Returns:
        False where the directory is missing or empty.

    Raises:
        InputError: something else is there, which must be kept.
    """
    kept = find(target)
    if kept != target:
        # Where this is not possible saving fails, too, and says why.
        with suppress(OSError):
            kept.rename(target)
    if not target.exists():
        return False
    if not target.is_dir():
        raise InputError(f"{target}: is a file; choose another directory")
    names = {entry.name for entry in target.iterdir()}
    if not names:
        return False
    sums = read_file(target / SUMS) if (target / SUMS).is_file() else b""
    listed = {line[66:].decode(errors="replace") for line in sums.splitlines()}
    # Only files in the list of checksums are a model's. Many folders have a README or a
    # recipe.json that is somebody's own.
    ours = {n for n in {*LISTED} & listed | {SUMS} if (target / n).is_file()}
    foreign = sorted(names - ours)
    if foreign or not {RECIPE, WEIGHTS} <= names:
        raise InputError(
            f"{target}: holds files that are not a model's "
            f"({', '.join(foreign or sorted(names))}); choose another directory"
        )
    return True


def _model_there(target: Path) -> InputError:
    """The error for a model that is not to be replaced."""
    return InputError(
        f"{target}: a model is already there: give another directory, or "
        "overwrite=True to replace it"
    )


def _beside(target: Path, kind: str) -> Path:
    """A path beside a model's place while it is saved, with the process's number."""
    return target.with_name(f".{target.name}.{os.getpid()}{kind}")


def _siblings(target: Path, kind: str) -> list[Path]:
    """The paths that `_beside` has named for a model, in any process."""
    if not target.parent.is_dir():
        return []
    pattern = re.compile(rf"\.{re.escape(target.name)}\.\d+{re.escape(kind)}")
    return [p for p in target.parent.iterdir() if pattern.fullmatch(p.name)]


def find(directory: Path) -> Path:
    """Where a model lies: beside its place if a save was killed at the worst moment."""
    if directory.exists():
        return directory
    return next(iter(_siblings(directory, OLD)), directory)


def is_model(path: Path) -> bool:
    """Whether a place has a model, whole or not, or is a file such as a checkpoint.

    Args:
        path: the place, which need not exist.
    """
    place = find(path)
    files = (place / name for name in (RECIPE, WEIGHTS, SUMS))
    return place.is_file() or any(file.is_file() for file in files)


def _clear(target: Path) -> None:
    """Take away what killed saves have left beside a model."""
    for kind in (NEW, OLD):
        for path in _siblings(target, kind):
            pid = int(path.name.split(".")[-2])
            # With this process's number it comes from an earlier one that had it.
            if pid == os.getpid() or not psutil.pid_exists(pid):
                _remove(path)


def _remove(directory: Path) -> None:
    """Remove a model's files and then the directory, if nothing else is in it."""
    with suppress(OSError):
        for name in (*LISTED, SUMS):
            (directory / name).unlink(missing_ok=True)
        directory.rmdir()


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        # Some file systems report a full disk only here.
        os.fsync(stream.fileno())


def read_file(path: Path) -> bytes:
    """The bytes of a regular file of a model.

    Raises:
        InputError: it is missing, cannot be read, or is a pipe or a device.
    """
    # Reading a pipe would wait for ever, and a device has no end.
    if path.exists() and not path.is_file():
        raise InputError(
            f"{path}: cannot be read (it is no regular file); copy the model again"
        )
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: missing, so this is not a whole model; give a model's "
            "directory or copy the model again"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); check the file"
        ) from error
