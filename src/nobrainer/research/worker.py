"""Who works on a study, whether they still do, and what of the machine is theirs."""

import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import psutil
from filelock import FileLock, Timeout

from nobrainer.errors import InputError

BEAT_S = 5.0
# Network disks may show a file's time as it was a minute ago.
DEAD_AFTER_S = 90.0
# The start of a process shifts a little when the clock is set right.
SAME_START_S = 30.0


class Presence:
    """That this process works on a study: a file in `folder` while it lives.

    Use it as a context manager; `name` is unique, `is_alive` takes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Presence":
        self.folder.mkdir(parents=True, exist_ok=True)
        started = psutil.Process().create_time()
        record = {"where": _locate(), "pid": os.getpid(), "started": started}
        partial = self.folder / f"{self.name}.partial"
        partial.write_text(json.dumps(record))
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
        (self.folder / self.name).unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            # A network disk that is away for a moment is no reason to stop.
            with suppress(OSError):
                os.utime(self.folder / self.name)


def is_alive(folder: Path, name: str) -> bool:
    """Whether the worker `name` of a `Presence` in `folder` still runs.

    Exact for a worker of this machine. Elsewhere one is taken for dead when its file
    was not touched for 90 s, by the clock of the disk.
    """
    path = folder / name
    try:
        record = json.loads(path.read_text())
        touched_s = path.stat().st_mtime
    except FileNotFoundError:
        return False
    if record["where"] != _locate():
        clock = folder / f"{socket.gethostname()}.clock"
        clock.touch()
        return clock.stat().st_mtime - touched_s <= DEAD_AFTER_S
    try:
        process = psutil.Process(record["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - record["started"]) <= SAME_START_S
    except psutil.NoSuchProcess:
        return False


def _locate() -> str:
    """Names what must be the same for a process number to mean the same process.

    Containers may share the name of a host, and each numbers its own processes.
    """
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


@contextmanager
def claim_gpu(folder: Path, gpus: Sequence[str]) -> Iterator[str | None]:
    """A GPU that no other worker of this host has, while the context lasts.

    Args:
        folder: of the locks, the same for all workers; a killed worker's are free.
        gpus: names of this host's GPUs.

    Yields:
        One of `gpus`, None where there are none.

    Raises:
        InputError: other workers have them all.
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
