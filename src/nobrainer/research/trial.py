"""A function in a process of its own, which ends it when it takes too much.

Whatever the function does there (crash, hang, print, fill the memory) comes back to
the caller as an `Outcome`.
"""

import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from nobrainer.errors import tell
from nobrainer.research.child import LENGTH, MESSAGE_BYTES

POLL_S = 0.1
TIDY_S = 2.0  # for a process to exit after its function has returned
DIE_S = 10.0  # for a killed process to go: a dead network disk can hold it for longer
LOOK_SHARE = 0.05  # of the parent's time, at most, goes into looking at memory
NEAR = 0.9  # of the cap on memory: who is killed there was most likely killed for it
LOG_BYTES = 10 * 2**20
UNREADABLE = (
    *(pickle.UnpicklingError, AttributeError, EOFError, ImportError, OSError),
    *(LookupError, OverflowError, RuntimeError, TypeError, ValueError),
)
# -P: no file of the working directory stands in for a module.
_CHILD = (sys.executable, "-P", "-u", "-m", "nobrainer.research.child")


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    state: "done"; "pruned", ended by its caller; "memory", "timeout", "diverged",
        "refused" or "crash".
    reason: why it is not "done", in one line.
    result: what the function returned; None unless "done".
    seconds: from the start of its process.
    peak_memory_bytes: the most main memory that was seen in use by it.
    """

    state: str
    reason: str
    result: Any
    seconds: float
    peak_memory_bytes: int


def run_trial(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    wall_s: float,
    memory_bytes: int | None,
    log: Path,
    environment: Mapping[str, str] = {},
    on_report: Callable[[Any], bool],
    on_wait: Callable[[], None],
) -> Outcome:
    """Call `function(*args, report)` in a new process and wait for its end.

    `report(message)` sends something picklable to `on_report`. The process and all
    that it started are gone when this returns or raises, and they end at once when
    the calling process dies.

    Memory is the resident set of the process, or, where it has started others, the
    sum of their proportional sets, in which shared pages count once. Memory of GPUs
    is not in it.

    Args:
        function: importable by name, not from `__main__`.
        args: picklable.
        wall_s: seconds that it may take, the start of the process included.
        memory_bytes: main memory that it may use; None for no cap.
        log: file that its output is added to; of more than 10 MiB the end is kept.
        environment: variables that it has besides those of this process.
        on_report: gets each message; its False ends the trial as "pruned".
        on_wait: called about ten times a second; what it raises ends the trial.

    Raises:
        OSError: the log cannot be written, or no process be started.
    """
    call = pickle.dumps((function, args))
    with log.open("a+b", buffering=0) as output:
        child = _Child(call, output, environment)
        try:
            state, reason, result = _follow(
                child, output, wall_s, memory_bytes, on_report, on_wait
            )
            seconds = time.monotonic() - child.started
        finally:
            child.end()
            _shorten(output)
    if state == "crash":
        reason = f"{reason}: see {log}"
    return Outcome(state, reason, result, seconds, child.peak_bytes)


def _follow(
    child: "_Child",
    output: BinaryIO,
    wall_s: float,
    memory_bytes: int | None,
    on_report: Callable[[Any], bool],
    on_wait: Callable[[], None],
) -> tuple[str, str, Any]:
    """State, reason and result of a child, once it need not be waited for."""
    oom_kills = _count_oom_kills()
    waited = 0.0
    while True:
        # Asked before reading, so that nothing it sent before its end is missed.
        code = child.process.poll()
        heard = child.receive()
        for kind, content in child.messages():
            if kind == "end":
                state, reason, result, peak_bytes = content
                child.peak_bytes = max(child.peak_bytes, peak_bytes)
                with suppress(subprocess.TimeoutExpired):
                    child.process.wait(TIDY_S)
                return state, reason, result
            if not on_report(content):
                return "pruned", "ended by its caller", None
        if time.monotonic() - waited >= POLL_S:
            waited = time.monotonic()
            on_wait()
            child.look()
            _shorten(output)
        used = child.peak_bytes
        if memory_bytes is not None and used > memory_bytes:
            cap = f"{memory_bytes / 1e9:.2f} GB"
            return "memory", f"it used {used / 1e9:.2f} GB of memory, cap {cap}", None
        if time.monotonic() - child.started > wall_s:
            return "timeout", f"it took longer than {wall_s:.0f} s", None
        if heard:
            continue
        if code is None:
            time.sleep(POLL_S)
            continue
        if code >= 0:
            return "crash", f"its process exited with {code} and no result", None
        if code != -signal.SIGKILL:
            name = signal.strsignal(-code)
            return "crash", f"its process was ended by signal {-code}, {name}", None
        near = memory_bytes is not None and used > NEAR * memory_bytes
        if near or _count_oom_kills() > oom_kills:
            return "memory", "the system killed it as memory ran out", None
        return "crash", "it was killed, perhaps by the system for want of memory", None


class _Child:
    """The process of a trial and those that it starts, as its parent sees them."""

    def __init__(
        self, call: bytes, output: BinaryIO, environment: Mapping[str, str]
    ) -> None:
        self._pipe, writer = os.pipe()
        os.set_blocking(self._pipe, False)
        # A file, as writing to a pipe would wait for a child that does not read.
        with open(writer, "wb") as messages, tempfile.TemporaryFile() as calls:
            calls.write(call)
            calls.seek(0)
            fds = calls.fileno(), messages.fileno()
            self.started = time.monotonic()
            self.process = subprocess.Popen(
                [*_CHILD, *map(str, (*fds, os.getpid()))],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=fds,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        # Made now, it knows this process from a later one with the same number.
        self._process = psutil.Process(self.process.pid)
        self.peak_bytes = 0
        self._received = bytearray()
        self._relatives: set[psutil.Process] = set()
        self._next_look = 0.0

    def receive(self) -> bool:
        """Read what has come, at most a pipe full; whether there was something."""
        chunk = b""
        with suppress(BlockingIOError):
            chunk = os.read(self._pipe, 2**20)
        self._received += chunk
        return bool(chunk)

    def messages(self) -> Iterator[tuple[str, Any]]:
        """Take the whole messages that were received."""
        while len(self._received) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._received)
            end = LENGTH.size + length
            if length <= MESSAGE_BYTES and len(self._received) < end:
                return
            content = bytes(self._received[LENGTH.size : end])
            del self._received[:end]
            try:
                kind, message = pickle.loads(content)
            except UNREADABLE as error:
                reason = f"what it sent cannot be read: {tell(error)}"
                kind, message = "end", ("crash", reason, None, 0)
            yield kind, message

    def look(self) -> None:
        """See how much memory is in use, unless that was done just before."""
        began = time.monotonic()
        if began < self._next_look:
            return
        with suppress(psutil.NoSuchProcess):
            relatives = self._find_relatives()
            if relatives:
                used = sum(map(_measure_share, [self._process, *relatives]))
            else:
                used = self._process.memory_info().rss
            self.peak_bytes = max(self.peak_bytes, used)
        self._next_look = began + (time.monotonic() - began) / LOOK_SHARE

    def _find_relatives(self) -> list[psutil.Process]:
        """What the child and its children started; remembered if their parent dies."""
        found = self._process.children(recursive=True)
        self._relatives = set(filter(_is_running, self._relatives)) | set(found)
        return found

    def end(self) -> None:
        """Kill all processes, at once and without asking, and wait until they left."""
        with suppress(psutil.NoSuchProcess):
            self._find_relatives()
        # The group outlives its leader: its number still means these processes.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for relative in self._relatives:
            with suppress(psutil.Error):
                relative.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(DIE_S)
        until = time.monotonic() + TIDY_S
        while any(map(_is_running, self._relatives)) and time.monotonic() < until:
            time.sleep(0.01)
        if self.process.stdin:
            self.process.stdin.close()
        os.close(self._pipe)


def _is_running(process: psutil.Process) -> bool:
    """Whether a process still holds anything but its number."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _measure_share(process: psutil.Process) -> int:
    """Bytes of a process, of shared pages its share; 0 where it has ended."""
    try:
        memory = process.memory_full_info()
    except psutil.NoSuchProcess:
        return 0
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    # macOS knows no shares, only what is not shared at all.
    return int(getattr(memory, "pss", memory.uss))


def _count_oom_kills() -> int:
    """Processes that Linux has killed for want of memory since it started."""
    try:
        figures = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", figures, re.MULTILINE)
    return int(found[1]) if found else 0


def _shorten(log: BinaryIO) -> None:
    """Keep the end of a log that has grown too long.

    What a trial appends at this very moment can be lost, or stand before the rest.
    """
    if os.fstat(log.fileno()).st_size <= LOG_BYTES:
        return
    log.seek(-LOG_BYTES // 10, os.SEEK_END)
    end = log.read(LOG_BYTES // 10)
    log.truncate(0)
    log.write(b"[what stood here was too long to keep]\n" + end)
