"""Conversion of a study to Optuna: ranges, directions, and rows as trials."""

from collections.abc import Sequence

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import RandomSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from nobrainer.glossary import OF_RUNS
from nobrainer.research.journal import INFEASIBLE, Row
from nobrainer.research.judge import judge
from nobrainer.research.ranges import Choice, Float, Integer, Range
from nobrainer.research.space import Space

# Optuna announces each study on standard error, and one is made for each proposal;
# its warnings would spoil the table of a search. What fails is raised.
optuna.logging.set_verbosity(optuna.logging.ERROR)


def to_distribution(span: Range) -> BaseDistribution:
    """Convert a range to Optuna's distribution."""
    match span:
        case Choice(values):
            return CategoricalDistribution(values)
        case Integer(low, high, log):
            return IntDistribution(low, high, log=log)
        case Float(low, high, log):
            return FloatDistribution(low, high, log=log)


def to_distributions(space: Space) -> dict[str, BaseDistribution]:
    """Convert the ranges of a space to Optuna's distributions, by parameter."""
    return {name: to_distribution(span) for name, span in space.ranges.items()}


def to_directions(objectives: Sequence[str]) -> list[StudyDirection]:
    """Say for each objective whether Optuna shall minimise or maximise it."""
    return [StudyDirection[OF_RUNS[name].direction.upper()] for name in objectives]


def to_study(
    space: Space, rows: Sequence[Row], objectives: Sequence[str]
) -> optuna.Study:
    """Convert rows to an Optuna study in memory, with one trial for each recipe.

    Repeats are no trials of their own: the value of a trial is the mean over the seeds
    of its recipe. Recipes that could not be trained become pruned trials with a
    violated constraint, which TPE ranks below all others. Lost runs say nothing and are
    left out. The attribute "run" of a trial is the number of its row.

    Args:
        space: the space that is searched.
        rows: the rows of a study, those under way included.
        objectives: names of `OBJECTIVES`. Where Dice is the only one, the validation
            curves, which show Dice, become intermediate values by percent of training.
    """
    study = optuna.create_study(
        directions=to_directions(objectives),
        sampler=RandomSampler(seed=0),
    )
    means = judge(rows, objectives).means
    ranges = to_distributions(space)
    states = {
        "done": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "running": TrialState.RUNNING,
    } | dict.fromkeys(INFEASIBLE, TrialState.PRUNED)
    for row in rows:
        if row.role == "repeat" or row.state not in states:
            continue
        curve = row.curve if list(objectives) == ["dice"] else ()
        known = {name: row.values[name] for name in ranges if name in row.values}
        done = row.state == "done"
        study.add_trial(
            create_trial(
                state=states[row.state],
                values=[means[row.number][n] for n in objectives] if done else None,
                params=known,
                distributions={name: ranges[name] for name in known},
                intermediate_values={round(100 * at): dice for at, dice in curve},
                constraints={"fits": 1.0} if row.state in INFEASIBLE else None,
                user_attrs={"run": row.number},
            )
        )
    return study
