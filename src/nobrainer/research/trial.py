"""A function called in a process of its own, which is ended when it takes too much.

Whatever the function does there (crash, hang, print, fill the memory), the caller gets
an `Outcome`.
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
"""Seconds between looks at the process."""
TIDY_S = 2.0
"""Seconds for a process to exit after its function has returned."""
DIE_S = 10.0
"""Seconds for a killed process to go; a dead network disk can hold it for longer."""
LOOK_SHARE = 0.05
"""Largest share of the parent's time that goes into measuring memory."""
NEAR = 0.9
"""Share of the cap on memory above which a killed process most likely ran out of it."""
LOG_BYTES = 10 * 2**20
"""Bytes of a log above which only its end is kept."""
UNREADABLE = (
    *(pickle.UnpicklingError, AttributeError, EOFError, ImportError, OSError),
    *(LookupError, OverflowError, RuntimeError, TypeError, ValueError),
)
# -P: no file of the working directory is taken for a module.
_CHILD = (sys.executable, "-P", "-u", "-m", "nobrainer.research.child")


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    state: "done"; "pruned" (ended by its caller); "memory", "timeout", "diverged",
        "refused" or "crash", as in `journal.STATES`.
    reason: why it is not "done", in one line; "" where it is.
    result: what the function returned; None unless "done".
    seconds: time from the start of its process to its end.
    peak_memory_bytes: the most main memory that it was seen to use.
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

    Memory means the resident set of the process, or, where it has started others, the
    sum of their proportional sets, in which shared pages count once. Memory of GPUs
    does not count.

    Args:
        function: the function, which can be imported by its name, not from `__main__`.
        args: its arguments, which can be pickled.
        wall_s: seconds that it may take, the start of the process included.
        memory_bytes: bytes of main memory that it may use; None for no cap.
        log: file that its output is appended to; above 10 MiB only the end is kept.
        environment: variables that it has besides those of this process.
        on_report: gets each message; if it returns False the trial ends as "pruned".
        on_wait: called about ten times a second; an exception that it raises ends the
            trial and reaches the caller.

    Raises:
        OSError: the log cannot be written, or no process can be started.
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
    """Follow a child until it ends or must end; return state, reason and result."""
    oom_kills = _count_oom_kills()
    waited = 0.0
    while True:
        # Before reading, so that no message from just before its end is missed.
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
        # A file and no pipe, which would block if the child did not read it.
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
        # Made now, so that it is not mistaken for a later one with the same number.
        self._process = psutil.Process(self.process.pid)
        self.peak_bytes = 0
        self._received = bytearray()
        self._relatives: set[psutil.Process] = set()
        self._next_look = 0.0

    def receive(self) -> bool:
        """Read up to 1 MiB that the child has sent; return whether there was any."""
        chunk = b""
        with suppress(BlockingIOError):
            chunk = os.read(self._pipe, 2**20)
        self._received += chunk
        return bool(chunk)

    def messages(self) -> Iterator[tuple[str, Any]]:
        """Yield the messages that were received whole, and remove them."""
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
        """Measure the memory in use, unless that was done just before."""
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
        """The descendants of the child; remembered for when their parent has died."""
        found = self._process.children(recursive=True)
        self._relatives = set(filter(_is_running, self._relatives)) | set(found)
        return found

    def end(self) -> None:
        """Kill all processes at once, and wait until they are gone."""
        with suppress(psutil.NoSuchProcess):
            self._find_relatives()
        # The group outlives its leader, so its number still means these processes.
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
    """Whether a process runs; a zombie, which only holds its number, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _measure_share(process: psutil.Process) -> int:
    """Bytes of a process with its share of shared pages; 0 where it has ended."""
    try:
        memory = process.memory_full_info()
    except psutil.NoSuchProcess:
        return 0
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    # macOS tells no shares, only the bytes that are not shared at all.
    return int(getattr(memory, "pss", memory.uss))


def _count_oom_kills() -> int:
    """How many processes Linux has killed for want of memory since it started."""
    try:
        figures = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", figures, re.MULTILINE)
    return int(found[1]) if found else 0


def _shorten(log: BinaryIO) -> None:
    """Keep the end of a log that has grown too long.

    Text that a trial writes at this very moment may be lost, or end up before the rest.
    """
    if os.fstat(log.fileno()).st_size <= LOG_BYTES:
        return
    log.seek(-LOG_BYTES // 10, os.SEEK_END)
    end = log.read(LOG_BYTES // 10)
    log.truncate(0)
    log.write(b"[what stood here was too long to keep]\n" + end)
