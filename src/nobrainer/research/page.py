"""The report of a study: what a user finds in the morning, as one HTML page."""

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from markupsafe import Markup
from optuna.importance import PedAnovaImportanceEvaluator

from nobrainer.glossary import OF_RUNS
from nobrainer.recipe import caution_about
from nobrainer.report.document import (
    Picture,
    Table,
    embed_figure,
    number,
    write_document,
)
from nobrainer.research.charts import (
    draw_curves,
    draw_history,
    draw_importance,
    draw_paired,
    draw_parallel,
    draw_pareto,
    name_with_direction,
    pareto_front,
)
from nobrainer.research.journal import STATES, Row
from nobrainer.research.judge import OBJECTIVES, Standing
from nobrainer.research.proposers import to_study
from nobrainer.research.records import FinalResult, Settings, Snapshot, describe_values
from nobrainer.research.space import Space
from nobrainer.research.words import summarise_findings

_ABSENT = number(math.nan)
_UNSAID = "default, not in the space"
_FEWEST_FINISHED = 8
"""Recipes below which an importance would be noise."""
_BEST_SHARE = 1 / 3
"""Optuna's tenth would be one or two recipes of a night."""


def write_study(snapshot: Snapshot, path: Path, *, overwrite: bool = True) -> Path:
    """Write the report of a study, at whatever stage: a page that loads nothing.

    Args:
        snapshot: the study as it stands.
        path: path of the page; its directory exists.
        overwrite: replace a page that is there.

    Returns: the path.

    Raises:
        InputError: a page is there and must not be replaced, or it cannot be written.
    """
    settings, rows, standing = snapshot.settings, snapshot.rows, snapshot.standing
    space = _read_space(settings.family, settings.space)
    first = settings.objectives[0]
    importance, importance_note = _importance(space, rows, settings.objectives)
    ended = [row for row in rows if row.state not in ("running", "lost")]
    recipes = [row for row in ended if row.role != "repeat"]
    validated = [row for row in rows if row.curve]
    front = sorted(pareto_front(standing, settings.objectives))
    titles = [OF_RUNS[name].heading for name in settings.objectives]
    content = {
        "title": f"Search for a better {settings.family}",
        "summary": summarise_findings(snapshot),
        "is_beaten": standing.champion != standing.baseline,
        "figures": _figure_table(snapshot) if standing.champion is not None else None,
        "metrics": [OF_RUNS[name] for name in OBJECTIVES],
        "values": _value_table(space, rows, standing),
        "paired": _paired(snapshot.test),
        "histories": [
            (
                embed_figure(
                    draw_history(rows, standing, name),
                    f"Validation {OF_RUNS[name].heading} of each of {len(rows)} runs, "
                    "with the champion's, the baseline's, and the runs that ended "
                    "otherwise; the table of all runs has the numbers",
                    "svg",
                ),
                OF_RUNS[name].heading,
            )
            for name in settings.objectives
            if rows
        ],
        "counts": _count_table(rows),
        "importance": importance
        and embed_figure(
            draw_importance(importance),
            "Importance of the parameters: "
            + ", ".join(f"{name} {share:.0%}" for name, share in importance.items()),
            "svg",
        ),
        "importance_note": importance_note,
        "parallel": embed_figure(
            draw_parallel(space, recipes, standing, first),
            f"Parallel coordinates: the values of {len(recipes)} recipes and their "
            f"{OF_RUNS[first].heading}; the table of all runs has the numbers",
            "svg",
        )
        if len(recipes) > 1
        else None,
        "curves": embed_figure(
            draw_curves(validated, standing),
            f"Validation Dice during the training of {len(validated)} runs",
            "svg",
        )
        if validated
        else None,
        "pareto": embed_figure(
            draw_pareto(standing, settings.objectives),
            f"{' against '.join(titles)} of {len(standing.means)} recipes; not "
            f"dominated: runs {', '.join(map(str, front))}",
            "svg",
        )
        if len(settings.objectives) > 1 and standing.means
        else None,
        "pareto_is_wide": len(settings.objectives) > 2,
        "recipes": _recipe_table(space, rows, standing, first),
        "runs": _run_table(rows, standing),
        "facts": _facts(snapshot),
        "space": settings.space,
    }
    n_synthetic = max((row.figures.get("n_synthetic", 0) for row in rows), default=0)
    return write_document(
        path,
        "study.html",
        content,
        caution=caution_about(int(n_synthetic)),
        overwrite=overwrite,
    )


@cache
def _read_space(family: str, text: str) -> Space:
    # A page is written after each run, and checking a space builds many networks.
    return Space.from_toml(family, text)


def _importance(
    space: Space, rows: Sequence[Row], objectives: Sequence[str]
) -> tuple[dict[str, float], str]:
    """The importance of each parameter, none where it is unknown; what to say of it.

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
        # That all are equally good, which we say ourselves.
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


def _paired(test: FinalResult | None) -> Picture | None:
    if test is None or test.champion == test.baseline:
        return None
    return embed_figure(
        draw_paired(test),
        f"Test Dice of {test.difference.n_subjects} subjects by champion and baseline; "
        f"mean difference {test.difference.mean:+.3f}",
        "svg",
    )


# --- tables


def _value_table(space: Space, rows: Sequence[Row], standing: Standing) -> Table | None:
    """The recipes of champion and baseline side by side."""
    found = {row.number: row.values for row in rows}
    if standing.champion is None or standing.baseline is None:
        return None
    champion, baseline = found[standing.champion], found[standing.baseline]
    if standing.champion == standing.baseline:
        return Table(
            "Values of the baseline",
            ("parameter", f"run {standing.baseline}"),
            tuple((name, _told(baseline, name, _UNSAID)) for name in space.ranges),
        )
    cells = []
    for name in space.ranges:
        new, old = (_told(of, name, _UNSAID) for of in (champion, baseline))
        bold = Markup("<strong>{}</strong>").format(new)
        same = new == old
        cells.append((name, new if same else bold, old, "no" if same else "yes"))
    return Table(
        "Values; bold where the champion's differ",
        (
            "parameter",
            f"champion, run {standing.champion}",
            f"baseline, run {standing.baseline}",
            "changed",
        ),
        tuple(cells),
    )


def _told(values: dict[str, Any], name: str, absent: str) -> str:
    """A value as text."""
    if name not in values:
        return absent
    return describe_values({name: values[name]}).partition("=")[2]


def _figure_table(snapshot: Snapshot) -> Table:
    """What champion and baseline reach on both splits."""
    standing, test = snapshot.standing, snapshot.test
    columns: dict[str, dict[str, float]] = {}
    for run in dict.fromkeys((standing.champion, standing.baseline)):
        role = "baseline" if run == standing.baseline else "champion"
        columns[f"validation, {role} (run {run})"] = {
            name: _mean(snapshot.rows, run, name) for name in OBJECTIVES
        }
    spread = standing.spread or {}
    columns["spread"] = {}
    if test is not None:
        for role, run in (("champion", test.champion), ("baseline", test.baseline)):
            if role == "baseline" or run != test.baseline:
                columns[f"test, {role} (run {run})"] = test.figures[role]
    rows = []
    for name in OBJECTIVES:
        cells = {
            head: _value(name, f.get(name, math.nan)) for head, f in columns.items()
        }
        cells["spread"] = _fine(name, spread.get(name, math.nan))
        rows.append((OF_RUNS[name].heading, *cells.values()))
    return Table(
        "Means over subjects; of the validation split also over seeds",
        ("figure", *columns),
        tuple(rows),
    ).without_blanks()


def _mean(rows: Sequence[Row], run: int | None, name: str) -> float:
    """A figure of a run, averaged over its seeds."""
    found = [
        row.figures[name]
        for row in rows
        if row.of == run and row.state == "done" and name in row.figures
    ]
    return math.fsum(found) / len(found) if found else math.nan


def _count_table(rows: Sequence[Row]) -> Table:
    counts = Counter(row.state for row in rows)
    return Table(
        "What became of the runs, repeats with another seed among them",
        ("state", "runs", "meaning"),
        tuple((s, str(counts[s]), text) for s, text in STATES.items() if counts[s]),
        texts=("meaning",),
    )


def _run_table(rows: Sequence[Row], standing: Standing) -> Table:
    cells = []
    for row in rows:
        role = f"repeat of {row.of}" if row.role == "repeat" else row.role
        cells.append(
            (
                _marked(f"{row.number} {role}", row.number, standing),
                *(_value(key, row.figures.get(key, math.nan)) for key in OBJECTIVES),
                _outcome(row, standing),
                number(row.seconds / 60 or math.nan, 1),
                number(row.peak_memory_bytes / 1e9 or math.nan, 2),
                row.proposer,
                "; ".join(filter(None, (row.reason, row.note))) or _ABSENT,
            )
        )
    titles = (OF_RUNS[name].heading for name in OBJECTIVES)
    head = ("run", *titles, "outcome", "time (min)", "peak memory (GB)")
    return Table(
        "Runs in their order; figures are of the validation split",
        (*head, "proposer", "reason, note"),
        tuple(cells),
        texts=("reason, note",),
    ).without_blanks()


def _recipe_table(
    space: Space, rows: Sequence[Row], standing: Standing, objective: str
) -> Table:
    """What was tried, the best first, then what has no figure."""
    recipes = [row for row in rows if row.role != "repeat"]
    means = {run: mean[objective] for run, mean in standing.means.items()}
    metric = OF_RUNS[objective]
    recipes.sort(
        key=lambda row: -metric.sign * means.get(row.number, -metric.sign * math.inf)
    )
    return Table(
        f"Recipes, the best first; {metric.heading} is the mean over their seeds",
        ("recipe", metric.heading, "outcome", *space.ranges),
        tuple(
            (
                _marked(f"run {row.number}", row.number, standing),
                _value(objective, means.get(row.number, math.nan)),
                _outcome(row, standing),
                *(_told(row.values, name, _ABSENT) for name in space.ranges),
            )
            for row in recipes
        ),
    )


def _marked(name: str, run: int, standing: Standing) -> str:
    champion = run == standing.champion
    return Markup("<strong>{}</strong>").format(name) if champion else name


def _outcome(row: Row, standing: Standing) -> str:
    if row.role == "repeat" and row.state == "done":
        return "done"
    return standing.verdicts.get(row.number) or row.state


def _facts(snapshot: Snapshot) -> list[tuple[str, str]]:
    settings, standing = snapshot.settings, snapshot.standing
    aims = "; ".join(name_with_direction(name) for name in settings.objectives)
    limit = f"{settings.epochs} epochs"
    if settings.train_minutes is not None:
        limit = f"{settings.train_minutes:g} minutes or {limit}, what ends first"
    rule = (
        "a recipe takes the crown when its mean over two seeds is better than the "
        "champion's by more than the spread between seeds"
    )
    if len(settings.objectives) > 1:
        rule += ", in one objective at least, and in none worse by more than that"
    spread = "not known yet: nothing has been trained with two seeds"
    if standing.spread is not None:
        spread = ", ".join(
            f"{OF_RUNS[name].heading} {_fine(name, standing.spread[name])}"
            for name in settings.objectives
        )
        spread += ", of champion and baseline"
    scored = "not scored yet"
    if snapshot.test is not None:
        scored = f"scored on {snapshot.test.scored}"
    return [
        (
            "Subjects",
            f"{settings.n_train} for training, {settings.n_validate} for validation, "
            f"{settings.n_test} for the test; parted before run 0, none in two parts",
        ),
        ("Objective", f"{aims}; means over the validation subjects"),
        ("Baseline", "run 0, the default recipe without any change"),
        ("Rule", rule),
        ("Spread between seeds", spread),
        (
            "Test split",
            "locked: no training and no choice sees it; it is scored once, at the end, "
            f"with the champion and the baseline; {scored}",
        ),
        ("Training of each run", f"at most {limit}"),
        ("Hopeless runs", f"stopped early by the rule {settings.pruner}"),
        ("Draws of the weights", f"{settings.n_draws}, for judging"),
        ("Proposer", settings.proposer),
        ("Seed", f"{settings.seed}, of the split, the proposals and the trainings"),
        ("Labels", _labels(settings)),
        ("Started", settings.started),
        ("Software", ", ".join(f"{n} {v}" for n, v in settings.versions.items())),
    ]


def _labels(settings: Settings) -> str:
    text = f"{settings.n_classes} classes, background among them"
    if settings.binarize:
        text += "; everything that is not background is one"
    if settings.relabel is not None:
        text += f"; relabelled by {settings.relabel}"
    return text


def _value(name: str, value: float) -> str:
    return number(value, OF_RUNS[name].digits)


def _fine(name: str, value: float) -> str:
    """A spread, which is small, with a digit more."""
    return number(value, OF_RUNS[name].digits + 1)
