"""Trials, each with a real process that misbehaves in its own way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import trial_functions
from nobrainer.research.trial import LOG_BYTES, Outcome, run_trial

TESTS = str(Path(__file__).parents[1])
MB = 2**20


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Outcome]:
    def run(
        function: Callable[..., Any],
        *args: Any,
        wall_s: float = 20,
        memory_bytes: int | None = None,
        on_report: Callable[[Any], bool] = lambda message: True,
        on_wait: Callable[[], None] = lambda: None,
    ) -> Outcome:
        return run_trial(
            function,
            args,
            wall_s=wall_s,
            memory_bytes=memory_bytes,
            log=tmp_path / "log.txt",
            environment={
                "PYTHONPATH": os.pathsep.join([TESTS, *sys.path]),
                "TRIAL": "here",
            },
            on_report=on_report,
            on_wait=on_wait,
        )

    return run


def is_gone(pid: int, *, within_s: float = 0.0) -> bool:
    until = time.monotonic() + within_s
    while True:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.05)


def test_result_and_reports_come_back_in_order(run: Any) -> None:
    seen, waits = [], []
    ballast = b"x" * (200 * MB)
    outcome = run(
        trial_functions.add,
        2,
        3,
        on_report=lambda message: seen.append(message) or True,
        on_wait=lambda: waits.append(time.monotonic()),
    )
    assert (outcome.state, outcome.reason, outcome.result) == ("done", "", 5)
    assert seen == [{"step": 1}, {"step": 2}]
    assert waits
    assert 0 < outcome.seconds < 10
    # Of a bare interpreter, not of this process that started it.
    assert 5 * MB < outcome.peak_memory_bytes < 100 * MB < len(ballast)


@pytest.mark.parametrize(
    ("name", "state", "reason"),
    [
        ("value", "crash", "ValueError: first second (trial_functions.py:"),
        ("input", "refused", "levels must be >= 1, got 0"),
        ("diverged", "diverged", "the loss is nan"),
        ("memory", "memory", "MemoryError (trial_functions.py:"),
        ("torch", "memory", "RuntimeError: DefaultCPUAllocator: can't allocate"),
        ("cuda", "memory", "OutOfMemoryError: CUDA: 2 GiB"),
        ("exit", "crash", "SystemExit: 3"),
        ("interrupt", "crash", "KeyboardInterrupt"),
    ],
)
def test_an_exception_is_a_state(
    run: Any, tmp_path: Path, name: str, state: str, reason: str
) -> None:
    outcome = run(trial_functions.raise_error, name)
    assert outcome.state == state
    assert reason in outcome.reason
    assert "\n" not in outcome.reason
    assert outcome.result is None
    assert "Traceback" in (tmp_path / "log.txt").read_text()


def test_a_crash_names_the_innermost_place_of_the_package(run: Any) -> None:
    # `Registry.__getitem__` raises what `near_miss` made: that is "refused", while a
    # call that does not fit the function has no place but the call itself.
    assert run(trial_functions.raise_in_the_package).state == "refused"
    outcome = run(trial_functions.add)
    assert outcome.state == "crash"
    assert "missing 2 required positional arguments" in outcome.reason


@pytest.mark.parametrize(
    ("function", "args", "reason"),
    [
        ("abort", (), "signal 6"),
        ("end_by_signal", (11,), "signal 11"),
        ("end_by_signal", (40,), "signal 40"),
        ("end_by_signal", (9,), "perhaps by the system"),
        ("leave", (5,), "exited with 5"),
        ("leave", (0,), "exited with 0 and no result"),
        ("close_files", (), "exited with 1"),
        ("return_lock", (), "cannot pickle '_thread.lock' object"),
        ("return_unreadable", (), "cannot be read: ValueError: invalid literal"),
    ],
)
def test_an_end_without_result_is_a_crash(
    run: Any, tmp_path: Path, function: str, args: tuple[Any, ...], reason: str
) -> None:
    outcome = run(getattr(trial_functions, function), *args)
    assert outcome.state == "crash"
    assert reason in outcome.reason
    assert str(tmp_path / "log.txt") in outcome.reason


def test_memory_is_capped(run: Any) -> None:
    outcome = run(trial_functions.fill_memory, 2 * MB, memory_bytes=200 * MB)
    assert outcome.state == "memory"
    assert "cap 0.21 GB" in outcome.reason
    # 2 MB in each 0.01 s, looked at ten times a second; a busy machine may be later.
    assert 200 * MB < outcome.peak_memory_bytes < 400 * MB


def test_memory_of_children_counts(run: Any) -> None:
    outcome = run(
        trial_functions.fill_memory_in_children, 300 * MB, memory_bytes=250 * MB
    )
    assert outcome.state == "memory"


def test_shared_memory_counts_once(run: Any) -> None:
    outcome = run(trial_functions.share_memory, 200 * MB, memory_bytes=350 * MB)
    assert outcome.state == "done"
    assert 200 * MB < outcome.peak_memory_bytes < 300 * MB


def test_a_short_peak_of_memory_is_seen(run: Any) -> None:
    outcome = run(trial_functions.peak_and_forget, 300 * MB)
    assert outcome.peak_memory_bytes > 300 * MB


@pytest.mark.parametrize(
    ("cap_bytes", "state"), [(220 * MB, "memory"), (None, "crash")]
)
def test_a_kill_near_the_cap_is_for_memory(
    run: Any, cap_bytes: int | None, state: str
) -> None:
    outcome = run(trial_functions.be_killed_with, 195 * MB, memory_bytes=cap_bytes)
    assert outcome.state == state
    assert "memory" in outcome.reason


@pytest.mark.parametrize(
    "function", ["hang", "hang_in_c", "report_for_ever", "print_for_ever"]
)
def test_the_wall_clock_ends_a_trial(run: Any, tmp_path: Path, function: str) -> None:
    pids: list[Any] = []
    began = time.monotonic()
    outcome = run(
        getattr(trial_functions, function),
        wall_s=1,
        on_report=lambda message: pids.append(message) or True,
    )
    assert 1 <= time.monotonic() - began < 2
    assert (outcome.state, outcome.reason) == ("timeout", "it took longer than 1 s")
    assert (tmp_path / "log.txt").stat().st_size <= LOG_BYTES
    if function.startswith("hang"):
        assert is_gone(pids[0])


def test_the_end_of_a_long_log_is_kept(run: Any, tmp_path: Path) -> None:
    assert run(trial_functions.print_much, 30 * MB).state == "done"
    text = (tmp_path / "log.txt").read_text()
    assert len(text) <= LOG_BYTES
    assert "[what stood here was too long to keep]\n" in text
    assert text.endswith("the end\n")


def test_output_goes_to_the_log_alone(
    run: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(trial_functions.print_and_return)
    run(trial_functions.print_and_return)
    text = (tmp_path / "log.txt").read_text()
    for line in ("to stdout", "to stderr", "from a shell"):
        assert text.count(line) == 2
    assert capfd.readouterr() == ("", "")


def test_surroundings(run: Any) -> None:
    # The variable that was given, nothing to read, and no heavy package.
    outcome = run(trial_functions.read_surroundings, "TRIAL")
    assert outcome.result == ("here", "", False)
    assert run(trial_functions.wait_for_children).result == "none"


def test_a_report_ends_a_trial(run: Any) -> None:
    pids: list[int] = []
    outcome = run(trial_functions.hang, on_report=lambda pid: pids.append(pid) or False)
    assert outcome.state == "pruned"
    assert outcome.seconds < 10
    assert is_gone(pids[0])


def test_what_a_trial_started_ends_with_it(run: Any, tmp_path: Path) -> None:
    pids: list[int] = []
    outcome = run(
        trial_functions.start_children,
        tmp_path,
        on_report=lambda message: pids.extend(message) or True,
    )
    assert outcome.result == "from the trial"
    assert len(pids) == 3
    assert all(is_gone(pid, within_s=1) for pid in pids)


def test_a_process_that_does_not_exit_is_ended(run: Any) -> None:
    outcome = run(trial_functions.keep_thread)
    assert (outcome.state, outcome.result) == ("done", 7)
    assert outcome.seconds < 10


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("callback", ["on_report", "on_wait"])
def test_what_a_callback_raises_ends_the_trial(
    run: Any, error: type[BaseException], callback: str
) -> None:
    pids: list[int] = []

    def fail(*message: int) -> bool:
        pids.extend(message)
        if callback == "on_report" or pids:
            raise error
        return True

    callbacks = {"on_report": lambda pid: pids.append(pid) or True, callback: fail}
    with pytest.raises(error):
        run(trial_functions.hang, **callbacks)
    assert is_gone(pids[0])


PARENT = """
import sys
from pathlib import Path
import trial_functions
from nobrainer.research.trial import run_trial

def tell(message):
    print(message, flush=True)
    return True

run_trial(
    getattr(trial_functions, sys.argv[1]), (), wall_s=60, memory_bytes=None,
    log=Path(sys.argv[2]), on_report=tell, on_wait=lambda: None,
)
"""


@pytest.mark.parametrize("function", ["hang", "hang_in_c", "hang_without_files"])
def test_a_trial_ends_with_its_killed_parent(tmp_path: Path, function: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, function, str(tmp_path / "log.txt")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": TESTS},
    )
    with parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        group = [p.pid for p in psutil.process_iter() if _in_group(p.pid, pid)]
        assert pid in group
        assert not is_gone(pid)
        parent.send_signal(signal.SIGKILL)
    for member in group:
        assert is_gone(member, within_s=2)


def _in_group(pid: int, group: int) -> bool:
    try:
        return os.getpgid(pid) == group
    except ProcessLookupError:
        return False


def test_the_module_is_light() -> None:
    code = "import sys, nobrainer.research.trial; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert not {"torch", "monai", "numpy", "optuna"} & set(run.stdout.decode().split())
