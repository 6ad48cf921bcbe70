"""The page of many scans: their scores, the worst first."""

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from markupsafe import Markup

from nobrainer.errors import InputError
from nobrainer.figure import draw_quality
from nobrainer.glossary import OF_SCANS
from nobrainer.naming import count
from nobrainer.posthoc import Calibration
from nobrainer.quality import Case
from nobrainer.recipe import Recipe
from nobrainer.report.document import (
    Table,
    address,
    check_free,
    inline_figure,
    number,
    write_document,
)
from nobrainer.report.facts import caution_of, list_facts

_EXPLAINED = {name: metric for name, metric in OF_SCANS.items() if metric.meaning}
"""Figures of scans that have a meaning to tell, and so stand on the page."""


def write_cohort(
    cases: Sequence[Case],
    path: str | PathLike[str],
    *,
    pages: Mapping[str, str | PathLike[str]],
    model: Recipe | None,
    calibration: Calibration | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the report of many scans, the worst first: an HTML page loading nothing.

    Args:
        cases: what is said of the quality of each scan.
        path: path of the page; its directory exists.
        pages: path of a scan's own page, relative to this one, by the case's name.
        model: how the model was made, as far as known.
        calibration: how the model was calibrated, if it was.
        overwrite: replace a page that is there.

    Returns:
        The path of the page.

    Raises:
        InputError: a page is there already, it cannot be written, or there is no
            case.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    if not cases:
        raise InputError("cases must be at least one, got none: give some")
    links = {name: address(page) for name, page in pages.items()}
    # As in the tables and on the terminal.
    cases = sorted(cases, key=lambda case: (not case.flags, case.score))
    n_flagged = sum(bool(case.flags) for case in cases)
    content = {
        "title": f"Quality of {count(len(cases), 'segmentation')}",
        "n_cases": count(len(cases), "scan"),
        "n_flagged": n_flagged,
        # Every scan is judged by the same records.
        "case": cases[0],
        "chart": inline_figure(
            draw_quality(cases, links),
            f"Score of {count(len(cases), 'segmentation')} against deviation of "
            f"volumes and entropy, {n_flagged} flagged; "
            "the table below has the numbers",
        ),
        "table": _case_table(cases, links),
        "metrics": _EXPLAINED.values(),
        "facts": list_facts(model, calibration),
    }
    return write_document(
        path, "cohort.html", content, caution=caution_of(model), overwrite=overwrite
    )


def _case_table(cases: Sequence[Case], links: Mapping[str, str]) -> Table:
    rows = []
    for case in cases:
        link = Markup('<a href="{}">{}</a>').format
        named = case.name in links
        status = Markup('<span class="flagged">{}</span>').format("flagged")
        rows.append(
            (
                link(links[case.name], case.name) if named else case.name,
                status if case.flags else "not flagged",
                number(case.score),
                "; ".join(case.flags),
                number(case.predicted_dice),
                *(
                    number(case.features.get(name, math.nan), metric.digits)
                    for name, metric in _EXPLAINED.items()
                ),
            )
        )
    head = ("scan", "status", "score", "reasons to look at it", "predicted Dice")
    return Table(
        "Scans, flagged ones first, then the lowest score",
        (*head, *(metric.heading for metric in _EXPLAINED.values())),
        tuple(rows),
        texts=("reasons to look at it",),
    ).without_blanks()
