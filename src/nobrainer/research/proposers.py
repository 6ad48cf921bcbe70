"""What to try next: random, grid, TPE, a language model, or a mix of the last two."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler, TPESampler

from nobrainer.bayes.draws import mix_seed
from nobrainer.errors import InputError
from nobrainer.registry import Registry
from nobrainer.research.chat import AnswerError
from nobrainer.research.endpoint import Endpoint
from nobrainer.research.journal import Row
from nobrainer.research.llm import ask_for_values
from nobrainer.research.optuna_study import to_distributions, to_study
from nobrainer.research.ranges import Choice, Float, Integer, Range
from nobrainer.research.space import Space

MODEL_SHARE = 0.3
"""Largest share of the proposals of `mixed` for which the language model is asked."""
_MODEL_FAILED = "language model failed"
_N_RANDOM = 5
_TPE_TRIES = 20
_RANDOM_TRIES = 2000
_N_GRID = 4
_MOST_GRID_POINTS = 1_000_000


@dataclass(frozen=True)
class Proposal:
    """Values to try.

    values: a value inside its range for each parameter of the space.
    proposer: name of the proposer that found them.
    note: what it says about them, in one line; "" for nothing.
    """

    values: dict[str, Any]
    proposer: str
    note: str = ""


Proposer = Callable[[Space, Sequence[Row], Sequence[str], int], Proposal | None]
"""Takes the space, the rows of all runs, the names of the objectives and a seed;
returns what to try next, or None where all values of the space have been tried."""

PROPOSERS: Registry[Callable[[], Proposer]] = Registry("proposer")
"""Functions that make a proposer, by its name; they raise `InputError` where the
proposer needs a language model and the environment names none."""


@PROPOSERS.register("random")
def _make_random() -> Proposer:
    return propose_random


@PROPOSERS.register("grid")
def _make_grid() -> Proposer:
    return propose_grid


@PROPOSERS.register("tpe")
def _make_tpe() -> Proposer:
    return propose_tpe


@PROPOSERS.register("llm")
def _make_llm() -> Proposer:
    endpoint = Endpoint.from_environment(os.environ)

    def propose(
        space: Space, rows: Sequence[Row], objectives: Sequence[str], seed: int
    ) -> Proposal | None:
        return propose_by_model(endpoint, space, rows, objectives, seed)

    return propose


@PROPOSERS.register("mixed")
def _make_mixed() -> Proposer:
    endpoint = Endpoint.from_environment(os.environ)

    def propose(
        space: Space, rows: Sequence[Row], objectives: Sequence[str], seed: int
    ) -> Proposal | None:
        if _is_models_turn(rows):
            return propose_by_model(endpoint, space, rows, objectives, seed)
        return propose_tpe(space, rows, objectives, seed)

    return propose


def propose_random(
    space: Space, rows: Sequence[Row], objectives: Sequence[str], seed: int
) -> Proposal | None:
    """Draw values uniformly from their ranges, on a log scale where the range says so.

    Args:
        space: the space that is searched.
        rows: rows of all runs of the study; their values are not proposed again.
        objectives: names of `OBJECTIVES`; they play no part here.
        seed: seed of the draw.

    Returns: new values; None where all of the space have been tried.
    """
    taken = _tried(space, rows)
    if len(taken) >= _count_points(space):
        return None
    study = optuna.create_study(sampler=RandomSampler(seed=seed % 2**32))
    values = _ask_for_new(study, to_distributions(space), taken, _RANDOM_TRIES)
    return None if values is None else Proposal(values, "random")


def propose_tpe(
    space: Space, rows: Sequence[Row], objectives: Sequence[str], seed: int
) -> Proposal | None:
    """Propose values like the best ones so far and unlike the rest; random at first.

    Args:
        space: the space that is searched.
        rows: rows of all runs of the study, from which it learns.
        objectives: names of `OBJECTIVES` by which runs are judged.
        seed: seed of the search for the most promising values.

    Returns: new values; None where all of the space have been tried.

    Source: Watanabe 2023, Tree-Structured Parzen Estimator,
    https://arxiv.org/abs/2304.11127, as Optuna implements it.
    """
    taken = _tried(space, rows)
    if len(taken) >= _count_points(space):
        return None
    study = to_study(space, rows, objectives)
    # Without any trained recipe TPE would take the least bad failure for a good one.
    is_blind = not any(row.state == "done" for row in rows)
    study.sampler = TPESampler(
        n_startup_trials=len(rows) + 1 if is_blind else _N_RANDOM,
        seed=seed % 2**32,
        multivariate=True,
    )
    ranges = to_distributions(space)
    values = _ask_for_new(study, ranges, taken, _TPE_TRIES)
    if values is not None:
        return Proposal(values, "tpe")
    study = optuna.create_study(sampler=RandomSampler(seed=seed % 2**32))
    values = _ask_for_new(study, ranges, taken, _RANDOM_TRIES)
    note = "random: all near are tried"
    return None if values is None else Proposal(values, "tpe", note)


def propose_grid(
    space: Space, rows: Sequence[Row], objectives: Sequence[str], seed: int
) -> Proposal | None:
    """Propose the next point of a grid that no run has tried.

    The grid has all choices, and up to four numbers of each other range, both of its
    ends included. Its points come in a random order that depends on the space alone.

    Args:
        space: the space that is searched.
        rows: rows of all runs of the study; their values are not proposed again.
        objectives, seed: not used; every proposer takes them.

    Returns: new values; None where the whole grid has been tried.

    Raises:
        InputError: the grid has more than a million points.
    """
    axes = [_grid_axis(space.ranges[name]) for name in space.ranges]
    n_points = math.prod(len(axis) for axis in axes)
    if n_points > _MOST_GRID_POINTS:
        raise InputError(
            f"grid must have at most {_MOST_GRID_POINTS} points, got {n_points}: "
            "narrow the space or take the proposer 'random'"
        )
    taken = _tried(space, rows)
    order = np.random.default_rng(mix_seed(0, "grid", space.to_toml()))
    for point in order.permutation(n_points):
        places = np.unravel_index(point, [len(axis) for axis in axes])
        picks = [axis[place] for axis, place in zip(axes, places, strict=True)]
        values = dict(zip(space.ranges, picks, strict=True))
        if _key(space.ranges, values) not in taken:
            return Proposal(values, "grid")
    return None


def propose_by_model(
    endpoint: Endpoint,
    space: Space,
    rows: Sequence[Row],
    objectives: Sequence[str],
    seed: int,
) -> Proposal | None:
    """Propose the values that a language model names, or those of TPE where it fails.

    Args:
        endpoint: the language model and how to reach it.
        space: the space that is searched.
        rows: rows of all runs of the study, which the model is shown.
        objectives: names of `OBJECTIVES` by which runs are judged.
        seed: seed of TPE, if it is needed.

    Returns: new values, where the model failed with a note that says why; None where
        all of the space have been tried.
    """
    taken = _tried(space, rows)
    if len(taken) >= _count_points(space):
        return None
    try:
        values, reason = ask_for_values(
            endpoint,
            space,
            rows,
            objectives,
            is_new=lambda values: _key(space.ranges, values) not in taken,
        )
    except AnswerError as error:
        proposal = propose_tpe(space, rows, objectives, seed)
        note = f"{_MODEL_FAILED}: {error}; tpe instead"
        return proposal and Proposal(proposal.values, "tpe", note)
    return Proposal(values, "llm", reason)


def _is_models_turn(rows: Sequence[Row]) -> bool:
    """Whether the model may be asked now within its share; failed calls count, too."""
    proposals = [row for row in rows if row.role == "proposal"]
    asked = sum(
        row.proposer == "llm" or row.note.startswith(_MODEL_FAILED) for row in proposals
    )
    return len(proposals) >= _N_RANDOM and asked + 1 <= MODEL_SHARE * (
        len(proposals) + 1
    )


def _grid_axis(span: Range) -> list[Any]:
    """The values of a parameter on the grid; numbers in rising order."""
    if isinstance(span, Choice):
        return list(span.values)
    spaced = np.geomspace if span.log else np.linspace
    if isinstance(span, Float):
        return [float(v) for v in spaced(span.low, span.high, _N_GRID)]
    if span.high - span.low < _N_GRID:
        return list(range(span.low, span.high + 1))
    return sorted({round(float(v)) for v in spaced(span.low, span.high, _N_GRID)})


def _count_points(space: Space) -> float:
    """How many points the space holds; infinite where a parameter is a float."""
    counts: list[float] = []
    for span in space.ranges.values():
        match span:
            case Choice(values):
                counts.append(len(values))
            case Integer(low, high):
                counts.append(high - low + 1)
            case Float():
                counts.append(math.inf)
    return math.prod(counts)


def _key(ranges: Iterable[str], values: Mapping[str, Any]) -> tuple[Any, ...]:
    """The values in the order of the ranges' names, to compare them by."""
    return tuple(values[name] for name in ranges)


def _tried(space: Space, rows: Sequence[Row]) -> set[tuple[Any, ...]]:
    """The values that need not be tried again: of all runs that were not lost."""
    return {
        _key(space.ranges, row.values)
        for row in rows
        if row.state != "lost" and space.ranges.keys() <= row.values.keys()
    }


def _ask_for_new(
    study: optuna.Study,
    ranges: dict[str, BaseDistribution],
    taken: set[tuple[Any, ...]],
    n_tries: int,
) -> dict[str, Any] | None:
    """Ask the study until it names values that were not tried.

    Each answer counts as under way from then on, which keeps TPE from repeating it.
    """
    for _ in range(n_tries):
        values = study.ask(ranges).params
        if _key(ranges, values) not in taken:
            return values
    return None
