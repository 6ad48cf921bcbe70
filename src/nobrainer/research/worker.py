"""The workers of a study: which of them still live, and which GPU each one owns."""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from nobrainer.errors import InputError
from nobrainer.json_records import parse_json

BEAT_S = 5.0
"""Seconds after which a worker marks its file as changed, again and again."""
DEAD_AFTER_S = 90.0
"""Seconds without a change after which a worker elsewhere is taken for dead: network
disks may show a file's time as it was a minute ago."""


class Presence:
    """A file that tells other workers that this process works on a study.

    It exists as long as the context that this object is. Beside it is a lock, which
    the system frees however the process ends.

    Args:
        folder: folder of the workers' files; made if missing.

    Attributes:
        name: unique name of this worker, for `Watch.is_alive`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._lock = _lock_of(folder / self.name)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Presence":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock.acquire(blocking=False)
        partial = self.folder / f"{self.name}.partial"
        partial.write_text(json.dumps({"where": _locate(), "pid": os.getpid()}))
        partial.replace(self.folder / self.name)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        forget(self.folder, self.name)
        self._lock.release()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            # A network disk that is away for a moment is no reason to stop.
            with suppress(OSError):
                os.utime(self.folder / self.name)


class Watch:
    """Tells which workers still live, as seen by one of them.

    Args:
        folder: folder of the workers' files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._beats: dict[str, tuple[int, float]] = {}

    def is_alive(self, name: str) -> bool:
        """Whether a worker still runs.

        For a worker on this machine the answer is exact, since it holds its lock. A
        worker on another machine is taken for dead when its file has not changed for
        90 s by our clock. Clocks are never compared with each other, so it does not
        matter if they differ or are set.

        Args:
            name: name of the worker's `Presence`.
        """
        path = self.folder / name
        if not _is_name(name):
            return False
        try:
            record, touched_ns = path.read_bytes(), path.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        if _is_here(record):
            try:
                with _lock_of(path).acquire(blocking=False):
                    return False
            except Timeout:
                return True
        now = time.monotonic()
        if name not in self._beats or self._beats[name][0] != touched_ns:
            self._beats[name] = touched_ns, now
        return now - self._beats[name][1] <= DEAD_AFTER_S


def forget(folder: Path, name: str) -> None:
    """Remove the files of a worker that has ended.

    Args:
        folder: folder of the workers' files.
        name: name of the worker's `Presence`.
    """
    if _is_name(name):
        for path in (folder / name, folder / f"{name}.lock"):
            path.unlink(missing_ok=True)


def list_workers(folder: Path) -> list[str]:
    """Names of the workers that have begun and whose end nobody has noted yet.

    Args:
        folder: folder of the workers' files; need not be there.
    """
    try:
        return [path.stem for path in folder.iterdir() if path.suffix == ".lock"]
    except (FileNotFoundError, NotADirectoryError):
        return []


def count_sharing(folder: Path) -> int:
    """Number of live workers with cores of this process, which is one of them.

    Those that are bound to other cores, as jobs of a cluster can be, do not count.

    Args:
        folder: folder of the workers' files.
    """
    watch = Watch(folder)
    sharing = (
        watch.is_alive(name) and _shares_cores(folder / name)
        for name in list_workers(folder)
    )
    return max(1, sum(sharing))


def _shares_cores(path: Path) -> bool:
    """Whether the worker with a record may use some of the cores of this process."""
    try:
        record = path.read_bytes()
    except FileNotFoundError:
        return False
    if not _is_here(record):
        return False
    found = parse_json(record, "record")
    pid = found.get("pid") if isinstance(found, dict) else None
    if not isinstance(pid, int) or not hasattr(os, "sched_getaffinity"):
        return True
    try:
        return bool(os.sched_getaffinity(pid) & os.sched_getaffinity(0))
    except ProcessLookupError:
        # In a container, which has numbers of its own.
        return True


def _is_name(name: str) -> bool:
    """Whether a text can be a worker's name; what a storage holds could be any path."""
    return bool(name) and Path(name).name == name


def _lock_of(path: Path) -> FileLock:
    return FileLock(f"{path}.lock")


def _is_here(record: bytes) -> bool:
    """Whether a worker's record was written on this machine; not if it is damaged."""
    try:
        found = parse_json(record, "record")
    except InputError:
        return False
    return isinstance(found, dict) and found.get("where") == _locate()


def _locate() -> str:
    """Identify the running system, within which processes see each other's locks.

    Containers on one machine have host names of their own, but share its kernel.
    """
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


@contextmanager
def claim_gpu(folder: Path, gpus: Sequence[str]) -> Iterator[str | None]:
    """Reserve a GPU that no other worker of this host has, while the context lasts.

    Args:
        folder: folder of the locks, the same for all workers; the system frees the
            lock of a worker that is killed.
        gpus: names of this host's GPUs.

    Yields:
        The name of the GPU; None where the host has none.

    Raises:
        InputError: other workers have all of them.
    """
    if not gpus:
        yield None
        return
    host = socket.gethostname()
    folder.mkdir(parents=True, exist_ok=True)
    for gpu in gpus:
        lock = FileLock(folder / f"{host}-{gpu}.lock")
        with suppress(Timeout):
            lock.acquire(blocking=False)
            break
    else:
        raise InputError(
            f"workers must be at most one per GPU, got one more than the {len(gpus)} "
            f"of {host}: end one of them or start this one on another machine"
        )
    try:
        yield gpu
    finally:
        lock.release()
