"""How important each parameter is, and how far that can be trusted."""

import math
import warnings
from collections.abc import Sequence

import optuna
from optuna.importance import PedAnovaImportanceEvaluator

from nobrainer.research.journal import Row
from nobrainer.research.optuna_study import to_study
from nobrainer.research.space import Space

_FEWEST_FINISHED = 8
"""Number of finished recipes below which an importance would be noise."""
_BEST_SHARE = 1 / 3
"""Share of the recipes that count as the best. With Optuna's own share of a tenth, that
would be one or two recipes in a night."""


def measure_importance(
    space: Space, rows: Sequence[Row], objectives: Sequence[str]
) -> tuple[dict[str, float], str]:
    """Measure the importance of each parameter, and say in words what it rests on.

    Args:
        space: the space that was searched.
        rows: the rows of a study.
        objectives: names of `OBJECTIVES`.

    Returns: the importance of each parameter by its name, as shares that add up to 1,
        empty where it is not known; and a sentence or two for readers of the page.

    Source: Watanabe et al. 2023, PED-ANOVA, https://arxiv.org/abs/2304.10255, as
    Optuna implements it.
    """
    # Only recipes with a value for every parameter: the baseline often lacks one.
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
        # Optuna warns if all recipes are equally good; the note below says that, too.
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
