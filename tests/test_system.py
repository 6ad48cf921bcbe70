"""Processes that end with their parent, places to write to."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from nobrainer import system
from nobrainer.errors import InputError

# A parent that starts a child, which says its number, and waits.
PARENT = """
import os, subprocess, sys
child = "import os, sys; {before}from nobrainer.system import end_with_parent; " \\
    "end_with_parent({parent}); print(os.getpid(), flush=True); sys.stdin.read()"
subprocess.run([sys.executable, "-c", child.replace("PID", str(os.getpid()))])
"""


def has_ended(pid: int, within_s: float) -> bool:
    """Whether a process of that number is gone, or a mere entry, in time."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("before", ["", "sys.platform = 'other'; "])
def test_a_child_does_not_outlive_a_killed_parent(before: str) -> None:
    code = PARENT.format(before=before, parent="PID")
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not has_ended(child, 0.1)
        parent.kill()
        assert has_ended(child, 5)


def test_a_child_whose_parent_has_ended_before_ends_at_once() -> None:
    code = PARENT.format(before="", parent="1")
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE)
    # The parent sees the child killed before it says anything.
    assert run.stdout == b""


def test_a_place_is_tried_without_a_trace(tmp_path: Path) -> None:
    system.check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for bad in (tmp_path / "file", tmp_path / "file" / "b", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match="cannot be written"):
            system.check_writable(bad)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_a_place_that_takes_folders_but_no_bytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes
    monkeypatch.setattr(
        Path, "write_bytes", lambda _self, data: write(Path("/dev/full"), data)
    )
    with pytest.raises(InputError, match="No space left on device"):
        system.check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folders_are_exchanged_in_one_step_or_not_at_all(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    done = system.exchange(tmp_path / "one", tmp_path / "two")
    names = [path.name for path in (tmp_path / "one").iterdir()]
    assert names == (["two"] if done else ["one"])
    assert done or sys.platform != "linux"
    with pytest.raises(OSError, match="No such file"):
        system.exchange(tmp_path / "one", tmp_path / "three")
