"""Workers: whether they are alive, and which GPU each one owns."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from nobrainer.errors import InputError
from nobrainer.research import worker
from nobrainer.research.worker import Presence, Watch, claim_gpu, count_sharing

GPUS = ["GPU-aaaa", "GPU-bbbb"]
WORKER = """
import sys, time
from pathlib import Path
from nobrainer.research.worker import Presence, claim_gpu

folder = Path(sys.argv[1])
with Presence(folder) as presence, claim_gpu(folder, sys.argv[2:]) as gpu:
    print(presence.name, gpu, flush=True)
    time.sleep(60)
"""


def is_alive(folder: Path, name: str) -> bool:
    return Watch(folder).is_alive(name)


@contextmanager
def start_worker(
    folder: Path, *gpus: str
) -> Iterator[tuple[subprocess.Popen[bytes], str, str]]:
    """A worker in its own process, its name and its GPU."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), *gpus], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout
        name, gpu = process.stdout.readline().decode().split()
        yield process, name, gpu
    finally:
        process.kill()
        process.communicate()


def test_a_worker_is_there_while_it_works(tmp_path: Path) -> None:
    folder = tmp_path / "study" / "workers"
    with Presence(folder) as presence, Presence(folder) as other:
        assert presence.name != other.name
        assert f"-{os.getpid()}-" in presence.name
        assert is_alive(folder, presence.name)
        assert is_alive(folder, other.name)
    assert not is_alive(folder, presence.name)
    assert list(folder.iterdir()) == []


def test_a_killed_worker_is_seen_at_once(tmp_path: Path) -> None:
    with start_worker(tmp_path) as (process, name, gpu):
        assert gpu == "None"
        assert is_alive(tmp_path, name)
        process.send_signal(signal.SIGSTOP)
        assert is_alive(tmp_path, name)
        process.send_signal(signal.SIGKILL)
        # Nobody has asked for its exit status: its number is still in the table.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert psutil.pid_exists(process.pid)
        assert not is_alive(tmp_path, name)
        process.wait()
        assert not is_alive(tmp_path, name)
        assert (tmp_path / name).exists()


def test_no_clock_says_whether_a_worker_of_this_machine_lives(tmp_path: Path) -> None:
    with start_worker(tmp_path) as (process, name, _):
        # The clock was set by a day, forwards and backwards.
        for step_s in (86400, -86400):
            os.utime(tmp_path / name, (time.time() + step_s,) * 2)
            assert is_alive(tmp_path, name)
        process.kill()
        process.wait()
        os.utime(tmp_path / name)
        assert not is_alive(tmp_path, name)


def test_a_worker_elsewhere_is_judged_by_whether_its_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its number is that of a process here, which must not matter.
    path = tmp_path / "elsewhere-1-00000000"
    path.write_text(json.dumps({"where": "elsewhere", "pid": os.getpid()}))
    now = 1000.0
    monkeypatch.setattr(worker.time, "monotonic", lambda: now)
    watch = Watch(tmp_path)
    # The clock of its disk is an hour behind ours, and then is set to ours.
    for second, touched in ((0, -3600), (60, -3540), (120, 0), (209, 0)):
        now = 1000.0 + second
        os.utime(path, (time.time() // 1 + touched,) * 2)
        assert watch.is_alive(path.name)
    now += 2
    assert not watch.is_alive(path.name)
    os.utime(path)
    assert watch.is_alive(path.name)


@pytest.mark.parametrize("record", ["", "[" * 10**5, "7", '{"where": ' + "9" * 5000])
def test_a_damaged_record_is_that_of_a_worker_elsewhere(
    tmp_path: Path, record: str
) -> None:
    (tmp_path / "w").write_text(record)
    assert is_alive(tmp_path, "w")
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_the_name_of_a_worker_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "study.json").write_text("{}")
    for name in ("../study.json", "", "."):
        assert not is_alive(tmp_path / "workers", name)
        worker.forget(tmp_path / "workers", name)
    assert (tmp_path / "study.json").exists()
    assert not list(tmp_path.glob("*.lock"))


def test_a_file_is_touched_while_its_worker_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "BEAT_S", 0.05)
    with Presence(tmp_path) as presence:
        path = tmp_path / presence.name
        os.utime(path, (0, 0))
        until = time.monotonic() + 5
        while path.stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.02)
        assert abs(path.stat().st_mtime - time.time()) < 10
        # A folder that is away for a moment does not end the beat.
        path.rename(tmp_path / "away")
        time.sleep(0.2)
        (tmp_path / "away").rename(path)
        os.utime(path, (0, 0))
        time.sleep(0.5)
        assert path.stat().st_mtime > 0


def test_workers_share_cores_with_those_that_live_and_have_the_same(
    tmp_path: Path,
) -> None:
    assert count_sharing(tmp_path) == 1
    ours = os.sched_getaffinity(0)
    with Presence(tmp_path):
        assert count_sharing(tmp_path) == 1
        with start_worker(tmp_path) as (process, _, _):
            assert count_sharing(tmp_path) == 2
            if len(ours) > 1:
                # As jobs of a cluster that have cores of their own on one machine.
                os.sched_setaffinity(process.pid, {min(ours)})
                os.sched_setaffinity(0, ours - {min(ours)})
                try:
                    assert count_sharing(tmp_path) == 1
                finally:
                    os.sched_setaffinity(0, ours)
        assert count_sharing(tmp_path) == 1


def test_each_worker_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    with start_worker(tmp_path, *GPUS) as (first, _, gpu):
        with claim_gpu(tmp_path, GPUS) as ours:
            assert {gpu, ours} == set(GPUS)
            third = subprocess.run(
                [sys.executable, "-c", WORKER, str(tmp_path), *GPUS],
                capture_output=True,
                text=True,
            )
            assert third.returncode == 1
            assert "at most one per GPU" in third.stderr
            with (
                pytest.raises(InputError, match="more than the 2 of"),
                claim_gpu(tmp_path, GPUS),
            ):
                pass
            first.kill()
            first.wait()
            with claim_gpu(tmp_path, GPUS) as freed:
                assert freed == gpu
        with claim_gpu(tmp_path, [str(ours)]) as again:
            assert again == ours


def test_without_gpus_there_is_none_to_claim(tmp_path: Path) -> None:
    with claim_gpu(tmp_path, []) as first, claim_gpu(tmp_path, []) as second:
        assert (first, second) == (None, None)
