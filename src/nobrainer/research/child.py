"""The process of a trial: call a function and send the result to the parent process.

`research/trial.py` starts it as a program; it ends when its parent does.
"""

import faulthandler
import os
import pickle
import re
import signal
import struct
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from nobrainer.errors import (
    DivergedError,
    InputError,
    in_one_line,
    is_out_of_memory,
    tell,
)
from nobrainer.system import end_with_parent

MESSAGE_BYTES = 2**28
"""Bytes of the longest message."""
LENGTH = struct.Struct("<Q")
"""The length of a message, which stands before it."""


def run_call(call: int, pipe: int, parent: int) -> None:
    """Call the function and send its reports and its result, or how it failed.

    Args:
        call: file descriptor of the pickled function and arguments.
        pipe: file descriptor that messages are written to.
        parent: process number of the caller.
    """
    end_with_parent(parent)
    _guard(call, pipe)
    faulthandler.enable()
    os.set_inheritable(pipe, False)
    lock, own_pid = threading.Lock(), os.getpid()

    def send(kind: str, content: Any) -> None:
        message = pickle.dumps((kind, content))
        if len(message) > MESSAGE_BYTES:
            raise ValueError(f"a message must be <= {MESSAGE_BYTES} bytes")
        # The function may have forked copies of this process: these send nothing.
        if os.getpid() == own_pid:
            with lock:
                rest = LENGTH.pack(len(message)) + message
                while rest:
                    rest = rest[os.write(pipe, rest) :]

    try:
        with open(call, "rb") as file:
            function, args = pickle.load(file)
        result = function(*args, lambda message: send("report", message))
        send("end", ("done", "", result, _read_peak_bytes()))
    # Whatever a trial does, `sys.exit` included, becomes a row of its study: nothing
    # that values can cause may end the search.
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001
        traceback.print_exc()
        send("end", (*_classify(error), None, _read_peak_bytes()))


def _guard(call: int, pipe: int) -> None:
    """Make sure that no process of this group outlives the parent.

    A separate process waits for the end of standard input, which the parent holds open,
    and then kills the group. A thread could not do this while another one holds the
    interpreter's lock. The process that starts the guard ends at once, so that the
    function has no child that it did not start.
    """
    if os.fork() == 0:
        if os.fork() == 0:
            os.close(call)
            os.close(pipe)
            while os.read(0, 1):
                pass
            os.killpg(0, signal.SIGKILL)
        os._exit(0)
    os.wait()
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    # When memory runs out, Linux shall kill this process and not the study. Other
    # systems have no such file.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _classify(error: BaseException) -> tuple[str, str]:
    """Find state and reason of a trial that ended by an exception."""
    if isinstance(error, DivergedError):
        return "diverged", in_one_line(str(error))
    if isinstance(error, InputError):
        return "refused", in_one_line(str(error))
    if is_out_of_memory(error):
        return "memory", tell(error)
    return "crash", tell(error)


def _read_peak_bytes() -> int:
    """The most memory that this process has held; 0 where the system does not tell.

    `ru_maxrss` would not do: it starts from the value of the parent.
    """
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) * 1024 if found else 0
    return 0


if __name__ == "__main__":
    run_call(*map(int, sys.argv[1:]))
