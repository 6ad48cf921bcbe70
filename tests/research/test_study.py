import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from threading import Thread

import pytest

import landscape_study
from landscape import GOES_WRONG, Landscape
from landscape_study import SPACE, Notes, of, settings, values, work
from nobrainer.errors import InputError
from nobrainer.research import entry
from nobrainer.research.entry import read
from nobrainer.research.folder import JOURNAL, STORAGE, TEST, StudyFolder
from nobrainer.research.journal import (
    INFEASIBLE,
    Row,
    experiments,
    read_journal,
)
from nobrainer.research.records import RunArguments, RunOptions
from nobrainer.research.trial_storage import TrialStorage
from nobrainer.research.worker import Presence

pytestmark = pytest.mark.slow(seconds=150)

HERE = Path(landscape_study.__file__)


def journal(folder):
    return read_journal(folder / JOURNAL)


def test_a_study_from_its_baseline_to_its_test(tmp_path):
    notes = Notes()
    snapshot = work(tmp_path / "s", n=8, view=notes)
    rows = journal(tmp_path / "s")
    first, second, *rest = rows
    assert (first.number, first.role, first.seed) == (0, "baseline", 0)
    assert (second.role, second.of, second.seed) == ("repeat", 0, 1)
    assert first.values["learning_rate"] == 3e-3 and "kl_weight" not in first.values
    assert len(experiments(rows)) == 8
    assert len([row for row in rest if row.role == "proposal"]) == 7
    assert snapshot.standing.baseline == 0
    champion = snapshot.standing.champion
    means, spread = snapshot.standing.means, snapshot.standing.spread["dice"]
    assert champion != 0
    assert means[champion]["dice"] > means[0]["dice"] + spread
    # No run becomes champion on one seed.
    assert [row.of for row in rows if row.role == "repeat"].count(champion) == 1
    assert {row.seed for row in rows if row.of == champion} == {0, 1}
    test = snapshot.test
    assert (test.champion, test.baseline) == (champion, 0)
    by_number = {row.number: row for row in rows}
    gain = by_number[champion].figures["dice"] - first.figures["dice"]
    assert test.difference.mean == pytest.approx(gain)
    assert json.loads((tmp_path / "s/best/search.json").read_text()) == champion
    assert (tmp_path / "s/report.html").stat().st_size > 1000
    assert [row.number for row in notes.told] == [row.number for row in rows]


@pytest.mark.parametrize(
    ("asked", "n_classes", "binarize"),
    [
        ({}, 2, True),
        ({"relabel": "aseg"}, 46, False),
        ({"relabel": "aseg", "binarize": True}, 2, True),
        ({"n_classes": 4}, 4, False),
        ({"n_classes": 2}, 2, True),
    ],
)
def test_the_number_of_classes_is_that_of_the_mapping(
    tmp_path, monkeypatch, asked, n_classes, binarize
):
    settled = []

    def keep(folder, settings, *others):
        settled.append(settings)
        raise InputError("enough")

    monkeypatch.setattr(entry, "_open", keep)
    with pytest.raises(InputError, match="enough"):
        entry.run(tmp_path / "s", **asked)
    assert (settled[0].n_classes, settled[0].binarize) == (n_classes, binarize)


def test_run_takes_every_option_of_a_run_by_name(tmp_path):
    names = {field.name for field in fields(RunOptions)}
    assert names == RunArguments.__annotations__.keys()
    with pytest.raises(InputError, match=r"argument of run 'prunner'.*'pruner'"):
        entry.run(tmp_path / "s", prunner="asha")
    assert not (tmp_path / "s").exists()


def test_a_finished_study_stays_as_it_is(tmp_path):
    folder = tmp_path / "s"
    work(folder, n=3)
    kept = {name: (folder / name).read_bytes() for name in (JOURNAL, TEST)}
    notes = Notes()
    work(folder, n=30, view=notes)
    files = {path: path.read_bytes() for path in folder.glob("*.*")}
    read(folder)
    assert {path: path.read_bytes() for path in folder.glob("*.*")} == files
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    assert "scored, once" in notes.said[0]


def test_the_same_seed_proposes_the_same_beside_a_worker_with_which_cores_are_shared(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(9)))
    monkeypatch.setattr("nobrainer.cores._quota", lambda: math.inf)
    alone, beside = (StudyFolder(tmp_path / name) for name in "ab")
    a = work(tmp_path / "a", n=5)
    with Presence(beside.workers):
        b = work(tmp_path / "b", n=5)
    assert [row.values for row in a.rows] == [row.values for row in b.rows]
    assert [row.figures for row in a.rows] == [row.figures for row in b.rows]
    assert alone.log(0).read_text().split() == ["threads", "9"]
    assert beside.log(0).read_text().split() == ["threads", "4"]


def test_trials_that_fail_are_rows_and_the_loop_goes_on(tmp_path):
    bad = {
        "diverged": values(1e-4, GOES_WRONG),
        "refused": values(2e-4, GOES_WRONG, "laplace"),
        "crash": values(3e-4, GOES_WRONG, "spike_and_slab"),
        "timeout": values(4e-4, GOES_WRONG, filters=8),
        "memory": values(5e-4, GOES_WRONG, "laplace", 8),
    }
    signalled = values(6e-4, GOES_WRONG, "spike_and_slab", 8)
    good = values(1.1e-3)
    started = time.monotonic()
    snapshot = work(
        tmp_path / "s",
        propose=of([*bad.values(), signalled, good]),
        n=8,
        run_s=8,
        memory_bytes=800_000_000,
    )
    assert time.monotonic() - started < 60
    found = {
        json.dumps(row.values): row for row in snapshot.rows if row.role != "repeat"
    }
    for state, given in bad.items():
        row = found[json.dumps(given)]
        assert (row.state, row.figures) == (state, {})
    assert "nan in epoch 1" in found[json.dumps(bad["diverged"])].reason
    assert "got 7" in found[json.dumps(bad["refused"])].reason
    assert "planted" in found[json.dumps(bad["crash"])].reason
    memory = found[json.dumps(bad["memory"])]
    assert 0.7e9 < memory.peak_memory_bytes < 1.6e9
    assert found[json.dumps(signalled)].state == "crash"
    champion = snapshot.standing.champion
    assert found[json.dumps(good)].number == champion
    assert not list((tmp_path / "s/runs").glob("*/model/*.partial"))


def test_a_baseline_that_fails_ends_the_study(tmp_path):
    with pytest.raises(InputError, match="cannot be trained: timeout"):
        work(tmp_path / "s", task=Landscape(seconds=60), run_s=1)
    (row,) = journal(tmp_path / "s")
    assert (row.role, row.state) == ("baseline", "timeout")
    # Once that is mended, the same command goes on.
    snapshot = work(tmp_path / "s", n=2)
    assert snapshot.standing.baseline == 1
    assert len(experiments(snapshot.rows)) == 2


def test_the_budget_is_kept_whatever_a_trial_does(tmp_path):
    hang = [values(1e-3 * (1 + n / 100), GOES_WRONG, filters=8) for n in range(9)]
    started = time.monotonic()
    notes = Notes()
    work(tmp_path / "s", propose=of(hang), n=9, budget_s=61, run_s=3, view=notes)
    assert time.monotonic() - started < 63
    rows = journal(tmp_path / "s")
    # The last one is cut by the budget itself.
    assert {row.state for row in rows[2:-1]} == {"timeout"}
    assert rows[-1].state in ("timeout", "lost")
    # No recipe was trained that could be compared with the baseline.
    assert not (tmp_path / "s" / TEST).exists()
    assert "stays locked" in notes.said[-1]


def test_no_run_starts_that_cannot_end_in_time(tmp_path):
    notes = Notes()
    # 50 s are kept for the test split and the margin: 11 s for runs of 2 s.
    snapshot = work(
        tmp_path / "s",
        task=Landscape(seconds=2.0),
        propose=of([values(1e-3 * (1 + n)) for n in range(9)]),
        n=9,
        budget_s=61,
        view=notes,
    )
    assert 2 <= len(snapshot.rows) <= 5
    assert {row.state for row in snapshot.rows} == {"done"}
    assert "too short for a run" in " ".join(notes.said)
    assert (snapshot.test is None) == (snapshot.standing.champion == 0)


def begin(folder, n, pause_s):
    return subprocess.Popen(
        [sys.executable, str(HERE), str(folder), str(n), str(pause_s)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A suite run in the background of a shell ignores it, and its children do.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def running(folder, number):
    """Whether the process of a run is at work."""
    return (folder / "runs" / f"{number:04d}" / "log.txt").exists()


def wait_until(condition, process, timeout=200):
    until = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_kill_loses_the_running_trial_and_nothing_else(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    process = begin(folder, 5, 0.8)
    wait_until(lambda: running(folder, 3), process)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = journal(folder)
    assert len(before) == 3
    snapshot = work(folder, n=5)
    rows = journal(folder)
    assert rows[:3] == before
    lost = [row for row in rows if row.state == "lost"]
    assert [row.number for row in lost] == [3]
    again = [row for row in rows if row.values == lost[0].values][1:2]
    assert again[0].state == "done" and "run 3 was lost" in again[0].note
    finished = [row for row in rows if row.role == "proposal" and row.state == "done"]
    assert len({json.dumps(row.values) for row in finished}) == len(finished) == 4
    assert len({row.number for row in rows}) == len(rows)
    assert snapshot.test is not None


def test_ctrl_c_says_that_the_same_command_goes_on(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    process = begin(folder, 3, 1.0)
    wait_until(lambda: running(folder, 1), process)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=200)
    assert "interrupted in run 1, which is lost: the same command goes on" in text
    rows = journal(folder)
    assert [row.state for row in rows] == ["done", "lost"]
    assert not (folder / TEST).exists()
    snapshot = work(folder, n=3)
    assert len(experiments(snapshot.rows)) == 3


def test_three_workers_one_killed_twelve_distinct_trials(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    workers = [begin(folder, 12, 0.5) for _ in range(3)]
    wait_until(lambda: len(list((folder / "runs").glob("*"))) >= 6, workers[0])
    os.killpg(workers[1].pid, signal.SIGKILL)
    texts = [worker.communicate(timeout=200)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, -signal.SIGKILL, 0], texts
    rows = journal(folder)
    tried = [row for row in experiments(rows) if row.state == "done"]
    assert len(tried) == 12
    assert len({json.dumps(row.values) for row in tried}) == 12
    assert len({row.number for row in rows}) == len(rows)
    assert len({row.worker for row in rows}) == 3
    assert sum(row.state == "lost" for row in rows) <= 1
    assert read(folder).test is not None
    assert not [row for row in read(folder).rows if row.state == "running"]


def test_a_run_that_the_budget_cuts_runs_again(tmp_path):
    folder = tmp_path / "s"
    work(folder, n=1)
    slow = Landscape(seconds=60)
    work(folder, task=slow, propose=of([values()]), n=2, budget_s=54)
    (cut,) = [row for row in journal(folder) if row.role == "proposal"]
    assert (cut.state, cut.reason) == ("lost", "the budget was used up")
    # Nothing was compared with the baseline.
    assert not (folder / TEST).exists()
    snapshot = work(folder, propose=of([values()]), n=2)
    assert snapshot.standing.champion == cut.number + 1


def test_a_budget_for_no_run_leaves_the_test_locked(tmp_path):
    folder = tmp_path / "s"
    work(folder, n=2, task=Landscape(seconds=1))
    (folder / TEST).unlink()
    with pytest.raises(InputError, match="too short for a single run"):
        work(folder, n=9, budget_s=50.8)
    assert not (folder / TEST).exists()


def test_who_comes_while_the_test_is_scored_finds_the_study_closed(tmp_path):
    folder = tmp_path / "s"
    first, late = Notes(), Notes()
    scoring = Thread(
        target=work,
        args=(folder,),
        kwargs={"task": Landscape(score_s=2), "n": 2, "view": first},
    )
    scoring.start()
    while not any("scoring" in text for text in first.said):
        time.sleep(0.05)
    work(folder, n=9, view=late)
    scoring.join()
    assert len(experiments(journal(folder))) == 2
    assert not late.told


def test_a_curve_that_is_not_defined_is_left_out(tmp_path):
    snapshot = work(tmp_path / "s", n=1, task=Landscape(first_point=math.nan))
    assert [len(row.curve) for row in snapshot.rows] == [4, 4]


def test_another_database_is_refused(tmp_path):
    folder = tmp_path / "s"
    urls = [f"sqlite:///{tmp_path / name}.db" for name in "ab"]
    work(folder, n=2, storage=urls[0])
    (folder / TEST).unlink()
    before = (folder / JOURNAL).read_bytes()
    with pytest.raises(InputError, match="runs that the storage does not know"):
        work(folder, n=5, storage=urls[1])
    assert (folder / JOURNAL).read_bytes() == before


def test_that_nothing_fits_is_found_once(tmp_path):
    task, notes = Landscape(count=True), Notes()
    folder = tmp_path / "s"
    work(folder, task=task, n=1)
    (folder / "runs/.DS_Store").touch()
    assert not (folder / TEST).exists()
    rates = [1e-3 * (1 + n / 1000) for n in range(100)]
    large = [values(rate, filters=32) for rate in rates]
    cap = 170_000_000
    work(folder, task=task, propose=of(large), n=9, memory_bytes=cap, view=notes)
    assert sum(row.state == "skipped" for row in journal(folder)) == 20
    assert notes.said.count("nothing that is proposed fits memory or time") == 1


def test_a_death_after_the_test_is_mended(tmp_path):
    folder = tmp_path / "s"
    snapshot = work(folder, n=4)
    champion = snapshot.standing.champion
    shutil.rmtree(folder / "best")
    (folder / "report.html").unlink()
    work(folder, n=4)
    assert json.loads((folder / "best/search.json").read_text()) == champion
    assert (folder / "report.html").exists()


def test_weights_of_few_runs_stay(tmp_path):
    snapshot = work(tmp_path / "s", n=9)
    standing = snapshot.standing
    have = {int(p.parent.name) for p in (tmp_path / "s/runs").glob("*/model")}
    last = [row.number for row in journal(tmp_path / "s")][-3:]
    assert have == {standing.champion, standing.baseline, *standing.waiting, *last}


def test_hopeless_runs_are_pruned_but_never_repeats(tmp_path):
    rates = [1e-3, 1.1e-3, 1.2e-3, 9e-3, 1e-2, 1.3e-3]
    snapshot = work(
        tmp_path / "s", propose=of([values(r) for r in rates]), n=7, pruner="asha"
    )
    states = {row.values["learning_rate"]: row for row in snapshot.rows[1:]}
    assert states[1e-2].state == "pruned" and len(states[1e-2].curve) < 5
    assert states[1e-3].state == "done"
    for row in snapshot.rows:
        if row.role != "proposal":
            assert row.state == "done" and len(row.curve) == 5


def test_what_cannot_fit_is_not_started(tmp_path):
    # Some 50 MB for Python, and 4.7 for each filter: 125, 200 and 85 MB.
    task = Landscape(count=True)
    large, small = values(1e-3, filters=32), values(1e-3, filters=8)
    folder = tmp_path / "s"
    snapshot = work(
        folder, task=task, propose=of([large, small]), n=3, memory_bytes=170_000_000
    )
    rows = {row.values["base_filters"]: row for row in snapshot.rows}
    assert rows[32].state == "skipped" and "memory" in rows[32].reason
    assert rows[32].seconds == 0 and not (folder / "runs/0002").exists()
    assert rows[8].state == "done"


def test_several_objectives_make_one_champion(tmp_path):
    snapshot = work(tmp_path / "s", n=5, objectives=("dice", "nll"))
    assert set(snapshot.standing.spread) == {"dice", "nll"}
    assert snapshot.test is not None


def test_a_database_is_a_storage_too(tmp_path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    snapshot = work(tmp_path / "s", n=3, storage=url)
    assert len(experiments(snapshot.rows)) == 3
    assert not (tmp_path / "s" / "optuna.log").exists()


def test_workers_that_die_between_two_writes_leave_no_hole(tmp_path):
    folder = tmp_path / "s"
    work(folder, n=2)
    (folder / TEST).unlink()
    storage = TrialStorage(folder / STORAGE, settings(), None)
    # A number without a row, and a row that ended but was not closed.
    empty = storage.take_number()
    ended = storage.take_number()
    row = Row(
        ended,
        "proposal",
        ended,
        values(2e-3),
        0,
        "list",
        state="done",
        figures={"dice": 0.5},
        worker="elsewhere-1-00000000",
    )
    storage.start(replace(row), SPACE)
    rows = work(folder, n=3).rows
    states = {r.number: r.state for r in rows}
    assert states[empty] == "lost" and states[ended] == "done"
    assert len(experiments(rows)) == 3
    assert not {r.state for r in rows} & {*INFEASIBLE}
