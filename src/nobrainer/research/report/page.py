"""The report of a study: what a user finds in the morning, as one HTML page."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from nobrainer.glossary import OF_RUNS
from nobrainer.recipe import caution_about
from nobrainer.report.document import Picture, embed_figure, write_document
from nobrainer.research.journal import Row
from nobrainer.research.judge import OBJECTIVES
from nobrainer.research.records import FinalResult, Snapshot
from nobrainer.research.report.curves import draw_curves
from nobrainer.research.report.facts import list_facts
from nobrainer.research.report.history import draw_history
from nobrainer.research.report.importance import measure_importance
from nobrainer.research.report.paired import draw_paired
from nobrainer.research.report.parameters import draw_importance, draw_parallel
from nobrainer.research.report.tables import (
    tabulate_figures,
    tabulate_recipes,
    tabulate_runs,
    tabulate_states,
    tabulate_values,
)
from nobrainer.research.report.tradeoffs import draw_pareto, pareto_front
from nobrainer.research.report.words import summarise_findings
from nobrainer.research.space import Space


def write_study(snapshot: Snapshot, path: Path, *, overwrite: bool = True) -> Path:
    """Write the report of a study at any stage, as a page that loads nothing.

    Args:
        snapshot: the study as it stands.
        path: path of the page; its directory exists.
        overwrite: whether to replace a page that is there.

    Returns: the path.

    Raises:
        InputError: a page is there and must not be replaced, or it cannot be written.
    """
    settings, rows, standing = snapshot.settings, snapshot.rows, snapshot.standing
    space = Space.of_study(settings.family, settings.space)
    first = settings.objectives[0]
    importance, importance_note = measure_importance(space, rows, settings.objectives)
    content = {
        "title": f"Search for a better {settings.family}",
        "summary": summarise_findings(snapshot),
        "is_beaten": standing.champion != standing.baseline,
        "figures": None if standing.champion is None else tabulate_figures(snapshot),
        "metrics": [OF_RUNS[name] for name in OBJECTIVES],
        "values": tabulate_values(space, rows, standing),
        "paired": _show_test(snapshot.test),
        "histories": _show_histories(snapshot),
        "counts": tabulate_states(rows),
        "importance": _show_importance(importance),
        "importance_note": importance_note,
        "parallel": _show_parallel(space, snapshot),
        "curves": _show_curves(snapshot),
        "pareto": _show_tradeoffs(snapshot),
        "pareto_is_wide": len(settings.objectives) > 2,
        "recipes": tabulate_recipes(space, rows, standing, first),
        "runs": tabulate_runs(rows, standing),
        "facts": list_facts(snapshot),
        "space": settings.space,
    }
    return write_document(
        path,
        "study.html",
        content,
        caution=caution_about(_count_synthetic(rows)),
        overwrite=overwrite,
    )


def _count_synthetic(rows: Sequence[Row]) -> int:
    """How many training scans are marked as synthetic."""
    return int(max((row.figures.get("n_synthetic", 0) for row in rows), default=0))


def _embed(figure: Figure, alt: str) -> Picture:
    return embed_figure(figure, alt, "svg")


def _show_test(test: FinalResult | None) -> Picture | None:
    if test is None or test.champion == test.baseline:
        return None
    return _embed(
        draw_paired(test),
        f"Test Dice of {test.difference.n_subjects} subjects by champion and baseline; "
        f"mean difference {test.difference.mean:+.3f}",
    )


def _show_histories(snapshot: Snapshot) -> list[tuple[Picture, str]]:
    """The history of each objective, with the objective's title."""
    rows, standing = snapshot.rows, snapshot.standing
    if not rows:
        return []
    pictures = []
    for name in snapshot.settings.objectives:
        title = OF_RUNS[name].heading
        alt = (
            f"Validation {title} of each of {len(rows)} runs, with the champion's, the "
            "baseline's, and the runs that ended otherwise; the table of all runs has "
            "the numbers"
        )
        pictures.append((_embed(draw_history(rows, standing, name), alt), title))
    return pictures


def _show_importance(importance: dict[str, float]) -> Picture | None:
    if not importance:
        return None
    shares = ", ".join(f"{name} {share:.0%}" for name, share in importance.items())
    return _embed(
        draw_importance(importance), f"Importance of the parameters: {shares}"
    )


def _show_parallel(space: Space, snapshot: Snapshot) -> Picture | None:
    recipes = [
        row
        for row in snapshot.rows
        if row.role != "repeat" and row.state not in ("running", "lost")
    ]
    if len(recipes) < 2:
        return None
    first = snapshot.settings.objectives[0]
    return _embed(
        draw_parallel(space, recipes, snapshot.standing, first),
        f"Parallel coordinates: the values of {len(recipes)} recipes and their "
        f"{OF_RUNS[first].heading}; the table of all runs has the numbers",
    )


def _show_curves(snapshot: Snapshot) -> Picture | None:
    validated = [row for row in snapshot.rows if row.curve]
    if not validated:
        return None
    return _embed(
        draw_curves(validated, snapshot.standing),
        f"Validation Dice during the training of {len(validated)} runs",
    )


def _show_tradeoffs(snapshot: Snapshot) -> Picture | None:
    standing, objectives = snapshot.standing, snapshot.settings.objectives
    if len(objectives) < 2 or not standing.means:
        return None
    front = ", ".join(map(str, sorted(pareto_front(standing, objectives))))
    titles = " against ".join(OF_RUNS[name].heading for name in objectives)
    return _embed(
        draw_pareto(standing, objectives),
        f"{titles} of {len(standing.means)} recipes; not dominated: runs {front}",
    )
