"""What a study may spend: length of each training, limits of a run, time for the end.

Nothing here reads a clock or looks at a process: the time is an argument.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nobrainer.research.journal import Row
from nobrainer.research.records import Settings

MARGIN_S = 5.0
"""How many seconds before its deadline a worker stops."""
_LEAST_MINUTES = 0.5
"""Minutes of the shortest training that is worth comparing; starting and judging a run
takes at least as long."""
_MOST_OVERHEAD_MINUTES = 5.0
_LEAST_ENDING_S = 45.0
"""Seconds that are kept for scoring the test split, at least."""


@dataclass(frozen=True)
class Budget:
    """What one worker may spend on a study.

    deadline: time at which it ends, in seconds of `time.monotonic`.
    max_experiments: number of distinct recipes to try, the baseline among them.
    memory_bytes: main memory that a run may use.
    run_s: seconds that a run may take, judging included; None where the length of its
        training alone limits it.
    """

    deadline: float
    max_experiments: int
    memory_bytes: int
    run_s: float | None = None

    def left_s(self, now: float) -> float:
        """Seconds that are left until `MARGIN_S` before the deadline.

        Args:
            now: the time, in seconds of `time.monotonic`.
        """
        return self.deadline - MARGIN_S - now

    def cap_s(self, train_minutes: float | None) -> float:
        """Most seconds that a run may take; infinite where nothing limits it.

        Args:
            train_minutes: minutes of each training; None where the epochs end it.
        """
        limits = [math.inf]
        if self.run_s is not None:
            limits.append(self.run_s)
        if train_minutes is not None:
            limits.append(120 * train_minutes + 600)
        return min(limits)

    def run_s_left(self, rows: Sequence[Row], settings: Settings, now: float) -> float:
        """Seconds that are left for runs, without those kept for the test split.

        Args:
            rows: rows of the runs that have ended.
            settings: settings of the study.
            now: the time, in seconds of `time.monotonic`.
        """
        return self.left_s(now) - ending_s(rows, settings)

    def holds_another(
        self, rows: Sequence[Row], settings: Settings, now: float
    ) -> bool:
        """Whether one more run could end in time; always true before the first one.

        Args:
            rows: rows of the runs that have ended.
            settings: settings of the study.
            now: the time, in seconds of `time.monotonic`.
        """
        times = sorted(row.seconds for row in rows if row.state == "done")
        if not times:
            return True
        typical = times[len(times) // 2]
        # With a margin, since runs differ and one that is cut off at its end is lost.
        return self.run_s_left(rows, settings, now) >= 1.2 * typical


def ending_s(rows: Sequence[Row], settings: Settings) -> float:
    """Estimate the seconds that scoring the test split will take, with a margin.

    Two models are scored; each is assumed to take as long for a subject as the slowest
    run took on the validation split.

    Args:
        rows: rows of the runs that have ended.
        settings: settings of the study, which have the numbers of subjects.
    """
    slowest = max((row.figures.get("judge_s", 0.0) for row in rows), default=0.0)
    share = settings.n_test / max(1, settings.n_validate)
    return max(_LEAST_ENDING_S, 30 + 1.3 * 2 * slowest * share)


def plan_train_minutes(budget_minutes: float, max_experiments: int) -> float:
    """Plan the minutes of each training so that the runs end within the budget.

    Where the budget leaves less than half a minute for each training, fewer recipes
    than wanted are planned for, but at least two.

    Args:
        budget_minutes: minutes of the budget.
        max_experiments: number of distinct recipes that are wanted.

    Returns: minutes of each training, rounded down to a thousandth.
    """
    n_recipes = max(2, count_fitting(budget_minutes, max_experiments, _LEAST_MINUTES))
    run = _usable(budget_minutes) / _count_runs(min(n_recipes, max_experiments))
    # Rounded up, the trainings might not fit into the budget.
    return math.floor(1000 * max(run - _overhead(run), run / 3)) / 1000


def count_fitting(budget_minutes: float, wanted: int, train_minutes: float) -> int:
    """How many of the wanted recipes fit into a budget.

    Args:
        budget_minutes: minutes of the budget.
        wanted: number of recipes to try.
        train_minutes: minutes of each training.
    """
    for n_recipes in range(wanted, 0, -1):
        run = _usable(budget_minutes) / _count_runs(n_recipes)
        if run - _overhead(run) >= train_minutes:
            return n_recipes
    return 0


def describe_shortage(
    budget_minutes: float, wanted: int, train_minutes: float | None
) -> str | None:
    """Say in a sentence that a budget is too short for what is wanted.

    Args:
        budget_minutes: minutes of the budget.
        wanted: number of recipes to try.
        train_minutes: minutes of each training; None where the epochs end it, so that
            nothing can be said.

    Returns: the sentence; None where the budget is long enough, or that is not known.
    """
    if train_minutes is None:
        return None
    n_fitting = count_fitting(budget_minutes, wanted, train_minutes)
    if n_fitting >= wanted:
        return None
    what = f"about {n_fitting} of {wanted} recipes"
    if n_fitting < 2:
        what = "no more than the default recipe, which will be compared with nothing"
    return (
        f"the budget of {budget_minutes:.3g} min is short: with trainings of "
        f"{train_minutes:.2g} min, second seeds and judging it holds {what}: "
        "give more --budget-hours for more"
    )


def _usable(budget_minutes: float) -> float:
    """Minutes for runs: a tenth, or at least a minute, is kept for the test split."""
    return max(min(0.9 * budget_minutes, budget_minutes - 1), budget_minutes / 3)


def _overhead(run_minutes: float) -> float:
    """Minutes that a run spends on starting, validating and judging."""
    return min(max(run_minutes / 3, _LEAST_MINUTES), _MOST_OVERHEAD_MINUTES)


def _count_runs(n_recipes: int) -> int:
    """Number of runs: each recipe once, the baseline and a fifth of them twice."""
    return n_recipes + 1 + math.ceil(n_recipes / 5)
