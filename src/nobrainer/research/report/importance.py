"""How important each parameter is, and what can be said of that."""

import math
import warnings
from collections.abc import Sequence

import optuna
from optuna.importance import PedAnovaImportanceEvaluator

from nobrainer.research.journal import Row
from nobrainer.research.optuna_study import to_study
from nobrainer.research.space import Space

_FEWEST_FINISHED = 8
"""Recipes below which an importance would be noise."""
_BEST_SHARE = 1 / 3
"""Share of the recipes that count as the best. Optuna's own tenth would be one or two
recipes of a night."""


def measure_importance(
    space: Space, rows: Sequence[Row], objectives: Sequence[str]
) -> tuple[dict[str, float], str]:
    """The importance of each parameter, none where it is unknown; what to say of it.

    Args:
        space: the space that was searched.
        rows: the rows of a study.
        objectives: names of `OBJECTIVES`.

    Returns: shares of 1 by parameter, and a sentence or two for readers of the page.

    Source: Watanabe et al. 2023, PED-ANOVA, https://arxiv.org/abs/2304.10255, as
    Optuna implements it.
    """
    # The baseline often lacks a value, and an importance needs all of them.
    known = [row for row in rows if space.ranges.keys() <= row.values.keys()]
    finished = [row for row in known if row.state == "done" and row.role != "repeat"]
    n = len(finished)
    if n < _FEWEST_FINISHED:
        return {}, (
            f"How important each parameter is can be said from {_FEWEST_FINISHED} "
            f"finished recipes on that have a value for each; there "
            f"{'is' if n == 1 else 'are'} {n or 'none'} yet."
        )
    with warnings.catch_warnings():
        # Optuna warns where all are equally good, which the note below says.
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(
            to_study(space, known, objectives),
            evaluator=PedAnovaImportanceEvaluator(target_quantile=_BEST_SHARE),
            normalize=False,
        )
    varied = [
        name
        for name in space.ranges
        if len({finished_row.values[name] for finished_row in finished}) > 1
    ]
    total = math.fsum(found[name] for name in varied)
    if total <= 0:
        return {}, (
            f"How important each parameter is cannot be said: the {n} finished recipes "
            "are equally good, or all alike."
        )
    note = (
        "How much the values of each parameter differ between the best third of the "
        f"finished recipes and all of them (PED-ANOVA). It rests on {n} recipes"
        f"{': a hint, no proof' if n < 50 else ''}."
    )
    constant = [name for name in space.ranges if name not in varied]
    if constant:
        note += f" The same in all of them: {', '.join(constant)}."
    return {name: found[name] / total for name in varied}, note
