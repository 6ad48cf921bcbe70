"""The loop: claim a run, propose, train in a process of its own, judge, keep the best.

The workers share out the runs through Optuna's storage; all else that a study knows is
a function of its rows. So workers may join, die and come back at any time, and running
the same command again goes on where the study stands.
"""

import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from filelock import Timeout

from nobrainer.bayes.draws import mix_seed
from nobrainer.cores import share_threads, thread_variables
from nobrainer.errors import InputError
from nobrainer.research.budget import Budget
from nobrainer.research.ending import Ending, only_finite
from nobrainer.research.folder import JOURNAL, STORAGE, StudyFolder
from nobrainer.research.forecast import forecast, why_not
from nobrainer.research.journal import Row, experiments
from nobrainer.research.next_run import NextRun, find_due, values_told
from nobrainer.research.proposers import Proposer
from nobrainer.research.records import Settings, Snapshot, Split, Task, View
from nobrainer.research.results import Results
from nobrainer.research.shared import SharedRuns, is_held
from nobrainer.research.space import Space
from nobrainer.research.trial import Outcome, run_trial
from nobrainer.research.trial_storage import TrialStorage
from nobrainer.research.worker import count_sharing

MOST_SKIPPED = 20
"""The search ends after so many proposals in a row that are predicted not to fit."""
_CURVE_POINTS = 200
"""When a curve has more points than this, every other one is dropped."""


class Study:
    """One worker's part in a study; `work` does it.

    Args:
        folder: folder of the study.
        settings: settings of the study, as its folder has them.
        space: the space that is searched.
        task: the training and judging that the study repeats.
        propose: function that proposes values to try.
        split: the scans of each part.
        storage: the runs of the study in Optuna's storage.
        worker: name of this worker's `Presence`.
        environment: variables that runs have besides those of this process.
        budget: what this worker may spend.
        view: shows how it goes.
    """

    def __init__(
        self,
        folder: StudyFolder,
        settings: Settings,
        space: Space,
        task: Task,
        propose: Proposer,
        split: Split,
        *,
        storage: TrialStorage,
        worker: str,
        environment: Mapping[str, str],
        budget: Budget,
        view: View,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.space = space
        self.task = task
        self.propose = propose
        self.worker = worker
        # Runs need no keys, so they do not get any.
        keys = {name: "" for name in os.environ if name.endswith("_API_KEY")}
        self.environment = {**keys, **environment}
        self.budget = budget
        self.view = view
        self.shared = SharedRuns(folder, settings, storage)
        self.results = Results(self.shared, space, task, split)
        self.ending = Ending(
            self.shared,
            self.results,
            task,
            split.test,
            budget=budget,
            environment=self.environment,
            view=view,
        )
        self._n_ended = 0
        self._is_done = False
        self._shown = 0.0

    def work(self) -> Snapshot:
        """Run until the study is finished or the budget is used up.

        Raises:
            InputError: the baseline cannot be trained, or the budget is too short for
                a single run.
            KeyboardInterrupt: the user interrupted; the message says how to go on.
        """
        if self.folder.test.exists():
            self.view.say(
                "this study is finished: its test split was scored, once. To search "
                "further, begin another in a new working directory"
            )
            self.results.close()
            return self._snapshot()
        with self.shared.lock:
            n_restored = self.shared.restore()
        if n_restored:
            self.view.say(f"{STORAGE} is made anew from {JOURNAL}: {n_restored} runs")
        self._search()
        self.ending.finish(is_done=self._is_done, on_wait=lambda: self._show(None))
        return self._snapshot()

    def _search(self) -> None:
        """Carry out runs until the time is up or the study is at its end."""
        while self._left_s() > 0 and not self.folder.test.exists():
            try:
                with self.shared.lock.acquire(timeout=self._left_s()):
                    rows = self.shared.settle()
                    now = time.monotonic()
                    if not self.budget.holds_another(rows, self.settings, now):
                        self._say_too_short()
                        return
                    # A worker that scores the test split holds that lock.
                    is_ending = is_held(self.ending.lock)
                    # In this order: once it is free again, the result is written.
                    is_over = is_ending or self.folder.test.exists()
                    row = None if is_over else self._claim(rows)
            except Timeout:
                return
            if row is not None:
                self._carry_out(row)
            elif not (self._wait_for_others() or is_ending):
                self._is_done = True  # Nothing is left to try.
                return

    def _left_s(self) -> float:
        return self.budget.left_s(time.monotonic())

    def _say_too_short(self) -> None:
        if not self._n_ended:
            raise InputError(
                "the budget is too short for a single run of this study: give more "
                "--budget-hours"
            )
        self.view.say("the rest of the budget is too short for a run")

    # --- what to run next

    def _claim(self, rows: Sequence[Row]) -> Row | None:
        """Decide what to run next and record it; the caller holds the lock."""
        running = self.shared.running()
        standing = self.shared.judge(rows)
        due = find_due(rows, running, standing, self.space.defaults())
        return self._propose(rows, running) if due is None else self._begin(due)

    def _propose(self, rows: Sequence[Row], running: Sequence[Row]) -> Row | None:
        """Begin a run of new values that fit; None when nothing is left to try."""
        while True:
            proposed = [row.state for row in rows if row.role == "proposal"]
            if proposed[-MOST_SKIPPED:] == ["skipped"] * MOST_SKIPPED:
                self.view.say("nothing that is proposed fits memory or time")
                return None
            if len(experiments([*rows, *running])) >= self.budget.max_experiments:
                return None
            seed = mix_seed(self.settings.seed, "proposal", len(rows) + len(running))
            proposal = self.propose(
                self.space, [*rows, *running], self.settings.objectives, seed
            )
            # A language model may have taken its time.
            now = time.monotonic()
            has_time = self.budget.holds_another(rows, self.settings, now)
            if proposal is None or not has_time:
                return None
            row = self._begin(
                NextRun("proposal", proposal.values, proposal.proposer, proposal.note)
            )
            reason = self._why_not(row, rows)
            if reason is None:
                return row
            self.shared.storage.close(replace(row, state="skipped", reason=reason))
            rows, running = self.shared.settle(), self.shared.running()
            self.view.tell(rows[-1], self.shared.judge(rows))

    def _begin(self, run: NextRun) -> Row:
        """Give a run its number and record that it starts."""
        number = self.shared.storage.take_number()
        try:
            size = self.task.size(values_told(run.values, run.proposer))
        except InputError:
            size = None  # No such network can be built: the run itself says why.
        row = Row(
            number=number,
            role=run.role,
            of=number if run.of is None else run.of,
            values=run.values,
            seed=self.settings.seed + (run.role == "repeat"),
            proposer=run.proposer,
            note=run.note,
            size=size,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            worker=self.worker,
        )
        self.shared.storage.start(row, self.space)
        return row

    def _why_not(self, row: Row, rows: Sequence[Row]) -> str | None:
        """Why a run is predicted not to fit; None where it seems to fit."""
        if row.size is None:
            return None
        minutes = self.settings.train_minutes
        return why_not(
            forecast(rows, row.size),
            memory_bytes=self.budget.memory_bytes,
            seconds=self.budget.cap_s(minutes),
            train_s=None if minutes is None else 60 * minutes,
            n_steps=self.task.n_steps(row.values),
        )

    # --- one run

    def _carry_out(self, row: Row) -> None:
        """Train and judge the run that was claimed, and record how it ended."""
        curve: list[tuple[float, float]] = []
        started = time.monotonic()
        ended = replace(row, state="lost", reason="interrupted")
        try:
            ended = self._train(row, curve)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted in run {row.number}, which is lost: the same command "
                "goes on"
            ) from None
        finally:
            seconds = round(time.monotonic() - started, 3)
            ended = replace(ended, curve=tuple(curve), seconds=seconds)
            with self.shared.lock:
                self.shared.storage.close(ended)
                rows = self.shared.settle()
                self.results.update(rows)
        self._n_ended += 1
        self.view.tell(ended, self.shared.judge(rows))
        if row.role == "baseline" and ended.state != "done":
            raise InputError(
                f"the default recipe, which all others are compared with, cannot be "
                f"trained: {ended.state}: {ended.reason} (see "
                f"{self.folder.log(row.number)}): mend that, or give more memory or "
                "time, and run the command again"
            )

    def _train(self, row: Row, curve: list[tuple[float, float]]) -> Row:
        """Train and judge in a process of its own; points of the curve are added.

        Returns: the row with what came of the run.
        """
        folder = self.folder.run(row.number)
        folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        cap_s = self.budget.cap_s(self.settings.train_minutes)
        left_s = self.budget.run_s_left(self.shared.rows(), self.settings, started)

        def show() -> None:
            seconds = time.monotonic() - started
            self._show(replace(row, curve=tuple(curve), seconds=seconds))

        sharing = count_sharing(self.folder.workers)
        threads = thread_variables(share_threads(sharing))
        # Runs keep volumes that do not fit into memory there, and if killed leave them.
        with tempfile.TemporaryDirectory(
            prefix="nobrainer-run-", ignore_cleanup_errors=True
        ) as scratch:
            outcome = run_trial(
                self.task.run,
                (values_told(row.values, row.proposer), row.seed, str(folder)),
                wall_s=max(1.0, min(cap_s, left_s)),
                memory_bytes=self.budget.memory_bytes,
                log=self.folder.log(row.number),
                environment=self.environment | threads | {"TMPDIR": scratch},
                on_report=lambda point: self._note_point(row, curve, point),
                on_wait=show,
            )
        ended = _end_row(row, outcome, self.settings.objectives)
        if ended.state == "timeout" and left_s < cap_s:
            # With another budget it may end in time.
            return replace(ended, state="lost", reason="the budget was used up")
        if ended.state == "pruned":
            share = f"{100 * curve[-1][0]:.0f} %"
            return replace(ended, reason=f"far behind at {share} of its training")
        return ended

    def _note_point(
        self,
        row: Row,
        curve: list[tuple[float, float]],
        point: tuple[float, float],
    ) -> bool:
        """Add a point to a run's curve; return whether the run shall go on."""
        if not all(map(math.isfinite, point)):
            return True
        curve.append((float(point[0]), float(point[1])))
        if len(curve) > _CURVE_POINTS:
            del curve[1:-1:2]
        # Others are compared with the baseline and by repeats: these run to their end.
        if row.role == "repeat":
            return True
        is_hopeless = self.shared.storage.is_hopeless(row.number, point)
        return row.role == "baseline" or not is_hopeless

    # --- what is shown

    def _wait_for_others(self) -> bool:
        """Wait a little for runs of other workers; False if there are none."""
        if not self.shared.running():
            return False
        self._show(None)
        time.sleep(min(1.0, max(0.0, self._left_s())))
        return True

    def _show(self, row: Row | None) -> None:
        """Show the study about once a second, with this worker's run as it stands."""
        now = time.monotonic()
        if now - self._shown < 1:
            return
        self._shown = now
        self.view.show(self._snapshot(row))

    def _snapshot(self, own: Row | None = None) -> Snapshot:
        return self.shared.snapshot(self.budget, time.monotonic(), own)


def _end_row(row: Row, outcome: Outcome, objectives: Sequence[str]) -> Row:
    """The row of a run, completed by how it ended."""
    state, reason, figures = outcome.state, outcome.reason, {}
    if state == "done":
        figures = only_finite(outcome.result)
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
