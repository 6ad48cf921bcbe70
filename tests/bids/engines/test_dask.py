"""A real scheduler and workers on this machine, some of which are killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from distributed import Client

import nobrainer as nb
from bids_sets import contents
from commands import PROGRAM, errors_of, nobrainer_
from engine_acts import do, make_unit
from nobrainer.bids.engines.dask import Dask
from nobrainer.bids.engines.engine import SetAside

pytestmark = pytest.mark.slow(seconds=25)
TESTS = Path(__file__).parents[2]
WAIT_S = 100


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler with two workers, which gives up after two deaths."""
    folder = tmp_path_factory.mktemp("dask")
    file = folder / "scheduler.json"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)]),
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
    }
    commands = {
        "scheduler": ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"],
        "worker": ["--nworkers", "2", "--nthreads", "1", "--no-dashboard"],
    }
    processes = []
    try:
        for name, options in commands.items():
            program = [sys.executable, "-m", "dask", name, "--scheduler-file", file]
            with (folder / f"{name}.log").open("w") as log:
                processes.append(
                    subprocess.Popen(
                        [*map(str, program), *options],
                        env=environment,
                        cwd=folder,
                        stdout=log,
                        stderr=log,
                    )
                )
        with Client(scheduler_file=str(file), timeout=WAIT_S) as client:
            client.wait_for_workers(2, timeout=WAIT_S)
            address = client.scheduler.address
        yield address
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(WAIT_S)


def test_a_unit_that_kills_its_worker_twice_is_set_aside_and_the_others_are_done(
    scheduler: str, tmp_path: Path
) -> None:
    labels = ["01", "once", "02", "ever"]
    done = Dask(scheduler).run(partial(do, tmp_path), list(map(make_unit, labels)))
    ended = {unit.source.subject: outcome for unit, outcome in done}
    assert set(ended) == set(labels)
    lost = [one for one, outcome in ended.items() if isinstance(outcome, SetAside)]
    assert lost == ["ever"] and "2 workers ended" in ended["ever"].reason
    begun = {one: (tmp_path / one).read_text().splitlines() for one in labels}
    # Twice alone, and before that beside others.
    assert 2 <= len(begun["ever"]) <= 4
    # Once more than twice where its worker died before the outcome was fetched.
    assert len(begun["once"]) >= 2
    # Who died has come back, and each worker has one thread.
    assert len({line.split()[0] for lines in begun.values() for line in lines}) >= 3
    assert {line.split()[1] for lines in begun.values() for line in lines} == {"1"}


def test_workers_of_another_version_do_nothing(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nb, "__version__", "another")
    ((_, outcome),) = Dask(scheduler).run(partial(do, tmp_path), [make_unit("01")])
    assert isinstance(outcome, SetAside) and "and not another" in outcome.reason
    assert not list(tmp_path.iterdir())


def test_with_a_worker_killed_at_work_all_is_as_the_serial_run_makes_it(
    scheduler: str, data: Path, derivative: Path, bids_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = (
        *("bids", data, out, "participant", "--model", bids_model, "--n-samples", 2),
        *("--suffix", "T1w", "T2w", "--tissues"),
        *("--executor", "dask", "--scheduler", scheduler),
    )
    with Client(scheduler, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=WAIT_S)
        numbers = client.run(os.getpid)
        killed = _kill_when_at_work(out, command, client, numbers)
        client.wait_for_workers(2, timeout=WAIT_S)
        assert killed not in client.run(os.getpid).values()
    assert contents(out) == contents(derivative)
    again = nobrainer_(*command)
    assert again.exit_code == 0 and "3 of them before" in again.stdout


def _kill_when_at_work(
    out: Path, command: tuple[object, ...], client: Client, numbers: dict[str, int]
) -> int:
    """Run a command; kill a worker that has begun a scan, and return its number."""
    run = subprocess.Popen(
        [*PROGRAM, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + WAIT_S
    # The folder of a scan is made right before its files are written.
    while not any(out.glob("sub-*/anat")) and time.monotonic() < until:
        time.sleep(0.02)
    at_work = [address for address, keys in client.processing().items() if keys]
    os.kill(numbers[at_work[0]], signal.SIGKILL)
    _, stderr = run.communicate(timeout=WAIT_S)
    assert run.returncode == 0, stderr
    return numbers[at_work[0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--executor dask needs --scheduler ADDRESS"),
        (("--scheduler", "tcp://node1:8786", "--n-cpus", 2), "--n-cpus has no effect"),
        (("--scheduler", "nothing://"), "no scheduler answers"),
    ],
)
def test_options_that_cannot_work_are_refused(
    data: Path, bids_model: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    result = nobrainer_(
        *("bids", data, tmp_path / "out", "participant", "--model", bids_model),
        *("--n-samples", 2, "--executor", "dask", *options),
    )
    assert result.exit_code == 2
    *_, line = errors_of(result.stderr)
    assert message in line
