"""The page of an evaluation: figures of structures, of scans, and curves."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from markupsafe import Markup

from nobrainer.data.labels import LabelTable
from nobrainer.evaluation import Evaluation, Row, summarise
from nobrainer.figure import draw_metric, draw_reliability, draw_risk_coverage
from nobrainer.glossary import OF_REGIONS, OF_STRUCTURES
from nobrainer.naming import count_scans
from nobrainer.posthoc import Calibration
from nobrainer.recipe import Recipe
from nobrainer.report.document import (
    Picture,
    Table,
    check_free,
    embed_figure,
    number,
    span,
    write_document,
)
from nobrainer.report.facts import caution_of, list_facts

Values = Mapping[str, Mapping[str, Sequence[float]]]
"""Figures of all scans, by metric and by structure."""

_EXPLAINED = {name: metric for name, metric in OF_STRUCTURES.items() if metric.meaning}
"""Figures of structures that have a meaning to tell, and so stand on the page."""
_CHARTED = ("dice", "surface_dice", "hd95_mm", "volume_error")
_OF_EACH_SCAN = ("nll", "ece", "auroc_entropy")
"""Figures near the structures that the table of scans has."""
_REGION_NAMES = {"volume": "whole scan", "foreground": "near the structures"}


def write_evaluation(
    evaluation: Evaluation,
    path: str | PathLike[str],
    *,
    labels: LabelTable,
    model: Recipe | None,
    title: str,
    calibration: Calibration | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the report of an evaluation: one HTML page that loads nothing.

    Args:
        evaluation: the evaluation of a model on labelled scans.
        path: path of the page; its directory exists.
        labels: the classes, in whose order structures are listed.
        model: how the model was made, as far as known.
        title: title of the page.
        calibration: how the model was calibrated, if it was.
        overwrite: replace a page that is there.

    Returns:
        The path of the page.

    Raises:
        InputError: a page is there already, or it cannot be written.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in evaluation:
        found[row.metric][row.structure].append(row.value)
    values = {
        metric: {name: of[name] for name in labels.names[1:] if name in of}
        for metric, of in found.items()
    }
    content = {
        "title": title,
        "scans": count_scans(evaluation.n_scans, evaluation.n_subjects),
        "warning": evaluation.warning,
        "summaries": _summary_tables(summarise(evaluation)),
        "charts": _charts(values),
        "structures": _structure_table(values, labels),
        "curves": _curves(evaluation),
        "rows": _scan_table(evaluation),
        "facts": list_facts(model, calibration),
    }
    return write_document(
        path, "evaluation.html", content, caution=caution_of(model), overwrite=overwrite
    )


def _charts(values: Values) -> list[tuple[Picture, str]]:
    """A chart of every figure that has one, with its caption."""
    return [
        (
            embed_figure(
                draw_metric(values[name], metric.title),
                f"{metric.title} of each structure; the table below has the numbers",
                "svg",
            ),
            f"{metric.title[0].upper()}{metric.title[1:]}: {metric.meaning}",
        )
        for name, metric in _EXPLAINED.items()
        if name in _CHARTED and values.get(name)
    ]


def _curves(evaluation: Evaluation) -> list[tuple[Picture, str]]:
    """The curves of all voxels, with their captions."""
    curves = []
    reliability = {
        _REGION_NAMES[region]: curve
        for region, curve in evaluation.reliability.items()
        if curve.count
    }
    if reliability:
        chart = embed_figure(
            draw_reliability(reliability),
            "Reliability curves: accuracy against confidence, and voxels in each bin",
            "svg",
        )
        caption = (
            "Reliability: how often the winning class is right, against the "
            "probability that the network gives it. Below the straight line the "
            "network is too sure."
        )
        curves.append((chart, caption))
    if evaluation.risk_coverage:
        chart = embed_figure(
            draw_risk_coverage(
                {s.replace("_", " "): c for s, c in evaluation.risk_coverage.items()}
            ),
            "Risk-coverage curves: error of the voxels kept, against their share",
            "svg",
        )
        caption = (
            "Risk and coverage near the structures: the error among the voxels that "
            "are kept when the most uncertain are left out. It falls towards the left "
            "where the uncertainty finds the errors."
        )
        curves.append((chart, caption))
    return curves


def _summary_tables(means: Mapping[str, float]) -> list[Table]:
    """Means over all scans, with what they mean."""
    of_structures = tuple(
        (metric.summary, number(means[name], metric.digits), metric.meaning)
        for name, metric in _EXPLAINED.items()
        if name in means
    )
    of_regions = tuple(
        (
            metric.title,
            number(means.get(name, np.nan), metric.digits),
            number(means.get(f"{name}/foreground", np.nan), metric.digits),
            metric.meaning,
        )
        for name, metric in OF_REGIONS.items()
        if name in means or f"{name}/foreground" in means
    )
    tables = (
        Table(
            "Segmentation: means over structures and scans",
            ("figure", "value", "what it says"),
            of_structures,
            texts=("what it says",),
        ),
        Table(
            "Probabilities and uncertainty: means over scans. Most of a whole scan "
            "is easy background; near the structures is where errors are.",
            ("figure", *_REGION_NAMES.values(), "what it says"),
            of_regions,
            texts=("what it says",),
        ),
    )
    return [table for table in tables if table.rows]


def _structure_table(values: Values, labels: LabelTable) -> Table:
    """Mean and range of the figures of each structure."""

    def cell(metric: str, structure: str) -> str:
        digits, found = _EXPLAINED[metric].digits, values[metric].get(structure, ())
        if not found:
            return number(np.nan)
        mean = number(float(np.mean(found)), digits)
        if metric.endswith("covered"):
            return mean
        ends = span(min(found), max(found), digits)
        return Markup('{} <span class="range">({})</span>').format(mean, ends)

    metrics = [metric for metric in _EXPLAINED if values.get(metric)]
    names = [n for n in labels.names[1:] if any(n in values[m] for m in metrics)]
    return Table(
        "Structures: mean over scans (lowest to highest)",
        ("structure", "scans", *(_EXPLAINED[m].heading for m in metrics)),
        tuple(
            (
                name,
                str(max(len(values[m].get(name, ())) for m in metrics)),
                *(cell(m, name) for m in metrics),
            )
            for name in names
        ),
    )


def _scan_table(rows: Sequence[Row]) -> Table:
    """Figures of the structures, and those near the structures, of each scan."""
    of_scans: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        of_scans[row.subject].append(row)
    found = {name: summarise(of_scan) for name, of_scan in of_scans.items()}
    columns = {n: (m.heading, m.digits) for n, m in _EXPLAINED.items()}
    # The table is wide, and a scan's figure is less exact than the mean.
    columns |= {
        f"{n}/foreground": (OF_REGIONS[n].heading, OF_REGIONS[n].digits - 1)
        for n in _OF_EACH_SCAN
    }
    return Table(
        "Scans: means over structures, of volume errors the median of absolute values; "
        "NLL, ECE and AUROC near the structures",
        ("scan", *(name for name, _ in columns.values())),
        tuple(
            (
                name,
                *(
                    number(of.get(metric, np.nan), digits)
                    for metric, (_, digits) in columns.items()
                ),
            )
            for name, of in found.items()
        ),
    ).without_blanks()
