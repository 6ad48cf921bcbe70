"""What trials call in their own process; imports little, so that each starts fast."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nobrainer.errors import DivergedError, InputError
from nobrainer.registry import Registry

Report = Callable[[Any], None]


def add(a: int, b: int, report: Report) -> int:
    report({"step": 1})
    report({"step": 2})
    return a + b


def raise_error(name: str, report: Report) -> None:
    class OutOfMemoryError(RuntimeError): ...

    raise {
        "value": ValueError("first\nsecond"),
        "input": InputError("levels must be >= 1, got 0"),
        "diverged": DivergedError("the loss is nan"),
        "memory": MemoryError(),
        "torch": RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        "cuda": OutOfMemoryError("CUDA: 2 GiB"),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
    }[name]


def raise_in_the_package(report: Report) -> None:
    Registry("colour")["red"].upper()


def end_by_signal(number: int, report: Report) -> None:
    os.kill(os.getpid(), number)


def abort(report: Report) -> None:
    os.abort()


def leave(code: int, report: Report) -> None:
    os._exit(code)


def return_lock(report: Report) -> Any:
    return threading.Lock()


class Unreadable:
    """Pickles; but what reads it raises."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def return_unreadable(report: Report) -> Any:
    return Unreadable()


def fill_memory(step_bytes: int, report: Report) -> None:
    held = []
    while True:
        held.append(b"x" * step_bytes)
        time.sleep(0.01)


def fill_memory_in_children(total_bytes: int, report: Report) -> None:
    """Two children which fill half of it each."""
    for _ in range(2):
        if os.fork() == 0:
            held = b"x" * (total_bytes // 2)
            time.sleep(60)
            os._exit(len(held))
    time.sleep(60)


def share_memory(n_bytes: int, report: Report) -> None:
    """Four children which hold what their parent holds, the same pages."""
    held = b"x" * n_bytes
    for _ in range(4):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(len(held))
    time.sleep(1)


def peak_and_forget(n_bytes: int, report: Report) -> int:
    return len(b"x" * n_bytes)


def be_killed_with(n_bytes: int, report: Report) -> None:
    held = b"x" * n_bytes
    time.sleep(0.5)
    os.kill(os.getpid(), 9 if held else 0)


def hang(report: Report) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    report(os.getpid())
    time.sleep(600)


def hang_in_c(report: Report) -> None:
    """Never gives the interpreter's lock back."""
    report(os.getpid())
    sys.setswitchinterval(1e9)
    sum(1 for _ in iter(int, 1))


def report_for_ever(report: Report) -> None:
    while True:
        report("x" * 1000)


def print_for_ever(report: Report) -> None:
    while True:
        print("x" * 10_000)


def print_much(n_bytes: int, report: Report) -> None:
    for _ in range(n_bytes // 10_000):
        print("x" * 10_000)
    time.sleep(0.5)
    print("the end")


def print_and_return(report: Report) -> None:
    print("to stdout")
    print("to stderr", file=sys.stderr)
    os.system("echo from a shell")


def start_children(folder: Path, report: Report) -> str:
    """A child, one in a session of its own, and a copy; all outlive the function."""
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    pids = [
        subprocess.Popen(sleep).pid,
        subprocess.Popen(sleep, start_new_session=True).pid,
    ]
    copy = os.fork()
    if copy == 0:
        return "from the copy"
    time.sleep(0.5)
    report([*pids, copy])
    return "from the trial"


def close_files(report: Report) -> None:
    os.closerange(0, 256)
    time.sleep(0.1)


def hang_without_files(report: Report) -> None:
    report(os.getpid())
    os.closerange(0, 256)
    time.sleep(600)


def wait_for_children(report: Report) -> str:
    try:
        os.wait()
    except ChildProcessError:
        return "none"
    return "one"


def read_surroundings(name: str, report: Report) -> tuple[str | None, str, bool]:
    return os.environ.get(name), sys.stdin.read(), "torch" in sys.modules


def keep_thread(report: Report) -> int:
    """Its process does not exit by itself."""
    threading.Thread(target=time.sleep, args=(600,)).start()
    return 7
