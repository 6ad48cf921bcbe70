"""What is proposed next, on functions whose best values are known."""

import itertools
import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from nobrainer.bayes.draws import mix_seed
from nobrainer.errors import InputError
from nobrainer.research.journal import INFEASIBLE, STATES, Row
from nobrainer.research.optuna_study import to_study
from nobrainer.research.proposers import (
    MODEL_SHARE,
    PROPOSERS,
    Proposer,
    propose_grid,
    propose_random,
    propose_tpe,
)
from nobrainer.research.ranges import Choice, Float, Integer, Range
from nobrainer.research.space import Space, family_space

SPACE = family_space("bayesian_vnet")
SMALL = Space("vnet", {"levels": Choice((2, 3, 4)), "base_filters": Integer(8, 11)})
DICE = ("dice",)
KNOWN = {"base_filters": 16, "levels": 3, "prior_type": "standard_normal"}
KNOWN |= {"dropout_rate": 0.0, "learning_rate": 1e-3, "block_shape": "32x32x32"}
WITHOUT_MODEL = ("random", "grid", "tpe")
PROVIDER = "NOBRAINER_LLM_PROVIDER"
Judge = Callable[[dict[str, Any]], tuple[str, float]]


def row(number: int, values: dict[str, Any], dice: float = 0.5, **more: Any) -> Row:
    told: dict[str, Any] = {"role": "proposal", "of": number, "state": "done"} | more
    if told["state"] == "done":
        told["figures"] = {"dice": dice, "nll": 1 - dice}
    return Row(number=number, values=values, seed=0, proposer="", **told)


def play(
    propose: Proposer, judge: Judge, seed: int, n: int, *, parallel: int = 1
) -> list[Row]:
    """Run a study of `n` recipes; the first is the baseline, without kl_weight."""
    rows = [row(0, KNOWN, judge(KNOWN | {"kl_weight": 1e-3})[1], role="baseline")]
    while len(rows) < n:
        begun: list[Row] = []
        for _ in range(parallel):
            number = len(rows) + len(begun)
            known = [*rows, *begun]
            proposal = propose(SPACE, known, DICE, mix_seed(seed, number))
            assert proposal is not None
            begun.append(row(number, proposal.values, state="running"))
        for each in begun:
            state, dice = judge(each.values)
            rows.append(row(each.number, each.values, dice, state=state))
    return rows


def true_dice(values: dict[str, Any]) -> float:
    """Best, 0.9, at base_filters 32, levels 3, learning rate 10^-2.8, small kl_weight.

    Of two of the parameters nothing depends.
    """
    rate, weight = (math.log10(values[n]) for n in ("learning_rate", "kl_weight"))
    dice = 0.9 - 0.06 * (rate + 2.8) ** 2 - 0.02 * max(0, weight + 4) ** 2
    dice -= 0.02 * (5 - math.log2(values["base_filters"]))
    return dice - 0.015 * abs(values["levels"] - 3) - 0.1 * values["dropout_rate"]


def noisy_judge(seed: int) -> Judge:
    noise = np.random.default_rng(seed)
    return lambda values: ("done", true_dice(values) + noise.normal(0, 0.005))


def test_tpe_beats_random_on_a_noisy_function() -> None:
    def regret(propose: Proposer, seed: int) -> float:
        rows = play(propose, noisy_judge(seed), seed, 25)
        best = max(rows[1:], key=lambda r: r.figures["dice"])
        return 0.9 - true_dice(best.values)

    tpe = [regret(propose_tpe, seed) for seed in range(15)]
    random = [regret(propose_random, seed) for seed in range(15)]
    assert median(tpe) < 0.67 * median(random)
    assert sum(t < r for t, r in zip(tpe, random, strict=True)) >= 10


@pytest.mark.parametrize("state", INFEASIBLE)
def test_tpe_keeps_away_from_what_cannot_be_trained(state: str) -> None:
    """Where wide networks fail, random search still tries them a third of the time."""

    def judge(values: dict[str, Any]) -> tuple[str, float]:
        return (state if values["base_filters"] == 32 else "done"), true_dice(values)

    def share(propose: Proposer) -> float:
        late = [r for seed in range(4) for r in play(propose, judge, seed, 24)[8:]]
        return sum(r.values["base_filters"] == 32 for r in late) / len(late)

    assert share(propose_tpe) < 0.15 < 0.25 < share(propose_random)


def test_tpe_is_random_while_nothing_could_be_trained() -> None:
    rows = [
        row(i, propose_random(SPACE, [], DICE, i).values, state="memory")  # type: ignore[union-attr]
        for i in range(12)
    ]
    proposals = [propose_tpe(SPACE, rows, DICE, seed) for seed in range(40)]
    wide = [p.values["base_filters"] for p in proposals if p]
    assert {wide.count(n) > 6 for n in (8, 16, 32)} == {True}


@pytest.mark.parametrize("objectives", [DICE, ("nll",), ("dice", "nll")])
def test_tpe_takes_every_state_and_objective(objectives: Sequence[str]) -> None:
    rows = [row(0, KNOWN, role="baseline"), row(1, KNOWN, role="repeat", of=0)]
    for number, state in enumerate([*STATES] * 2, 2):
        values = propose_random(SPACE, rows, DICE, number).values  # type: ignore[union-attr]
        curve = ((0.25, 0.1), (0.5, 0.2))
        rows.append(row(number, values, 0.01 * number, state=state, curve=curve))
    proposal = propose_tpe(SPACE, rows, objectives, 0)
    assert proposal is not None
    assert SPACE.check(proposal.values) == proposal.values


def test_tpe_minimises_what_is_to_be_small() -> None:
    rows = [row(i, {"levels": 2 + i % 3, "base_filters": 8}, 0.0) for i in range(12)]
    rows = [
        row(r.number, r.values, {2: 0.9, 3: 0.5, 4: 0.5}[r.values["levels"]])
        for r in rows
    ]
    for objective in ("dice", "nll"):
        proposals = [propose_tpe(SMALL, rows, (objective,), seed) for seed in range(10)]
        # nll is 1 - dice here: two levels are best by both.
        assert sum(p.values["levels"] == 2 for p in proposals if p) >= 7


def test_a_study_has_a_trial_for_each_recipe() -> None:
    values = KNOWN | {"kl_weight": 1e-3}
    rows = [
        row(0, KNOWN, 0.5, role="baseline", curve=((0.5, 0.25), (1.0, 0.5))),
        row(1, KNOWN, 0.6, role="repeat", of=0),
        row(2, values | {"levels": 2}, state="pruned", curve=((0.254, 0.1),)),
        row(3, values | {"levels": 4}, state="memory"),
        row(4, values | {"base_filters": 8}, state="lost"),
        row(5, values | {"base_filters": 32}, state="running"),
        row(6, values | {"dropout_rate": 0.25}, 0.7),
        row(7, values | {"dropout_rate": 0.25}, state="crash", role="repeat", of=6),
    ]
    trials = to_study(SPACE, rows, DICE).trials
    assert [t.user_attrs["run"] for t in trials] == [0, 2, 3, 5, 6]
    complete, pruned, running = (
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.RUNNING,
    )
    assert [t.state for t in trials] == [complete, pruned, pruned, running, complete]
    assert trials[0].value == pytest.approx(0.55)  # over both seeds
    assert trials[4].value == 0.7  # that its repeat crashed changes nothing
    assert trials[0].params == KNOWN
    assert trials[0].intermediate_values == {50: 0.25, 100: 0.5}
    assert trials[1].intermediate_values == {25: 0.1}
    assert [any(c > 0 for c in t.constraints.values()) for t in trials] == [
        False,
        False,
        True,
        False,
        False,
    ]
    both = to_study(SPACE, rows, ("dice", "nll"))
    assert both.trials[0].values == pytest.approx([0.55, 0.45])
    assert [d.name for d in both.directions] == ["MAXIMIZE", "MINIMIZE"]


@pytest.mark.parametrize("name", WITHOUT_MODEL)
def test_proposers_are_functions_of_what_they_are_given(name: str) -> None:
    rows = play(propose_random, noisy_judge(0), 0, 10)
    first, again, other = (
        PROPOSERS[name]()(SPACE, list(rows), DICE, seed) for seed in (5, 5, 6)
    )
    assert first == again
    assert (first == other) == (name == "grid")
    assert first is not None and first.proposer == name
    assert SPACE.check(first.values) == first.values


@pytest.mark.parametrize("name", WITHOUT_MODEL)
def test_every_point_is_proposed_once_and_then_none(name: str) -> None:
    """Values that failed or are under way are not proposed again; lost ones are."""
    rows: list[Row] = []
    states = itertools.cycle(("done", "memory", "running", "pruned"))
    while proposal := PROPOSERS[name]()(SMALL, rows, DICE, mix_seed(0, len(rows))):
        dice = proposal.values["levels"] / 10
        rows.append(row(len(rows), proposal.values, dice, state=next(states)))
    assert len(rows) == 12
    assert len({tuple(r.values.values()) for r in rows}) == 12
    lost = row(5, rows[5].values, state="lost")
    again = PROPOSERS[name]()(SMALL, [*rows[:5], lost, *rows[6:]], DICE, 0)
    assert again is not None and again.values == lost.values


@pytest.mark.parametrize("name", WITHOUT_MODEL)
def test_workers_side_by_side_try_different_values(name: str) -> None:
    rows = play(PROPOSERS[name](), noisy_judge(1), 1, 20, parallel=4)
    values = [tuple(r.values.values()) for r in rows]
    assert len({*values}) == len(values)


def test_tpe_spreads_the_runs_that_are_under_way() -> None:
    """Eight runs at once differ more than eight that do not know of each other."""
    rows = play(propose_random, noisy_judge(3), 3, 15)

    def width(*, aware: bool) -> float:
        begun: list[Row] = []
        for seed in range(8):
            known = [*rows, *begun] if aware else rows
            proposal = propose_tpe(SPACE, known, DICE, seed)
            assert proposal is not None
            begun.append(row(20 + seed, proposal.values, state="running"))
        names = [n for n in SPACE.ranges if n not in ("kl_weight", "learning_rate")]
        return len({tuple(r.values[n] for n in names) for r in begun})

    assert width(aware=True) > width(aware=False)


def test_random_is_uniform_or_uniform_in_the_logarithm() -> None:
    ranges = {"flat": Float(0, 1), "log": Float(1e-4, 1, log=True)}
    space = Space(
        "vnet", {**ranges, "whole": Integer(1, 4), "word": Choice(("a", "b"))}
    )
    drawn = [propose_random(space, [], DICE, seed) for seed in range(400)]
    values = [p.values for p in drawn if p]
    assert sum(v["flat"] < 0.5 for v in values) / 400 == pytest.approx(0.5, abs=0.08)
    assert sum(v["log"] < 1e-2 for v in values) / 400 == pytest.approx(0.5, abs=0.08)
    for whole in range(1, 5):
        share = sum(v["whole"] == whole for v in values) / 400
        assert share == pytest.approx(0.25, abs=0.08)


def test_grid_covers_all_choices_and_both_ends_in_an_order_of_its_own() -> None:
    ranges: dict[str, Range] = {"a": Float(0, 3), "b": Float(1e-3, 1, log=True)}
    ranges |= {"c": Integer(1, 1000)}
    space = Space("vnet", ranges | {"d": Choice((True, False))})
    rows: list[Row] = []
    while proposal := propose_grid(space, rows, DICE, len(rows)):
        rows.append(row(len(rows), proposal.values))
    expected = itertools.product(
        (0, 1, 2, 3), (1e-3, 1e-2, 1e-1, 1), (1, 334, 667, 1000), (True, False)
    )
    found = sorted(tuple(r.values.values()) for r in rows)
    assert len(found) == 4 * 4 * 4 * 2
    np.testing.assert_allclose(found, sorted(expected))
    assert [tuple(r.values.values()) for r in rows] != found  # shuffled
    with pytest.raises(InputError, match="1048576: narrow the space"):
        propose_grid(
            Space("vnet", {f"p{i}": Float(0, 1) for i in range(10)}), [], DICE, 0
        )


def test_unknown_proposers_and_those_without_a_model_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(InputError, match="did you mean 'tpe'"):
        PROPOSERS["tpee"]
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", PROVIDER):
        monkeypatch.delenv(name, raising=False)
    for name in ("llm", "mixed"):
        with pytest.raises(InputError, match="OPENAI_API_KEY or ANTHROPIC_API_KEY"):
            PROPOSERS[name]()
    assert MODEL_SHARE == 0.3
