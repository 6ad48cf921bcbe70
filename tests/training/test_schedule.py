"""How long training lasts, the learning rate, and when batch norm settles."""

import math

import numpy as np
import pytest
import torch

from nobrainer.errors import InputError
from nobrainer.recipe import Synthesis
from nobrainer.training.schedule import (
    SETTLED,
    SETTLED_ON_MAPS,
    WARM_UP,
    Budget,
    learning_rate_factor,
)
from recipes import make_recipe
from trainings import STEPS, FailsAt, fit, still


def test_max_minutes_ends_training_with_a_decayed_rate(train):
    fitted = fit(train, epochs=100_000, max_minutes=0.02, opt_args={"lr": 1e-3})
    seconds = sum(row["seconds"] for row in fitted.history_)
    assert 1.2 <= seconds < 4
    assert len(fitted.history_) > 2
    assert fitted.history_[-1]["learning_rate"] < 0.2e-3
    # It falls in all epochs that start after the rise, however fast the machine is.
    starts = np.cumsum([0.0, *(row["seconds"] for row in fitted.history_)])
    rates = [
        row["learning_rate"]
        for row, start in zip(fitted.history_, starts[:-1], strict=True)
        if start >= WARM_UP * 1.2
    ]
    assert len(rates) > 2
    assert rates == sorted(rates, reverse=True)


def test_max_minutes_that_are_over_at_once_make_one_step(train):
    loss = FailsAt()
    fitted = fit(train, epochs=5, max_minutes=1e-9, loss=loss)
    assert loss.calls == 1
    (row,) = fitted.history_
    assert row["loss"] > 0.1


def rates(train, schedule):
    seen = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            seen.append(self.param_groups[0]["lr"])
            return super().step(closure)

    fitted = fit(
        train.batch(4),
        epochs=20,
        optimizer=Watched,
        opt_args={"lr": 0.2},
        schedule=schedule,
    )
    assert [row["learning_rate"] for row in fitted.history_] == seen[1::2]
    return seen


def test_cosine_schedule(train):
    seen = rates(train, "cosine")
    # 40 steps, of which the first 5 % are 2: the rate rises by halves, then decays.
    expected = [0.1 * (1 + math.cos(math.pi * k / 40)) for k in range(40)]
    expected[0] = 0.1
    assert seen == pytest.approx(expected, rel=1e-9)
    assert seen[20] == pytest.approx(0.1)
    assert seen[39] < 0.002 * 0.2


def test_constant_schedule(train):
    assert rates(train, "constant") == [0.2] * 40


@pytest.mark.parametrize(("epochs", "expected"), [(1, 4), (9, 30), (30, 40)])
def test_batch_norm_settles(train, epochs, expected):
    # After a third of the steps, four an epoch, but not before the thirtieth.
    state = still(train, epochs=epochs).model_.state_dict()
    counts = [n for name, n in state.items() if name.endswith("num_batches_tracked")]
    assert set(map(int, counts)) == {expected}


def budget(**changes):
    usual = {"steps": 100, "steps_per_epoch": 30, "seconds": None, "settled": 0.5}
    return Budget(**(usual | changes))


def test_a_budget_of_steps_ends_exactly():
    steps = [budget().steps_of(epoch) for epoch in range(6)]
    assert steps == [30, 30, 30, 10, 0, 0]
    assert not budget().is_over(1e9)


def test_progress_is_by_steps_or_by_time_whichever_is_more():
    timed = budget(seconds=200.0)
    assert budget().progress(25, 1e9) == 0.25
    assert timed.progress(25, 20.0) == 0.25
    assert timed.progress(25, 150.0) == 0.75
    assert [timed.is_over(seconds) for seconds in (199.9, 200.0)] == [False, True]


@pytest.mark.parametrize(
    ("steps", "settled", "at"), [(100, 0.5, 50), (40, 0.5, 30), (100, 0.85, 85)]
)
def test_batch_norm_settles_after_its_share_and_some_batches(steps, settled, at):
    planned = budget(steps=steps, settled=settled)
    assert not planned.is_settled(at - 1, 0.0)
    assert planned.is_settled(at, 0.0)


def test_learning_rate_over_the_whole_budget():
    for progress, expected in (
        (0.0, 0.2),
        (0.03, 0.8 * 0.5 * (1 + math.cos(0.03 * math.pi))),
        (0.04, 0.5 * (1 + math.cos(0.04 * math.pi))),
        (0.5, 0.5),
        (0.75, 0.5 * (1 - math.sqrt(0.5))),
        (1.0, 0.0),
    ):
        found = learning_rate_factor("cosine", progress, 0.01)
        assert found == pytest.approx(expected, abs=1e-12)
        assert learning_rate_factor("constant", progress, 0.01) == 1.0


def test_late_cosine_stays_and_then_falls_over_the_last_35_percent():
    for progress, expected in (
        (0.0, 0.2),
        (0.04, 1.0),
        (0.65, 1.0),
        (0.825, 0.5),
        (0.65 + 0.35 * 0.75, 0.5 * (1 - math.sqrt(0.5))),
        (1.0, 0.0),
    ):
        found = learning_rate_factor("late-cosine", progress, 0.01)
        assert found == pytest.approx(expected, abs=1e-12)


def test_budget_of_a_recipe():
    plain = make_recipe(training={"epochs": 4, "max_minutes": 2.0})
    assert Budget.of(plain, 50) == Budget(200, 50, 120.0, SETTLED)
    short = make_recipe(training={"epochs": 4, "max_minutes": None, "max_steps": 70})
    assert Budget.of(short, 50) == Budget(70, 50, None, SETTLED)
    long = make_recipe(training={"epochs": 4, "max_minutes": None, "max_steps": 900})
    assert Budget.of(long, 50).steps == 200
    endless = make_recipe(training={"epochs": None, "max_steps": 900})
    assert Budget.of(endless, 50).steps == 900


def test_a_budget_of_time_alone():
    timed = Budget.of(make_recipe(training={"epochs": None, "max_minutes": 2.0}), 50)
    assert timed == Budget(None, 50, 120.0, SETTLED)
    assert [timed.steps_of(epoch) for epoch in (0, 10**6)] == [50, 50]
    assert timed.progress(10**6, 30.0) == 0.25
    assert timed.step == 0.0


def test_a_training_without_end_is_refused():
    with pytest.raises(InputError, match="nothing ends the training: give epochs, max"):
        make_recipe(training={"epochs": None, "max_minutes": None})


@pytest.mark.parametrize("n_steps", [2, 10])
def test_max_steps_ends_training_at_that_batch(train, n_steps):
    seen = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            seen.append(self.param_groups[0]["lr"])
            return super().step(closure)

    options = {"optimizer": Watched, "opt_args": {"lr": 0.2}}
    fitted = fit(train, epochs=None, max_steps=n_steps, **options)
    steps = [row["steps"] for row in fitted.history_]
    assert steps == {2: [2], 10: [STEPS, STEPS, 2]}[n_steps]
    # The rate falls over all of them: 0.05 of the ten steps is less than one.
    decayed = [0.1 * (1 + math.cos(math.pi * k / n_steps)) for k in range(n_steps)]
    assert seen == pytest.approx(decayed, rel=1e-9)
    assert fitted.recipe_.training.epochs is None


def test_the_last_of_max_steps_takes_what_is_accumulated(train):
    seen = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            seen.append(1)
            return super().step(closure)

    fit(
        *(train,),
        epochs=None,
        max_steps=STEPS + 3,
        accumulate=2,
        optimizer=Watched,
        opt_args={"lr": 0.1},
    )
    # Two in the whole epoch; then one of two batches and one of the batch that is left.
    assert len(seen) == 4


def test_batch_norm_settles_late_on_images_of_random_contrast():
    maps = make_recipe(data={"synthesis": Synthesis()})
    assert Budget.of(maps, 50).settled == SETTLED_ON_MAPS == 0.85
