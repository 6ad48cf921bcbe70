"""Cores of a process, and threads that leave them to others."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from nobrainer import cores
from nobrainer.cli import main
from nobrainer.cores import share_threads, use_threads
from nobrainer.errors import InputError

VARIABLES = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
COMMANDS = ("predict", "train", "evaluate", "calibrate", "qc", "report", "rank", "demo")
SEARCH = ("research", "run")
NAMED_AFTER = (
    "import json, os, {first}; print(json.dumps([os.environ.get(n) for n in {names}]))"
)


def test_cores_are_those_that_the_process_is_bound_to() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert cores.count_cores() == 1
        cores.check_cores("devices", 1)
        with pytest.raises(InputError, match="devices must be at most the 1 cores"):
            cores.check_cores("devices", 2)
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("files", "own", "wanted"),
    [
        ({}, "0::/\n", math.inf),
        ({"cpu.max": "max 100000\n"}, "0::/\n", math.inf),
        ({"cpu.max": "400000 100000\n"}, "0::/\n", 4.0),
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 1.5),
        # Half a core is still one thread.
        ({"cpu.max": "50000 100000\n"}, "0::/\n", 1.0),
        # The job's own group has no limit, the one that it is in has.
        (
            {"jobs/cpu.max": "300000 100000\n", "jobs/7/cpu.max": "max 100000\n"},
            "0::/jobs/7\n",
            3.0,
        ),
        # A container's group by its name outside, where only the root is seen.
        ({"cpu.max": "200000 100000\n"}, "0::/docker/abc\n", 2.0),
        # Version 1 has a tree for each controller.
        (
            {
                "cpu/job/cpu.cfs_quota_us": "250000\n",
                "cpu/job/cpu.cfs_period_us": "100000\n",
                "cpu/cpu.cfs_quota_us": "-1\n",
                "cpu/cpu.cfs_period_us": "100000\n",
            },
            "5:memory:/job\n4:cpu,cpuacct:/job\n",
            2.5,
        ),
    ],
)
def test_a_quota_is_that_of_the_narrowest_control_group(
    files: dict[str, str], own: str, wanted: float, tmp_path: Path
) -> None:
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "own").write_text(own)
    assert cores._quota(tmp_path / "groups", tmp_path / "own") == wanted


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cores._quota(tmp_path / "groups", tmp_path / "own") == math.inf


def test_a_quota_limits_cores_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(cores, "_quota", lambda: 3.5)
    monkeypatch.delitem(sys.modules, "torch")
    cores.leave_cores_to_others()
    assert cores.count_cores() == 4
    assert os.environ["OMP_NUM_THREADS"] == "4"
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    cores.leave_cores_to_others()
    assert os.environ["OMP_NUM_THREADS"] == "9"
    monkeypatch.setattr(cores, "_quota", lambda: math.inf)
    assert cores.count_cores() == 64


def started(first: str, **variables: str) -> tuple[list[str | None], str]:
    """The variables after an import in a fresh process, and what it says."""
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    code = NAMED_AFTER.format(first=first, names=VARIABLES)
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=kept | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout), run.stderr


def test_threads_that_wait_sleep_unless_the_user_says_otherwise() -> None:
    found, said = started("nobrainer, torch")
    assert (found[0], found[2]) == (None, "1000")
    assert not said
    for given in ({"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "100"}):
        found, said = started("torch, nobrainer", **given)
        assert found[0] == given.get("OMP_WAIT_POLICY")
        assert found[2] == given.get("GOMP_SPINCOUNT")
        assert not said


def test_a_process_that_has_loaded_torch_is_told_once() -> None:
    _, said = started("torch, nobrainer, nobrainer.models, nobrainer.bayes")
    expected = 1 if cores.count_cores() > 1 else 0
    assert said.count("Import nobrainer first") == expected


@pytest.mark.parametrize(
    ("told", "processes", "cores", "wanted"),
    [
        (None, 3, 8, 2),
        (None, 2, 1, 1),
        (None, 1, None, 6),
        (None, 2, None, 3),
        ("2", 2, 8, 2),
        ("16", 2, 8, 4),
        # A list for nested regions, and what says nothing.
        ("3,2", 1, 8, 3),
        ("0", 2, 8, 4),
        ("many", 2, 8, 4),
    ],
)
def test_processes_together_keep_to_the_cores(
    told: str | None,
    processes: int,
    cores: int | None,
    wanted: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.setattr("nobrainer.cores._quota", lambda: math.inf)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert share_threads(processes, cores) == wanted


def test_a_number_of_threads_wins_before_and_after_torch_is_loaded() -> None:
    code = (
        "import nobrainer as nb; nb.use_threads(2); import torch; "
        "first = torch.get_num_threads(); nb.use_threads(1); "
        "print(first, torch.get_num_threads())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert run.stdout.split() == [str(min(2, os.cpu_count() or 1)), "1"]
    with pytest.raises(InputError, match="threads must be a whole number >= 1"):
        use_threads(0)


@pytest.mark.parametrize(
    "command", [(one,) for one in COMMANDS] + [("research", "run")]
)
def test_the_option_of_a_command_wins_over_the_variables(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in THREADS:
        monkeypatch.setenv(name, "7")
    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    CliRunner().invoke(main, [*command, "--threads", "5", "--help"])
    assert told == [5]
    assert [os.environ[name] for name in THREADS] == ["5"] * 3
