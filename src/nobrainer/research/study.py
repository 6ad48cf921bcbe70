"""The loop: claim a run, propose, train in a process of its own, judge, keep the best.

Who does what is agreed through Optuna's storage; everything else that a study knows is
a function of its rows. So workers may join, die and come back at any time, and running
the same command again goes on where the study stands.
"""

import json
import math
import os
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import platformdirs
from filelock import FileLock, Timeout

from nobrainer.bayes.draws import mix_seed
from nobrainer.checks import check_choice, check_count, check_positive
from nobrainer.data.mapping import read_mapping
from nobrainer.data.samples import get_data
from nobrainer.data.table import read_table
from nobrainer.errors import InputError
from nobrainer.io import write_text
from nobrainer.json_records import build_record, parse_json
from nobrainer.memory import memory_limit_bytes
from nobrainer.processing.dataset import Dataset
from nobrainer.recipe import SearchRecord
from nobrainer.research.cost import forecast, why_not
from nobrainer.research.database import check_database, public_url
from nobrainer.research.journal import (
    INFEASIBLE,
    JOURNAL,
    Journal,
    Row,
    Size,
    append_rows,
    experiments,
    read_journal,
)
from nobrainer.research.judge import (
    Standing,
    bootstrap_difference,
    check_objectives,
    judge,
)
from nobrainer.research.proposers import PROPOSERS
from nobrainer.research.records import FinalResult, Settings, Snapshot, View
from nobrainer.research.report.page import write_study
from nobrainer.research.space import Space, family_space
from nobrainer.research.task import MODEL, SegmentationTask, list_gpus, make_dataset
from nobrainer.research.trial import Outcome, run_trial
from nobrainer.research.trial_storage import PRUNERS, STORAGE, TrialStorage
from nobrainer.research.worker import (
    Presence,
    Watch,
    claim_gpu,
    forget,
    list_workers,
)

SETTINGS, SPLIT, TEST = "study.json", "split.json", "test.json"
BEST, REPORT, RUNS, WORKERS = "best", "report.html", "runs", "workers"
KEPT_MODELS = 3
"""Weights of this many of the last runs stay, beside those of the best and waiting."""
MOST_SKIPPED = 20
"""Proposals in a row that are predicted not to fit, before the search gives up."""
MOST_LOST = 3
"""Times that a run is lost with its worker before it is left alone."""
_COMPARED = ("done", "pruned")
"""States of a recipe that says something of the default one."""
_DEFAULT = "default"
"""Who proposed the baseline, and so its repeats."""
_CURVE_POINTS = 200
"""Of a curve with more points every other is dropped."""
_ENDING_S = 45.0
"""Kept of the budget for the test split before it is known how long that takes."""
_MARGIN_S = 5.0
_LEAST_MINUTES = 0.5
"""Of a training that is worth comparing, and of starting and judging it."""
_REPORT_EVERY_S = 60.0
"""The page takes seconds to write: not after every run where runs are short."""


class Task(Protocol):
    """What a study repeats; see `SegmentationTask`. Its values are picklable."""

    def run(
        self, values: Mapping[str, Any], seed: int, folder: str, report: Any
    ) -> dict[str, float]:
        """Train and judge once."""

    def score(self, folders: Mapping[str, str], test: Any, report: Any) -> Any:
        """Apply trained models to the test scans."""

    def size(self, values: Mapping[str, Any]) -> Size | None:
        """Count the network, None where there is nothing to count."""

    def n_steps(self, values: Mapping[str, Any]) -> int:
        """Optimiser steps in all epochs."""

    def publish(self, folder: Path, best: Path, search: SearchRecord) -> None:
        """Copy a run's model to where the best one is kept."""

    def gpus(self) -> bool:
        """Whether each worker should own a GPU."""


def run(
    working_dir: str | Path,
    model_family: str = "bayesian_vnet",
    *,
    data: str | Path | None = None,
    max_experiments: int = 15,
    budget_hours: float = 8.0,
    proposer: str = "tpe",
    pruner: str = "asha",
    objectives: Sequence[str] = ("dice",),
    space: str | Path | None = None,
    n_classes: int | None = None,
    binarize: bool | None = None,
    relabel: str | None = None,
    train_minutes: float | None = None,
    epochs: int | None = None,
    n_draws: int = 3,
    run_minutes: float | None = None,
    memory_gb: float | None = None,
    storage: str | None = None,
    seed: int = 0,
    view: View | None = None,
) -> Snapshot:
    """Search for a better recipe; begin a study, join it, or go on with it.

    Run 0 is the unchanged recipe, and once more with a second seed, which says how
    much the seed alone changes. Then values are proposed, trained and judged on
    validation subjects, one after the other. The test subjects are scored once, at
    the end, with the best model and the baseline.

    Args:
        working_dir: the study's folder; made if missing. Workers share it.
        model_family: a registered model.
        data: CSV table with the columns features,labels; None takes `get_data()`.
        max_experiments: distinct recipes to try, the baseline among them.
        budget_hours: this call ends within it.
        proposer: a name of `PROPOSERS`.
        pruner: a name of `PRUNERS`; ends hopeless runs early by their validation
            curve (not with several objectives).
        objectives: names of `OBJECTIVES`; the first is what is shown.
        space: TOML file with the ranges, see `Space.from_toml`; None is
            `family_space`.
        n_classes, binarize, relabel: how labels are made into classes; n_classes
            None is what relabel makes, else 2; binarize None is True for two classes
            without relabel.
        train_minutes: minutes of each training; None with `epochs` None is computed
            from the budget.
        epochs: most epochs of each training; None is no limit but the minutes.
        n_draws: draws of the weights, for judging.
        run_minutes: a run that takes longer, judging included, is ended.
        memory_gb: a run that uses more memory is ended; None is what is free.
        storage: a database's URL for many workers; None is a file in the folder.
        seed: seed of the split, the proposals and the trainings.
        view: shows how it goes.

    Returns: the study as it stands at the end.

    Raises:
        InputError: arguments that cannot be used, or that differ from those that
            the study began with; or a baseline that cannot be trained.
        KeyboardInterrupt: the run under way is lost, no other.
    """
    check_positive("budget_hours", budget_hours)
    deadline = time.monotonic() + 3600 * budget_hours
    view = view or _Silent()
    check_count("max_experiments", max_experiments, 1)
    check_count("n_draws", n_draws, 1)
    check_count("seed", seed, 0)
    check_choice("pruner", pruner, PRUNERS)
    chosen = check_objectives(objectives)
    if epochs is not None:
        check_count("epochs", epochs, 1)
    for name, value in (
        ("train_minutes", train_minutes),
        ("run_minutes", run_minutes),
        ("memory_gb", memory_gb),
    ):
        if value is not None:
            check_positive(name, value)
    ranges = family_space(model_family)
    if space is not None:
        ranges = Space.from_toml(model_family, _read_text(Path(space)))
    if binarize is None:
        binarize = n_classes in (None, 2) and relabel is None
    if n_classes is None:
        n_classes = 2
        if relabel is not None and not binarize:
            n_classes = len(read_mapping(relabel)[1].names)
    folder = Path(working_dir).resolve()
    # What was computed from a budget may differ when a study goes on.
    left_open = {"train_minutes", "epochs"} if train_minutes is epochs is None else {}
    if train_minutes is None and epochs is None:
        train_minutes = _train_minutes(60 * budget_hours, max_experiments)
    fresh = Settings(
        family=model_family,
        space=ranges.to_toml(),
        objectives=chosen,
        proposer=proposer,
        pruner=pruner,
        seed=seed,
        train_minutes=train_minutes,
        epochs=epochs or 100_000,
        n_draws=n_draws,
        n_classes=n_classes,
        binarize=binarize,
        relabel=relabel,
        n_train=0,
        n_validate=0,
        n_test=0,
        started=datetime.now(UTC).isoformat(),
        versions={
            name: version(name) for name in ("nobrainer", "torch", "optuna", "monai")
        },
        storage=public_url(storage),
    )
    # Before anything is written: the language model's environment is checked here.
    propose = PROPOSERS[proposer]()
    with _refusing(folder):
        settings, split = _open(folder, fresh, data, left_open, storage)
    if not (folder / JOURNAL).exists():
        _say_what_fits(view, 60 * budget_hours, max_experiments, settings)
    task = SegmentationTask(
        space=ranges,
        train=split["train"],
        validate=split["validate"],
        n_classes=settings.n_classes,
        binarize=settings.binarize,
        relabel=settings.relabel,
        train_minutes=settings.train_minutes,
        epochs=settings.epochs,
        n_draws=settings.n_draws,
    )
    with _refusing(folder), ExitStack() as stack:
        worker = stack.enter_context(Presence(folder / WORKERS))
        gpu = stack.enter_context(
            claim_gpu(_gpu_locks(), _gpus(folder) if task.gpus() else [])
        )
        return Study(
            folder,
            settings,
            ranges,
            task,
            propose,
            split["test"],
            storage=storage,
            worker=worker.name,
            environment={} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu},
            max_experiments=max_experiments,
            deadline=deadline,
            run_s=None if run_minutes is None else 60 * run_minutes,
            memory_bytes=int(
                0.9 * memory_limit_bytes() if memory_gb is None else 1e9 * memory_gb
            ),
            view=view,
            n_scans={name: len(rows) for name, rows in split.items()},
        ).work()


def read(working_dir: str | Path, storage: str | None = None) -> Snapshot:
    """A study as it stands, changing nothing.

    Args:
        working_dir: the study's folder.
        storage: a database's URL, where the study has one, to see runs under way.

    Raises:
        InputError: no study is there.
    """
    folder = Path(working_dir).resolve()
    with _refusing(folder):
        if not (folder / SETTINGS).is_file():
            raise InputError(
                f"{folder}: holds no study: give the --working-dir of `research run`"
            )
        settings = _read_settings(folder)
        rows = read_journal(folder / JOURNAL)
        standing = _judge(folder, rows, settings)
        found = {row.number: row for row in _read_running(folder, settings, storage)}
        found |= {row.number: row for row in rows}
        ordered = tuple(found[number] for number in sorted(found))
        return Snapshot(settings, ordered, standing, test=_read_test(folder))


def _read_running(folder: Path, settings: Settings, url: str | None) -> list[Row]:
    """The runs under way; a damaged storage has none, and a warning says why."""
    # Reading a storage of many runs takes long: only where somebody is at work.
    if not list_workers(folder / WORKERS) or (url is None and settings.storage):
        return []
    try:
        return TrialStorage(folder, settings, url, is_reader=True).running()
    except KeyError:
        return []  # A worker is just beginning.
    except InputError as error:
        if url is not None:
            raise
        warnings.warn(f"{error}; until then no run under way is shown", stacklevel=3)
        return []


def _judge(folder: Path, rows: Sequence[Row], settings: Settings) -> Standing:
    try:
        return judge(rows, settings.objectives)
    except InputError as error:
        raise InputError(f"{folder / JOURNAL}: {error}") from error


@contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    """Turn what the system refuses in a study's folder into one line."""
    try:
        yield
    except (OSError, NotImplementedError) as error:
        name = getattr(error, "filename", None) or folder
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{name}: cannot be used for a study: {reason}: free some space, mend the "
            "permissions or what stands there, and the same command goes on"
        ) from error


class Study:
    """One worker's part in a study; `work` does it."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        space: Space,
        task: Task,
        propose: Any,
        test: Any,
        *,
        storage: str | None,
        worker: str,
        environment: Mapping[str, str],
        max_experiments: int,
        deadline: float,
        run_s: float | None,
        memory_bytes: int,
        view: View,
        n_scans: Mapping[str, int] | None = None,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.space = space
        self.task = task
        self.propose = propose
        self.test = test
        self.n_scans = n_scans or {}
        self.worker = worker
        # Runs need no keys.
        keys = {name: "" for name in os.environ if name.endswith("_API_KEY")}
        self.environment = {**keys, **environment}
        self.max_experiments = max_experiments
        self.deadline = deadline
        self.run_s = run_s
        self.memory_bytes = memory_bytes
        self.view = view
        self.storage = TrialStorage(folder, settings, storage)
        self.lock = FileLock(folder / ".lock")
        self.ending = FileLock(folder / ".ending.lock")
        self.watch = Watch(folder / WORKERS)
        self.journal = Journal(folder / JOURNAL)
        self._judged: tuple[int, Standing] | None = None
        self._n_ended = 0
        self._is_done = False
        self._shown = 0.0
        self._reported = -math.inf

    # --- the loop

    def work(self) -> Snapshot:
        """Run until the study is finished or the budget is used up.

        Raises:
            InputError: the baseline cannot be trained.
            KeyboardInterrupt: with a message for the user.
        """
        if (self.folder / TEST).exists():
            self.view.say(
                "this study is finished: its test split was scored, once. To search "
                "further, begin another in a new working directory"
            )
            self._close()
            return self._snapshot()
        with self.lock:
            self._restore()
        while self._left_s() > 0 and not (self.folder / TEST).exists():
            try:
                with self.lock.acquire(timeout=self._left_s()):
                    rows = self._settle()
                    if not self._time_for_another(rows):
                        if not self._n_ended:
                            raise InputError(
                                "the budget is too short for a single run of this "
                                "study: give more --budget-hours"
                            )
                        self.view.say("the rest of the budget is too short for a run")
                        break
                    # Who scores the test split has it, and then waits for our lock.
                    is_ending = _is_held(self.ending)
                    # In this order: whoever let go of it has written the result.
                    is_over = is_ending or (self.folder / TEST).exists()
                    row = None if is_over else self._claim(rows)
            except Timeout:
                break
            if row is not None:
                self._carry_out(row)
            elif not (self._wait_for_others() or is_ending):
                self._is_done = True  # Nothing is left to try.
                break
        self._finish()
        return self._snapshot()

    def _restore(self) -> None:
        """Bring what only the journal knows back to the storage; hold the lock.

        Raises:
            InputError: a database is not the one that the journal was written from.
        """
        rows = self.journal.read()
        missing = {row.number for row in rows} - {
            r.number for r in self.storage.ended()
        }
        if not missing:
            return
        if not self.storage.is_file:
            raise InputError(
                f"{self.folder}: {JOURNAL} has {len(missing)} runs that the storage "
                "does not know: give the --storage that the study was begun with, or "
                "another --working-dir"
            )
        self.view.say(f"{STORAGE} is made anew from {JOURNAL}: {len(missing)} runs")
        self.storage.restore(rows)

    def _judge(self, rows: Sequence[Row]) -> Standing:
        """Who is best by all rows that have ended, which are only ever added to."""
        if self._judged is None or self._judged[0] != len(rows):
            self._judged = len(rows), _judge(self.folder, rows, self.settings)
        return self._judged[1]

    def _left_s(self) -> float:
        return self.deadline - _MARGIN_S - time.monotonic()

    def _settle(self) -> list[Row]:
        """Take note of what ended and who died; hold the lock. Returns ended rows."""
        for row in self.storage.running():
            if row.state != "running":
                self.storage.close(row)
            elif not row.worker or not self.watch.is_alive(row.worker):
                reason = "its worker is gone"
                self.storage.close(replace(row, state="lost", reason=reason))
                forget(self.folder / WORKERS, row.worker)
        known = {row.number for row in self.journal.read()}
        new = [row for row in self.storage.ended() if row.number not in known]
        append_rows(self.journal.path, new)
        return self.journal.read()

    def _claim(self, rows: Sequence[Row]) -> Row | None:
        """Decide what to run next and say so in the storage; hold the lock."""
        standing = self._judge(rows)
        running = self.storage.running()
        lost = Counter(_key(row) for row in rows if row.state == "lost")
        under_way = {_key(row) for row in running}

        def is_free(key: str) -> bool:
            return key not in under_way and lost[key] < MOST_LOST

        has_baseline = any(row.role == "baseline" for row in running)
        if standing.baseline is None and not has_baseline:
            values = self.space.defaults()
            return self._begin("baseline", values, _DEFAULT, "", of=None)
        by_number = {row.number: row for row in rows}
        for number in standing.waiting:
            first = by_number[number]
            if is_free(f"repeat {number}"):
                return self._begin("repeat", first.values, first.proposer, "", number)
        tried = {_key(r) for r in rows if r.role == "proposal" and r.state != "lost"}
        for row in rows:
            key = _key(row)
            again = row.role == "proposal" and row.state == "lost" and key not in tried
            if again and row.values and is_free(key):
                note = f"again: run {row.number} was lost"
                return self._begin("proposal", row.values, row.proposer, note, None)
        return self._propose(rows, running)

    def _propose(self, rows: Sequence[Row], running: Sequence[Row]) -> Row | None:
        """The next new values that fit, or None when there is nothing left to try."""
        while True:
            proposed = [row.state for row in rows if row.role == "proposal"]
            if proposed[-MOST_SKIPPED:] == ["skipped"] * MOST_SKIPPED:
                self.view.say("nothing that is proposed fits memory or time")
                return None
            if len(experiments([*rows, *running])) >= self.max_experiments:
                return None
            seed = mix_seed(self.settings.seed, "proposal", len(rows) + len(running))
            proposal = self.propose(
                self.space, [*rows, *running], self.settings.objectives, seed
            )
            # A language model may have taken its time.
            if proposal is None or not self._time_for_another(rows):
                return None
            row = self._begin(
                "proposal", proposal.values, proposal.proposer, proposal.note, None
            )
            reason = self._too_large(row, rows)
            if reason is None:
                return row
            self.storage.close(replace(row, state="skipped", reason=reason))
            rows, running = self._settle(), self.storage.running()
            self.view.tell(rows[-1], self._judge(rows))

    def _begin(
        self,
        role: str,
        values: dict[str, Any],
        proposer: str,
        note: str,
        of: int | None,
    ) -> Row:
        number = self.storage.take_number()
        try:
            size = self.task.size(_told(values, proposer))
        except InputError:
            size = None  # There is no such network: the run itself says why.
        row = Row(
            number=number,
            role=role,
            of=number if of is None else of,
            values=values,
            seed=self.settings.seed + (role == "repeat"),
            proposer=proposer,
            note=note,
            size=size,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            worker=self.worker,
        )
        self.storage.start(row, self.space)
        return row

    def _too_large(self, row: Row, rows: Sequence[Row]) -> str | None:
        if row.size is None:
            return None
        minutes = self.settings.train_minutes
        n_steps = self.task.n_steps(row.values)
        return why_not(
            forecast(rows, row.size),
            memory_bytes=self.memory_bytes,
            seconds=self._cap_s(),
            train_s=None if minutes is None else 60 * minutes,
            n_steps=n_steps,
        )

    # --- one run

    def _carry_out(self, row: Row) -> None:
        rows = self.journal.read()
        folder = self._run_folder(row.number)
        folder.mkdir(parents=True, exist_ok=True)
        curve: list[tuple[float, ...]] = []
        started = time.monotonic()

        def add(point: tuple[float, float]) -> bool:
            if not all(map(math.isfinite, point)):
                return True
            curve.append(tuple(map(float, point)))
            if len(curve) > _CURVE_POINTS:
                del curve[1:-1:2]
            # The baseline and repeats are measuring sticks: they run to their end.
            if row.role == "repeat":
                return True
            is_hopeless = self.storage.is_hopeless(row.number, point)
            return row.role == "baseline" or not is_hopeless

        def wait() -> None:
            seconds = time.monotonic() - started
            self._show(replace(row, curve=tuple(curve), seconds=seconds))

        ended = replace(row, state="lost", reason="interrupted")
        cap_s, left_s = self._cap_s(), self._left_s() - self._ending_s(rows)
        # Volumes that do not fit into memory are kept there; who is killed leaves them.
        scratch = tempfile.TemporaryDirectory(
            prefix="nobrainer-run-", ignore_cleanup_errors=True
        )
        try:
            outcome = run_trial(
                self.task.run,
                (_told(row.values, row.proposer), row.seed, str(folder)),
                wall_s=max(1.0, min(cap_s, left_s)),
                memory_bytes=self.memory_bytes,
                log=folder / "log.txt",
                environment={**self.environment, "TMPDIR": scratch.name},
                on_report=add,
                on_wait=wait,
            )
            ended = _ended(row, outcome, self.settings.objectives)
            if ended.state == "timeout" and left_s < cap_s:
                # It may end in time on another evening.
                ended = replace(ended, state="lost", reason="the budget was used up")
            if ended.state == "pruned":
                share = f"{100 * curve[-1][0]:.0f} %"
                ended = replace(ended, reason=f"far behind at {share} of its training")
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted in run {row.number}, which is lost: the same command "
                "goes on"
            ) from None
        finally:
            scratch.cleanup()
            seconds = round(time.monotonic() - started, 3)
            ended = replace(ended, curve=tuple(curve), seconds=seconds)
            with self.lock:
                self.storage.close(ended)
                rows = self._settle()
                self._keep_house(rows)
        self._n_ended += 1
        self.view.tell(ended, self._judge(rows))
        if row.role == "baseline" and ended.state != "done":
            raise InputError(
                f"the default recipe, which all others are compared with, cannot be "
                f"trained: {ended.state}: {ended.reason} (see {folder / 'log.txt'}): "
                "mend that, or give more memory or time, and run the command again"
            )

    def _cap_s(self) -> float:
        """Seconds that any run may take."""
        limits = [math.inf]
        if self.run_s is not None:
            limits.append(self.run_s)
        if self.settings.train_minutes is not None:
            limits.append(120 * self.settings.train_minutes + 600)
        return min(limits)

    def _ending_s(self, rows: Sequence[Row]) -> float:
        """Seconds that the test split will take, with a margin."""
        slowest = max((row.figures.get("judge_s", 0.0) for row in rows), default=0.0)
        share = self.settings.n_test / max(1, self.settings.n_validate)
        return max(_ENDING_S, 30 + 1.3 * 2 * slowest * share)

    def _time_for_another(self, rows: Sequence[Row]) -> bool:
        """Whether a run could end inside the budget; the first one always tries."""
        times = sorted(row.seconds for row in rows if row.state == "done")
        if not times:
            return True
        typical = times[len(times) // 2]
        # Runs differ a little: one that is cut just before its end is lost.
        return self._left_s() - self._ending_s(rows) >= 1.2 * typical

    # --- what stays

    def _keep_house(self, rows: Sequence[Row]) -> None:
        """Publish the champion, write the report, drop old weights; hold the lock."""
        standing = self._judge(rows)
        if standing.champion is not None:
            self._publish(rows, standing, None)
        kept = {standing.champion, standing.baseline, *standing.undecided}
        done = [row.number for row in rows if row.state == "done"]
        kept |= {*done[-KEPT_MODELS:]}
        for row in self.storage.running():
            kept |= {row.number, row.of}
        for path in (self.folder / RUNS).iterdir():
            if path.name.isdigit() and int(path.name) not in kept:
                shutil.rmtree(path / MODEL, ignore_errors=True)
        if time.monotonic() - self._reported > _REPORT_EVERY_S:
            self._report()

    def _report(self) -> None:
        write_study(self._snapshot(), self.folder / REPORT, overwrite=True)
        self._reported = time.monotonic()

    def _publish(
        self, rows: Sequence[Row], standing: Standing, final: FinalResult | None
    ) -> None:
        """Put the champion's model where users look for it, with its story."""
        champion, baseline = standing.champion, standing.baseline
        assert champion is not None and baseline is not None
        row = next(row for row in rows if row.number == champion)
        tested = final.figures if final else {}
        gain = final.difference if final else None
        self.task.publish(
            self._run_folder(champion),
            self.folder / BEST,
            SearchRecord(
                family=self.settings.family,
                proposer=row.proposer,
                objectives=self.settings.objectives,
                seed=self.settings.seed,
                run=champion,
                n_runs=sum(row.state not in ("lost", "skipped") for row in rows),
                n_failed=sum(row.state in {*INFEASIBLE} - {"skipped"} for row in rows),
                space={
                    name: asdict(found) for name, found in self.space.ranges.items()
                },
                values=row.values if champion != baseline else {},
                validation=standing.means[champion],
                baseline_validation=standing.means[baseline],
                spread=standing.spread or {},
                n_train=self.settings.n_train,
                n_validate=self.settings.n_validate,
                n_test=self.settings.n_test,
                n_train_scans=self.n_scans.get("train"),
                n_validate_scans=self.n_scans.get("validate"),
                n_test_scans=self.n_scans.get("test"),
                started=self.settings.started,
                ended=datetime.now(UTC).isoformat(timespec="seconds"),
                test=tested.get("champion"),
                baseline_test=tested.get("baseline"),
                test_difference=None
                if gain is None
                else (gain.mean, gain.low, gain.high),
            ),
        )

    def _finish(self) -> None:
        """Score the test split, unless others still work on the study."""
        try:
            with self.ending.acquire(timeout=max(0.0, self._left_s())):
                self._score()
        except Timeout:
            self.view.say("another worker scores the test split")

    def _score(self) -> None:
        with self.lock:
            rows = self._settle()
            standing = self._judge(rows)
            busy = bool(self.storage.running())
        if (self.folder / TEST).exists() or standing.champion is None:
            return
        is_compared = any(r.role == "proposal" and r.state in _COMPARED for r in rows)
        is_beaten = standing.champion != standing.baseline
        if not (is_compared and (is_beaten or self._is_done)):
            self.view.say(
                "no recipe has beaten the default one yet, so the test split stays "
                "locked and the study open: the same command goes on, with more "
                "--budget-hours or --max-experiments"
            )
            return
        if busy:
            self.view.say("other workers go on; the last one scores the test split")
            return
        self._report()  # Should scoring fail, the page is up to date.
        champion, baseline = standing.champion, standing.baseline
        assert baseline is not None
        numbers = {"baseline": baseline, "champion": champion}
        self.view.say(f"scoring the test split, once: runs {baseline} and {champion}")
        started = time.monotonic()
        left_s = self.deadline - started
        outcome = run_trial(
            self.task.score,
            ({k: str(self._run_folder(n)) for k, n in numbers.items()}, self.test),
            wall_s=max(1.0, left_s),
            memory_bytes=self.memory_bytes,
            log=self.folder / "test.log",
            environment=self.environment,
            on_report=lambda _: True,
            on_wait=lambda: self._show(None),
        )
        if outcome.state != "done":
            self.view.say(
                f"the test split was not scored ({outcome.state}: {outcome.reason}): "
                "the same command tries again"
            )
            return
        scores = outcome.result
        subjects = {name: _finite(found["subjects"]) for name, found in scores.items()}
        shared = sorted({*subjects["champion"]} & {*subjects["baseline"]})
        if not shared:
            self.view.say("no test scan has a structure that could be scored")
            return
        final = FinalResult(
            champion=champion,
            baseline=baseline,
            scored=datetime.now(UTC).isoformat(timespec="seconds"),
            figures={name: _finite(found["figures"]) for name, found in scores.items()},
            subjects=subjects,
            difference=bootstrap_difference(
                [subjects["champion"][name] for name in shared],
                [subjects["baseline"][name] for name in shared],
                mix_seed(self.settings.seed, "bootstrap"),
            ),
        )
        text = json.dumps(asdict(final), indent=2, allow_nan=False) + "\n"
        write_text(text, self.folder / TEST, overwrite=False)
        self._close()

    def _close(self) -> None:
        """Bring what was scored to the best model and to the page."""
        final = _read_test(self.folder)
        with self.lock:
            rows = self.journal.read()
            standing = self._judge(rows)
            # Of a finished study the runs may have been removed, to save space.
            champion = standing.champion
            if champion is not None and (self._run_folder(champion) / MODEL).is_dir():
                self._publish(rows, standing, final)
            self._report()

    def _run_folder(self, number: int) -> Path:
        return self.folder / RUNS / f"{number:04d}"

    # --- what is shown

    def _wait_for_others(self) -> bool:
        """Wait a little for runs of other workers; False where there are none."""
        if not self.storage.running():
            return False
        self._show(None)
        time.sleep(min(1.0, max(0.0, self._left_s())))
        return True

    def _show(self, row: Row | None) -> None:
        """Show the study about once a second, with our own run as it stands."""
        now = time.monotonic()
        if now - self._shown < 1:
            return
        self._shown = now
        self.view.show(self._snapshot(row))

    def _snapshot(self, own: Row | None = None) -> Snapshot:
        rows = self.journal.read()
        found = {row.number: row for row in (*self.storage.running(), *rows)}
        if own is not None:
            found[own.number] = own
        return Snapshot(
            self.settings,
            tuple(found[number] for number in sorted(found)),
            self._judge(rows),
            remaining_s=max(0.0, self.deadline - time.monotonic()),
            max_experiments=self.max_experiments,
            test=_read_test(self.folder),
        )


def _key(row: Row) -> str:
    """What a run is of, so that a lost one can be told to have been run again."""
    if row.role == "repeat":
        return f"repeat {row.of}"
    return row.role + json.dumps(row.values, sort_keys=True)


def _ended(row: Row, outcome: Outcome, objectives: Sequence[str]) -> Row:
    """The row with what came of the run."""
    state, reason, figures = outcome.state, outcome.reason, {}
    if state == "done":
        figures = _finite(outcome.result)
        missing = [name for name in objectives if name not in figures]
        if missing:
            state, reason = "diverged", f"{', '.join(missing)}: not defined"
    return replace(
        row,
        state=state,
        reason=reason,
        figures=figures,
        peak_memory_bytes=outcome.peak_memory_bytes,
    )


def _told(values: dict[str, Any], proposer: str) -> dict[str, Any]:
    """What training is told: of the unchanged recipe nothing, so that all is default.

    Its row has those of the default values that the space can say.
    """
    return {} if proposer == _DEFAULT else values


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _is_held(lock: FileLock) -> bool:
    """Whether another worker holds a lock."""
    try:
        with lock.acquire(blocking=False):
            return False
    except Timeout:
        return True


class _Silent:
    """Shows nothing."""

    def show(self, snapshot: Snapshot) -> None: ...
    def tell(self, row: Row, standing: Standing) -> None: ...
    def say(self, text: str) -> None: ...


# --- how a study begins


def _open(
    folder: Path,
    fresh: Settings,
    data: str | Path | None,
    left_open: Collection[str],
    storage: str | None,
) -> tuple[Settings, dict[str, Any]]:
    """Begin a study, or find the one that is there and see that it is the same."""
    # Before anything is made: a command that is refused leaves nothing behind.
    _refuse_foreign(folder)
    parts = None
    if not (folder / SETTINGS).exists():
        parts = _split(data, fresh)
        if storage is not None:
            check_database(storage)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if parts is not None and not (folder / SETTINGS).exists():
            _refuse_foreign(folder)
            fresh = replace(
                fresh,
                n_train=len({*parts["train"].subjects}),
                n_validate=len({*parts["validate"].subjects}),
                n_test=len({*parts["test"].subjects}),
            )
            paths = {name: _written(part) for name, part in parts.items()}
            for name, content in ((SPLIT, paths), (SETTINGS, asdict(fresh))):
                text = json.dumps(content, indent=2) + "\n"
                write_text(text, folder / name, overwrite=True)
        settings = _read_settings(folder)
        split = _read_split(folder)
    _refuse_other(folder, settings, fresh, left_open)
    begun_with = sorted(row[:2] for row in sum(split.values(), ()))
    if data is not None and [row[:2] for row in _rows(data)] != begun_with:
        raise InputError(
            f"{folder}: was begun with other scans than those of {data}: give the same "
            "--data or another --working-dir"
        )
    return settings, split


def _refuse_foreign(folder: Path) -> None:
    """Raise where a folder is there that is neither empty nor a study's."""
    if (folder / SETTINGS).exists() or not folder.exists():
        return
    foreign = sorted(
        path.name
        for path in folder.iterdir()
        if path.name != SPLIT and not path.name.startswith(".")
    )
    if foreign:
        raise InputError(
            f"{folder}: holds files that are not a study's "
            f"({', '.join(foreign[:3])}): give another --working-dir"
        )


def _refuse_other(
    folder: Path, settings: Settings, fresh: Settings, left_open: Collection[str]
) -> None:
    """Raise where a study that goes on was begun otherwise."""
    may_differ = {"n_train", "n_validate", "n_test", "started", "versions", *left_open}
    for name, before in asdict(settings).items():
        now = asdict(fresh)[name]
        if name not in may_differ and now != before:
            raise InputError(
                f"{folder}: was begun with {name}={before!r}, now it is {now!r}: give "
                "the same, or another --working-dir for another study"
            )


def _split(data: str | Path | None, settings: Settings) -> dict[str, Dataset]:
    """A fifth of the subjects for each of validation and test, the rest to train."""
    rows = _rows(get_data() if data is None else data)
    dataset = make_dataset(
        rows,
        settings.n_classes,
        binarize=settings.binarize,
        relabel=settings.relabel,
    )
    n_subjects = len({*dataset.subjects})
    if n_subjects < 3:
        raise InputError(
            f"a study needs 3 subjects or more, to train, validate and test on, got "
            f"{n_subjects}: add scans to the table"
        )
    share = max(1, round(n_subjects / 5))
    rest, test = dataset.split(share, seed=mix_seed(settings.seed, "test"))
    train, validate = rest.split(share, seed=mix_seed(settings.seed, "validate"))
    return {"train": train, "validate": validate, "test": test}


def _written(dataset: Dataset) -> list[list[str]]:
    """The paths of each scan, and whom it shows, as far as that is known."""
    return [
        [*(str(path) for path in scan.paths or ()), scan.subject or ""]
        for scan in dataset.data
    ]


def _rows(table: str | Path) -> list[tuple[str, str, str]]:
    """Scan, labels and given subject of each row, by absolute paths, sorted."""
    return sorted(
        (os.path.abspath(row["image"]), os.path.abspath(row["label"]), row["subject"])
        for row in read_table(Path(table))
    )


def _train_minutes(budget_minutes: float, max_experiments: int) -> float:
    """Of each training, so that all runs, or as many as can, end inside the budget.

    Where the budget leaves less than half a minute to train, fewer recipes will be
    tried; two at least are planned for.
    """
    n_recipes = max(2, _n_fitting(budget_minutes, max_experiments, _LEAST_MINUTES))
    run = _usable(budget_minutes) / _n_runs(min(n_recipes, max_experiments))
    # Rounded down, or it might not fit.
    return math.floor(1000 * max(run - _overhead(run), run / 3)) / 1000


def _n_fitting(budget_minutes: float, wanted: int, train_minutes: float) -> int:
    """Of the recipes that are wanted, those that such trainings leave time for."""
    for n_recipes in range(wanted, 0, -1):
        run = _usable(budget_minutes) / _n_runs(n_recipes)
        if run - _overhead(run) >= train_minutes:
            return n_recipes
    return 0


def _usable(budget_minutes: float) -> float:
    """What is left when a tenth, or a minute, is kept for the test split."""
    return max(min(0.9 * budget_minutes, budget_minutes - 1), budget_minutes / 3)


def _overhead(run_minutes: float) -> float:
    """Minutes of a run that go into starting, validation and judging."""
    return min(max(run_minutes / 3, _LEAST_MINUTES), 5.0)


def _n_runs(n_recipes: int) -> int:
    """Runs of so many recipes with the second seeds of the baseline and of a fifth."""
    return n_recipes + 1 + math.ceil(n_recipes / 5)


def _say_what_fits(
    view: View, budget_minutes: float, wanted: int, settings: Settings
) -> None:
    """Tell before the first run where a budget is too short for what is wanted."""
    if settings.train_minutes is None:
        return
    n_fitting = _n_fitting(budget_minutes, wanted, settings.train_minutes)
    if n_fitting >= wanted:
        return
    what = f"about {n_fitting} of {wanted} recipes"
    if n_fitting < 2:
        what = "no more than the default recipe, which will be compared with nothing"
    view.say(
        f"the budget of {budget_minutes:.3g} min is short: with trainings of "
        f"{settings.train_minutes:.2g} min, second seeds and judging it holds {what}: "
        "give more --budget-hours for more"
    )


def _gpu_locks() -> Path:
    """Where workers of all studies on this machine say which GPU is theirs."""
    return Path(platformdirs.user_cache_dir("nobrainer")) / "gpus"


def _gpus(folder: Path) -> list[str]:
    """The GPUs of this machine."""
    outcome = run_trial(
        list_gpus,
        (),
        wall_s=120,
        memory_bytes=None,
        log=folder / "gpus.log",
        on_report=lambda _: True,
        on_wait=lambda: None,
    )
    if outcome.state != "done":
        raise InputError(f"the GPUs cannot be listed: {outcome.reason}")
    gpus: list[str] = outcome.result
    return gpus


def _read_settings(folder: Path) -> Settings:
    path = folder / SETTINGS
    settings: Settings = build_record(Settings, _read_json(path), str(path))
    try:
        check_objectives(settings.objectives)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return settings


def _read_split(folder: Path) -> dict[str, Any]:
    path = folder / SPLIT
    raw = _read_json(path)
    if not (
        isinstance(raw, dict)
        and raw.keys() == {"train", "validate", "test"}
        and all(isinstance(rows, list) for rows in raw.values())
        and all(
            # The third says whom the scan shows, which older studies did not keep.
            isinstance(row, list) and len(row) in (2, 3) and {*map(type, row)} == {str}
            for rows in raw.values()
            for row in rows
        )
    ):
        raise InputError(
            f"{path}: must have the scans and labels of train, validate and test: "
            "bring back the file as it was, or give another --working-dir"
        )
    return {name: tuple(map(tuple, rows)) for name, rows in raw.items()}


def _read_test(folder: Path) -> FinalResult | None:
    path = folder / TEST
    if not path.exists():
        return None
    result: FinalResult = build_record(FinalResult, _read_json(path), str(path))
    for name in ("champion", "baseline"):
        if "dice" not in result.figures.get(name, {}):
            raise InputError(f"{path}: has no Dice of the {name}: bring back the file")
    return result


def _read_json(path: Path) -> Any:
    return parse_json(_read_text(path), str(path))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
