"""How a study ends: champion and baseline are scored on the test split, once."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from filelock import FileLock, Timeout

from nobrainer.bayes.draws import mix_seed
from nobrainer.research.budget import Budget
from nobrainer.research.journal import Row
from nobrainer.research.judge import Standing, bootstrap_difference
from nobrainer.research.records import FinalResult, Rows, Scores, Task, View
from nobrainer.research.results import Results
from nobrainer.research.shared import SharedRuns
from nobrainer.research.trial import run_trial

_COMPARED = ("done", "pruned")
"""States in which a recipe was compared with the default one."""


class Ending:
    """Scores the test split once no worker is busy with a run any more.

    Args:
        shared: the runs of the study.
        results: the best model and the page, which get the scores.
        task: the training and judging that the study repeats; it scores models.
        test: (scan, labels, subject) of each scan of the test split.
        budget: what this worker may spend.
        environment: variables that the process that scores has besides those of this
            process.
        view: shows how it goes.
    """

    def __init__(
        self,
        shared: SharedRuns,
        results: Results,
        task: Task,
        test: Rows,
        *,
        budget: Budget,
        environment: Mapping[str, str],
        view: View,
    ) -> None:
        self._shared = shared
        self._folder = shared.folder
        self._results = results
        self._task = task
        self._test = test
        self._budget = budget
        self._environment = environment
        self._view = view
        self.lock = FileLock(self._folder.ending_lock)

    def finish(self, *, is_done: bool, on_wait: Callable[[], None]) -> None:
        """Score the test split, unless others still work on the study.

        Args:
            is_done: whether nothing is left to try.
            on_wait: called about ten times a second while the scoring goes on.
        """
        try:
            left_s = self._budget.left_s(time.monotonic())
            with self.lock.acquire(timeout=max(0.0, left_s)):
                self._finish(is_done, on_wait)
        except Timeout:
            self._view.say("another worker scores the test split")

    def _finish(self, is_done: bool, on_wait: Callable[[], None]) -> None:
        with self._shared.lock:
            rows = self._shared.settle()
            standing = self._shared.judge(rows)
            busy = bool(self._shared.running())
        champion, baseline = standing.champion, standing.baseline
        if self._folder.test.exists() or champion is None or baseline is None:
            return
        if not _may_open(rows, standing, is_done=is_done):
            self._view.say(
                "no recipe has beaten the default one yet, so the test split stays "
                "locked and the study open: the same command goes on, with more "
                "--budget-hours or --max-experiments"
            )
            return
        if busy:
            self._view.say("other workers go on; the last one scores the test split")
            return
        # Before the scoring, so that the page is up to date if that fails.
        self._results.write_page()
        self._view.say(f"scoring the test split, once: runs {baseline} and {champion}")
        scores = self._score({"baseline": baseline, "champion": champion}, on_wait)
        if scores is None:
            return
        final = self._compare(champion, baseline, scores)
        if final is None:
            self._view.say("no test scan has a structure that could be scored")
            return
        self._folder.write_test(final)
        self._results.close()

    def _score(
        self, numbers: Mapping[str, int], on_wait: Callable[[], None]
    ) -> Scores | None:
        """Score the models of some runs on the test split, in a process of its own.

        Args:
            numbers: number of each run, by the name of its scores.
            on_wait: called about ten times a second.

        Returns: the scores by these names; None where the scoring failed.
        """
        folders = {name: str(self._folder.run(n)) for name, n in numbers.items()}
        outcome = run_trial(
            self._task.score,
            (folders, self._test),
            wall_s=max(1.0, self._budget.deadline - time.monotonic()),
            memory_bytes=self._budget.memory_bytes,
            log=self._folder.test_log,
            environment=self._environment,
            on_report=lambda _: True,
            on_wait=on_wait,
        )
        if outcome.state != "done":
            self._view.say(
                f"the test split was not scored ({outcome.state}: {outcome.reason}): "
                "the same command tries again"
            )
            return None
        scores: Scores = outcome.result
        return scores

    def _compare(
        self, champion: int, baseline: int, scores: Scores
    ) -> FinalResult | None:
        """Compare champion and baseline; None where they share no scored subject."""
        subjects = {
            name: only_finite(found["subjects"]) for name, found in scores.items()
        }
        shared = sorted({*subjects["champion"]} & {*subjects["baseline"]})
        if not shared:
            return None
        return FinalResult(
            champion=champion,
            baseline=baseline,
            scored=datetime.now(UTC).isoformat(timespec="seconds"),
            figures={
                name: only_finite(found["figures"]) for name, found in scores.items()
            },
            subjects=subjects,
            difference=bootstrap_difference(
                [subjects["champion"][name] for name in shared],
                [subjects["baseline"][name] for name in shared],
                mix_seed(self._shared.settings.seed, "bootstrap"),
            ),
        )


def only_finite(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures without those that are not defined (NaN or infinite)."""
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _may_open(rows: Sequence[Row], standing: Standing, *, is_done: bool) -> bool:
    """Whether the test split may be scored: it has something to decide.

    Some recipe must have been compared with the default one, and either one has beaten
    it or nothing is left to try.
    """
    is_compared = any(r.role == "proposal" and r.state in _COMPARED for r in rows)
    is_beaten = standing.champion != standing.baseline
    return is_compared and (is_beaten or is_done)
