"""What to try next: random, grid, TPE, a language model, or a mix of the last two."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
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
"""At most this share of the proposals of `mixed` is asked of the language model."""
_MODEL_FAILED = "language model failed"
_N_RANDOM = 5
_TPE_TRIES = 20
_RANDOM_TRIES = 2000
_N_GRID = 4
_MOST_GRID_POINTS = 1_000_000


@dataclass(frozen=True)
class Proposal:
    """Values to try, complete and inside the space.

    proposer: who proposed them; note: what they said of it, in one line.
    """

    values: dict[str, Any]
    proposer: str
    note: str = ""


Proposer = Callable[[Space, Sequence[Row], Sequence[str], int], Proposal | None]
"""(space, rows, objectives, seed) -> what to try; None where all has been tried."""

PROPOSERS: Registry[Callable[[], Proposer]] = Registry("proposer")
"""Makes a proposer; raises `InputError` where it needs a language model and the
environment names none."""


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
    """Values drawn uniformly from their ranges (of their logarithm where log)."""
    taken = _tried(space, rows)
    if len(taken) >= _count_points(space):
        return None
    study = optuna.create_study(sampler=RandomSampler(seed=seed % 2**32))
    values = _ask_for_new(study, space, taken, _RANDOM_TRIES)
    return None if values is None else Proposal(values, "random")


def propose_tpe(
    space: Space, rows: Sequence[Row], objectives: Sequence[str], seed: int
) -> Proposal | None:
    """Values that look like the best ones so far and unlike the rest; random at first.

    Source: Watanabe 2023, Tree-Structured Parzen Estimator,
    https://arxiv.org/abs/2304.11127, as Optuna implements it.
    """
    taken = _tried(space, rows)
    if len(taken) >= _count_points(space):
        return None
    study = to_study(space, rows, objectives)
    # Without any trained recipe TPE would take the least bad failure for good.
    is_blind = not any(row.state == "done" for row in rows)
    study.sampler = TPESampler(
        n_startup_trials=len(rows) + 1 if is_blind else _N_RANDOM,
        seed=seed % 2**32,
        multivariate=True,
    )
    values = _ask_for_new(study, space, taken, _TPE_TRIES)
    if values is not None:
        return Proposal(values, "tpe")
    elsewhere = propose_random(space, rows, objectives, seed)
    return elsewhere and Proposal(elsewhere.values, "tpe", "random: all near are tried")


def propose_grid(
    space: Space, rows: Sequence[Row], objectives: Sequence[str], seed: int
) -> Proposal | None:
    """The first point of the grid that is in no row; the order is the space's own.

    All choices, and up to four numbers of each other range, both its ends included.

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
        if _key(space, values) not in taken:
            return Proposal(values, "grid")
    return None


def propose_by_model(
    endpoint: Endpoint,
    space: Space,
    rows: Sequence[Row],
    objectives: Sequence[str],
    seed: int,
) -> Proposal | None:
    """Values that a language model names; TPE's, with a note why, where it fails."""
    taken = _tried(space, rows)
    if len(taken) >= _count_points(space):
        return None
    try:
        values, reason = ask_for_values(
            endpoint,
            space,
            rows,
            objectives,
            is_new=lambda values: _key(space, values) not in taken,
        )
    except AnswerError as error:
        proposal = propose_tpe(space, rows, objectives, seed)
        note = f"{_MODEL_FAILED}: {error}; tpe instead"
        return proposal and Proposal(proposal.values, "tpe", note)
    return Proposal(values, "llm", reason)


def _is_models_turn(rows: Sequence[Row]) -> bool:
    """Whether asking the model now keeps it within its share, failures included."""
    proposals = [row for row in rows if row.role == "proposal"]
    asked = sum(
        row.proposer == "llm" or row.note.startswith(_MODEL_FAILED) for row in proposals
    )
    return len(proposals) >= _N_RANDOM and asked + 1 <= MODEL_SHARE * (
        len(proposals) + 1
    )


def _grid_axis(span: Range) -> list[Any]:
    """The values of a parameter on the grid, rising."""
    if isinstance(span, Choice):
        return list(span.values)
    spaced = np.geomspace if span.log else np.linspace
    if isinstance(span, Float):
        return [float(v) for v in spaced(span.low, span.high, _N_GRID)]
    if span.high - span.low < _N_GRID:
        return list(range(span.low, span.high + 1))
    return sorted({round(float(v)) for v in spaced(span.low, span.high, _N_GRID)})


def _count_points(space: Space) -> float:
    """How many different values the space holds; infinite where one is a float."""
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


def _key(space: Space, values: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(values[name] for name in space.ranges)


def _tried(space: Space, rows: Sequence[Row]) -> set[tuple[Any, ...]]:
    """What need not be tried again: all that is complete and was not lost."""
    return {
        _key(space, row.values)
        for row in rows
        if row.state != "lost" and space.ranges.keys() <= row.values.keys()
    }


def _ask_for_new(
    study: optuna.Study, space: Space, taken: set[tuple[Any, ...]], n_tries: int
) -> dict[str, Any] | None:
    """Ask the study until it names values that were not tried.

    Each answer counts as under way from then on, which keeps TPE from repeating it.
    """
    ranges = to_distributions(space)
    for _ in range(n_tries):
        values = study.ask(ranges).params
        if _key(space, values) not in taken:
            return values
    return None
