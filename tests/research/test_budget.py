"""What a study may spend: planned minutes and limits, computed without a clock."""

import math

import pytest

from landscape_study import settings, values
from nobrainer.research.budget import (
    MARGIN_S,
    Budget,
    describe_shortage,
    ending_s,
    plan_train_minutes,
)
from nobrainer.research.journal import Row


def ended(seconds: float, judge_s: float = 0.0, state: str = "done") -> Row:
    figures = {"judge_s": judge_s}
    return Row(
        0, "proposal", 0, values(), 0, "list", state=state, figures=figures,
        seconds=seconds,
    )  # fmt: skip


def budget(deadline: float = 1000.0, run_s: float | None = None) -> Budget:
    return Budget(deadline, max_experiments=5, memory_bytes=10**9, run_s=run_s)


@pytest.mark.parametrize(
    ("budget", "wanted", "each"),
    [
        # 0.9 * 480 min in 15 + 1 + 3 runs, less five minutes.
        (480, 15, 17.736),
        # 0.9 * 60 in 19 runs, less a third.
        (60, 15, 1.894),
        # 10.8 min hold ten runs of a minute: 7 recipes, the repeats of them counted.
        (12, 15, 0.58),
        # Too short for two recipes: a third of a fourth of two minutes.
        (3, 15, 0.166),
    ],
)
def test_trainings_are_as_long_as_the_budget_allows(
    budget: float, wanted: int, each: float
) -> None:
    assert plan_train_minutes(budget, wanted) == each


@pytest.mark.parametrize(
    ("budget", "minutes", "said"),
    [
        (480, 17.736, None),
        (60, 1.894, None),
        (12, 0.58, "holds about 7 of 15 recipes"),
        (3, 0.166, "no more than the default recipe"),
        # 54 min hold four runs of 13.5, less 4.5: two recipes.
        (60, 9, "holds about 2 of 15 recipes"),
        (1, None, None),
    ],
)
def test_a_short_budget_is_told_before_the_first_run(
    budget: float, minutes: float | None, said: str | None
) -> None:
    text = describe_shortage(budget, 15, minutes)
    assert (text is None) == (said is None)
    if said is not None:
        assert said in str(text)


def test_what_is_left_ends_before_the_deadline() -> None:
    assert budget(1000.0).left_s(now=400.0) == 600.0 - MARGIN_S
    assert budget(1000.0).left_s(now=1001.0) == -1.0 - MARGIN_S


@pytest.mark.parametrize(
    ("run_s", "train_minutes", "cap_s"),
    [
        (None, None, math.inf),
        (90.0, None, 90.0),
        # Twice the training, and ten minutes.
        (None, 20.0, 3000.0),
        (90.0, 20.0, 90.0),
        (9000.0, 20.0, 3000.0),
    ],
)
def test_a_run_has_the_least_of_its_caps(
    run_s: float | None, train_minutes: float | None, cap_s: float
) -> None:
    assert budget(run_s=run_s).cap_s(train_minutes) == cap_s


def test_the_end_is_kept_free_for_two_models_on_the_test_split() -> None:
    sizes = settings(n_validate=4, n_test=8)
    assert ending_s([], sizes) == 45.0
    assert ending_s([ended(100, judge_s=2.0)], sizes) == 45.0
    # The slowest run was judged in 50 s, on half as many subjects: 2 x 100 s and 30 %.
    rows = [ended(100, judge_s=10.0), ended(100, judge_s=50.0)]
    assert ending_s(rows, sizes) == 30 + 1.3 * 200
    assert budget(1000.0).run_s_left(rows, sizes, now=500.0) == 500 - MARGIN_S - 290


@pytest.mark.parametrize(("now", "holds"), [(829.0, True), (831.0, False)])
def test_another_run_must_fit_with_a_fifth_to_spare(now: float, holds: bool) -> None:
    # The median of 90, 100 and 300 s takes 120 s; 45 s and 5 s are kept.
    rows = [ended(300), ended(90), ended(100), ended(1.0, state="crash")]
    assert budget(1000.0).holds_another(rows, settings(), now) is holds


def test_the_first_run_always_tries() -> None:
    assert budget(1000.0).holds_another([], settings(), now=999.0)
    failed = [ended(500, state="timeout")]
    assert budget(1000.0).holds_another(failed, settings(), now=999.0)
