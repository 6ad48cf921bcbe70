"""Scripts of jobs, and a run in jobs of a queue that is made up of two programs."""

import os
import signal
import sys
from pathlib import Path

import dask
import pytest

from bids_sets import contents
from commands import errors_of, nobrainer_
from engine_acts import make_unit
from nobrainer.bids.engines import jobs

pytestmark = pytest.mark.slow(seconds=15)
# They take a job, and end it; a job is its script, in a group of processes.
SUBMIT = """#!/bin/sh
cp "$1" "{folder}/$$.script"
setsid bash "{folder}/$$.script" > "{folder}/$$.log" 2>&1 < /dev/null &
echo $! >> "{folder}/submitted"
echo "Submitted batch job $!"
"""
CANCEL = """#!/bin/sh
echo "$1" >> "{folder}/cancelled"
kill -- "-$1"
"""
REFUSE = """#!/bin/sh
echo "sbatch: error: invalid partition specified" >&2
exit 1
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs, before all others, and of what they leave."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    return folder


def write_program(path: Path, text: str) -> None:
    path.write_text(text.format(folder=path.parent))
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("system", "header"),
    [
        ("slurm", ["SBATCH -p long", "SBATCH --cpus-per-task=1", "SBATCH --mem=3G"]),
        ("pbs", ["PBS -q long", "PBS -l select=1:ncpus=1:mem=2862MB"]),
        ("sge", ["$ -q long"]),
    ],
)
def test_a_job_is_one_process_with_the_memory_that_the_largest_scan_needs(
    monkeypatch: pytest.MonkeyPatch, system: str, header: list[str]
) -> None:
    needs = {"sub-01_T1w": 1_000_000_000, "sub-02_T1w": 2_100_000_000}
    monkeypatch.setattr(jobs, "forecast_bytes", lambda _, unit: needs[unit.names.scan])
    units = list(map(make_unit, ["01", "02"]))
    with jobs.Jobs(None, system, "long", 7).cluster(units) as cluster:
        script = cluster.job_script().splitlines()
        assert [line for line in header if f"#{line}" not in script] == []
        program, _, options = script[-1].partition(f" {cluster.scheduler_address} ")
        assert program == f"{sys.executable} -m distributed.cli.dask_worker"
        # 2.1 GB are 70 % of 3 GB, which are 2.79 GiB.
        assert "--nthreads 1 --memory-limit 2.79GiB --nanny" in options
        assert "--nworkers" not in options
    # 7 GB for 7 jobs.
    with jobs.Jobs(None, system, None, 7, 7_000_000_000).cluster(units) as cluster:
        assert "--memory-limit 0.93GiB" in cluster.job_script()
        assert "long" not in cluster.job_script()


def test_jobs_do_all_as_the_serial_run_does_and_are_given_back(
    place: Path, data: Path, derivative: Path, bids_model: Path, tmp_path: Path
) -> None:
    write_program(place / "sbatch", SUBMIT)
    write_program(place / "scancel", CANCEL)
    out = tmp_path / "out"
    with dask.config.set({"jobqueue.slurm.interface": "lo"}):
        result = nobrainer_(
            *("bids", data, out, "participant", "--model", bids_model),
            *("--n-samples", 2, "--suffix", "T1w", "T2w", "--tissues"),
            *("--executor", "slurm", "--queue", "long", "--n-cpus", 1),
        )
    assert result.exit_code == 0, result.stderr
    assert contents(out) == contents(derivative)
    submitted = (place / "submitted").read_text().split()
    # One after the other: no scan has begun a second job.
    assert len(submitted) == 1
    assert (place / "cancelled").read_text().split() == submitted
    (script,) = place.glob("*.script")
    assert "#SBATCH -p long" in script.read_text()


def test_ctrl_c_is_still_an_interruption() -> None:
    assert "dask_jobqueue.runner" in sys.modules
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("program", "reason"),
    [(REFUSE, "invalid partition specified"), (None, "No such file or directory")],
)
def test_a_queue_that_takes_no_job_is_said_at_once(
    place: Path,
    data: Path,
    bids_model: Path,
    tmp_path: Path,
    program: str | None,
    reason: str,
) -> None:
    if program is not None:
        write_program(place / "sbatch", program)
    result = nobrainer_(
        *("bids", data, tmp_path / "out", "participant", "--model", bids_model),
        *("--n-samples", 2, "--executor", "slurm", "--n-cpus", 1),
    )
    assert result.exit_code == 2
    *_, line = errors_of(result.stderr)
    assert "--executor slurm: no job can be submitted" in line and reason in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("slurm",), "--executor slurm needs --n-cpus N"),
        (("pbs", "--n-cpus", 2, "--work-dir", "w"), "--work-dir has no effect"),
        (("sge", "--n-cpus", 2, "--scheduler", "tcp://a:1"), "--scheduler has no"),
        (("local", "--queue", "long"), "--queue has no effect with --executor local"),
        (("serial", "--n-cpus", 2), "--n-cpus has no effect with --executor serial"),
    ],
)
def test_options_that_cannot_work_are_refused(
    data: Path, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    out = tmp_path / "out"
    result = nobrainer_("bids", data, out, "participant", "--executor", *options)
    assert result.exit_code == 2 and not out.exists()
    (line,) = errors_of(result.stderr)
    assert message in line


def test_without_dask_the_command_says_what_to_install(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nobrainer.cli.bids_machine.find_spec", lambda name: None)
    options = ("--executor", "slurm", "--n-cpus", 2)
    result = nobrainer_("bids", data, tmp_path / "out", "participant", *options)
    assert result.exit_code == 2
    (line,) = errors_of(result.stderr)
    assert "pip install 'nobrainer[dask]'" in line
