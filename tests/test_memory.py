import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from nobrainer import memory
from nobrainer.errors import InputError


def test_memory_is_limited_by_the_machine() -> None:
    assert 0 < memory.memory_limit_bytes() <= psutil.virtual_memory().total


def write_group(folder: Path, limit: tuple[str, str], used: str, stat: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit[0]).write_text(f"{limit[1]}\n")
    name = {"memory.max": "memory.current"}.get(limit[0], "memory.usage_in_bytes")
    (folder / name).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(stat)


def test_memory_is_limited_by_each_control_group(tmp_path: Path) -> None:
    rooms = memory._find_group_rooms(tmp_path)
    assert list(rooms) == []
    (tmp_path / "proc/self").mkdir(parents=True)
    groups = tmp_path / "proc/self/cgroup"

    # Version 2: a job of 1000, of whose 700 in use 200 are cache; its step has no
    # limit, and the group around both has 400 left.
    groups.write_text("0::/slurm/job_1/step_0\n")
    slurm = tmp_path / "sys/fs/cgroup/slurm"
    write_group(slurm, ("memory.max", "5000"), "4600", "anon 7\ninactive_file 0\n")
    write_group(
        slurm / "job_1", ("memory.max", "1000"), "700", "inactive_file 200\nx 9\n"
    )
    write_group(slurm / "job_1/step_0", ("memory.max", "max"), "600", "")
    assert list(memory._find_group_rooms(tmp_path)) == [500, 400]

    # Version 1 in a container: the path is that of the host and not to be seen.
    groups.write_text("5:cpu,cpuacct:/docker/0a\n4:memory:/docker/0a\n")
    write_group(
        tmp_path / "sys/fs/cgroup/memory",
        ("memory.limit_in_bytes", "2000"),
        "2500",
        "inactive_file 1\ntotal_inactive_file 300\n",
    )
    assert list(memory._find_group_rooms(tmp_path)) == [0]
    groups.write_text("4:memory:/\n")
    (tmp_path / "sys/fs/cgroup/memory/memory.usage_in_bytes").write_text("2100\n")
    assert list(memory._find_group_rooms(tmp_path)) == [200]


def test_what_cannot_fit_is_refused_with_both_figures(monkeypatch):
    monkeypatch.setattr(memory, "memory_limit_bytes", lambda: 2_000_000_000)
    memory.require_memory("a.nii", 2_000_000_000, "read it")
    with pytest.raises(InputError) as caught:
        memory.require_memory("a.nii", 3_210_000_000, "read it")
    assert str(caught.value).startswith(
        "a.nii: needs 3.21 GB of memory to read it, and 2 GB are free: "
    )


def test_an_allocation_that_fails_is_named():
    with (
        pytest.raises(InputError, match=r"^scan: too large for the memory there is"),
        memory.memory_for("scan"),
    ):
        np.empty(10**15)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone keeps freed memory")
def test_freed_memory_goes_back_though_it_lies_between_pieces_in_use() -> None:
    used = psutil.Process().memory_info
    # Each small piece holds the memory below it: 300 of 100 kB, and every tenth stays.
    pieces = [np.ones(100_000, np.uint8) for _ in range(300)]
    kept = pieces[9::10]
    before = used().rss
    with memory.kept_memory():
        del pieces
    assert used().rss < before - 20e6
    assert all(piece.all() for piece in kept)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_memory_is_kept_inside_and_given_back_after_it():
    # A process of its own, whose allocator no other test has used.
    script = """
import resource, psutil, torch
from nobrainer.memory import kept_memory

def show():
    torch.ones(25_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    # A little smaller, for what is allocated in between.
    torch.ones(24_000_000)
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    print(pages, held())

def held():
    return psutil.Process().memory_info().rss // 10**6

show()
try:
    with kept_memory():
        show()
        raise KeyboardInterrupt
except KeyboardInterrupt:
    print(0, held())
"""
    run = [sys.executable, "-c", script]
    shown = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    before, inside, after = (map(int, line.split()) for line in shown.splitlines())
    (asked, usual), (kept, held), (_, left) = before, inside, after
    # 96 MB are that many pages of 4 KiB, or of 2 MiB.
    assert asked > 40 > 10 > kept
    assert held > usual + 90
    assert left < usual + 10
