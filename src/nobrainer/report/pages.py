"""The reports: what stands on the page of a scan, an evaluation and a cohort."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path, PurePath
from urllib.parse import quote

import nibabel as nib
import numpy as np
from markupsafe import Markup

from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.evaluation import Evaluation, Row, summarise
from nobrainer.figure import (
    draw_metric,
    draw_prediction,
    draw_quality,
    draw_reliability,
    draw_risk_coverage,
    draw_structures,
)
from nobrainer.glossary import OF_DRAWS, OF_REGIONS, OF_SCANS, OF_STRUCTURES
from nobrainer.io import read_geometry
from nobrainer.naming import count_scans
from nobrainer.posthoc import Calibration
from nobrainer.processing.prediction import Prediction
from nobrainer.quality import Case
from nobrainer.recipe import Recipe
from nobrainer.regions import Region
from nobrainer.report.document import (
    Table,
    check_free,
    embed_figure,
    inline_figure,
    number,
    span,
    write_document,
)
from nobrainer.report.viewer import Scan
from nobrainer.structures import Structure

Facts = list[tuple[str, str]]

_COLUMNS = {
    "volume (ml)": "Mean over the draws, where there are several. Not found: no draw "
    "has a voxel of it, which does not make it certain. Not in training: no training "
    "scan had it, so that the network cannot know it.",
    "sd (ml)": OF_DRAWS["volume_sd_mm3"].meaning,
    "95 % of draws (ml)": "The volume of one further draw lies in it with 95 % "
    "probability. It says how far the draws agree, not where the truth is.",
    "calibrated (ml)": "An interval for the true volume, as wide as held-out scans "
    "showed that it must be.",
    "CV (%)": OF_DRAWS["cv"].meaning,
} | {
    metric.heading: metric.meaning
    for metric in (
        OF_STRUCTURES["pairwise_dice"],
        OF_DRAWS["iou"],
        OF_DRAWS["entropy"],
        OF_DRAWS["mutual_information"],
    )
}
# Of the figures of structures those that pages explain.
_OF_STRUCTURES = {
    name: metric for name, metric in OF_STRUCTURES.items() if metric.meaning
}
_AXES = ("x (mm)", "y (mm)", "z (mm)")
_CHARTED = ("dice", "surface_dice", "hd95_mm", "volume_error")
_OF_EACH_SCAN = ("nll", "ece", "auroc_entropy")
# And of those of scans.
_OF_SCANS = {name: metric for name, metric in OF_SCANS.items() if metric.meaning}
_REGION_NAMES = {"volume": "whole scan", "foreground": "near the structures"}


def write_case(
    prediction: Prediction,
    path: str | PathLike[str],
    *,
    model: Recipe | None,
    case: Case | None = None,
    calibration: Calibration | None = None,
    index: str | PathLike[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the report of one scan: one HTML page that loads nothing.

    Args:
        prediction: of the scan.
        path: path of the page; its directory exists.
        model: how the model was made.
        case: what is said of its quality, if that was assessed.
        calibration: how the model was calibrated, if it was.
        index: path of the page of all scans, relative to this one, if there will be
            one.
        overwrite: replace a page that is there.

    Returns: the path.

    Raises:
        InputError: a page is there already, or it cannot be written.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    structures, labels = prediction.structures, prediction.labels
    n_draws = len(prediction.volumes_mm3)
    if n_draws > 1:
        method = f"{n_draws} draws of the network, seed {prediction.seed}."
    else:
        method = "One pass of the network: nothing is known about its variance."
    present = [s for s in structures if s.volume_mm3 > 0]
    regions = prediction.regions
    variance = _in_mm(prediction.variance)
    spread = nib.Nifti1Image(np.sqrt(variance.dataobj), variance.affine)
    most = math.log(len(labels.names))
    scan = Scan(_in_mm(prediction.scan), _least_sure(prediction, regions))
    viewers = (
        scan.show_labels(_in_mm(prediction.label), labels),
        scan.show_map(
            f"Entropy (nats, 0 to {most:.2f})",
            _in_mm(prediction.entropy),
            "viridis",
            most,
        ),
        scan.show_map(
            "Standard deviation of the probabilities (root of the variance, 0 to 0.5)",
            spread,
            "magma",
            0.5,
        ),
    )
    table = _structure_table(structures, labels)
    content = {
        "title": prediction.name,
        "method": method,
        "case": case,
        "score": case and _score(case),
        "index": None if index is None else _address(index),
        "slices": embed_figure(
            draw_prediction(
                prediction.scan,
                *prediction,
                mutual_information=prediction.mutual_information,
                labels=labels,
                n_slices=3,
                title="",
            ),
            f"Sagittal, coronal and axial slices of {prediction.name} with outlines of "
            f"{len(present)} structures and maps of uncertainty",
            "png",
        ),
        "chart": embed_figure(
            draw_structures(structures),
            "Volumes of the structures with intervals; the table below has the numbers",
            "svg",
        )
        if present
        else None,
        "table": table,
        "meanings": [(name, _COLUMNS[name]) for name in table.head[1:]],
        "regions": _region_table(regions) if regions else None,
        "viewers": [viewer for viewer in viewers if viewer],
        "facts": _facts(model, calibration),
    }
    return write_document(
        path, "case.html", content, caution=_caution(model), overwrite=overwrite
    )


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
        evaluation: of a model on labelled scans.
        path: path of the page; its directory exists.
        labels: the classes, in whose order structures are listed.
        model: how the model was made.
        title: of the page.
        calibration: how the model was calibrated, if it was.
        overwrite: replace a page that is there.

    Returns: the path.

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
    means = summarise(evaluation)
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
    content = {
        "title": title,
        "scans": count_scans(evaluation.n_scans, evaluation.n_subjects),
        "warning": evaluation.warning,
        "summaries": _summaries(means),
        "charts": [
            (
                embed_figure(
                    draw_metric(values[name], metric.title),
                    f"{metric.title} of each structure; the table below has the "
                    "numbers",
                    "svg",
                ),
                f"{metric.title[0].upper()}{metric.title[1:]}: {metric.meaning}",
            )
            for name, metric in _OF_STRUCTURES.items()
            if name in _CHARTED and values.get(name)
        ],
        "structures": _overlap_table(values, labels),
        "curves": curves,
        "rows": _subject_table(evaluation),
        "facts": _facts(model, calibration),
    }
    return write_document(
        path, "evaluation.html", content, caution=_caution(model), overwrite=overwrite
    )


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
        cases: one for each scan.
        path: path of the page; its directory exists.
        pages: path of a scan's own page, relative to this one, by the case's name.
        model: how the model was made.
        calibration: how the model was calibrated, if it was.
        overwrite: replace a page that is there.

    Returns: the path.

    Raises:
        InputError: a page is there already, it cannot be written, or there is no
            case.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    if not cases:
        raise InputError("cases must be at least one, got none: give some")
    links = {name: _address(page) for name, page in pages.items()}
    # As in the tables and on the terminal.
    cases = sorted(cases, key=lambda case: (not case.flags, case.score))
    n_flagged = sum(bool(case.flags) for case in cases)
    content = {
        "title": f"Quality of {len(cases)} segmentations",
        "n_cases": len(cases),
        "n_flagged": n_flagged,
        # Every scan is judged by the same records.
        "case": cases[0],
        "chart": inline_figure(
            draw_quality(cases, links),
            f"Score of {len(cases)} segmentations against deviation of volumes and "
            f"entropy, {n_flagged} flagged; the table below has the numbers",
        ),
        "table": _case_table(cases, links),
        "metrics": _OF_SCANS.values(),
        "facts": _facts(model, calibration),
    }
    return write_document(
        path, "cohort.html", content, caution=_caution(model), overwrite=overwrite
    )


def _address(page: str | PathLike[str]) -> str:
    # A name that is not UTF-8 is linked to by its bytes.
    return quote(PurePath(page).as_posix(), safe="/", errors="surrogateescape")


def _caution(model: Recipe | None) -> str:
    return "" if model is None else model.provenance.caution


def _score(case: Case) -> str:
    if math.isfinite(case.predicted_dice):
        return f"Its mean Dice against a reference is predicted to be {case.score:.3f}."
    return f"Its score, from 0 to 1, is {case.score:.3f}: {case.meaning}."


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
                    for name, metric in _OF_SCANS.items()
                ),
            )
        )
    head = ("scan", "status", "score", "reasons to look at it", "predicted Dice")
    return Table(
        "Scans, flagged ones first, then the lowest score",
        (*head, *(metric.heading for metric in _OF_SCANS.values())),
        tuple(rows),
        texts=("reasons to look at it",),
    ).without_blanks()


def _structure_table(structures: Sequence[Structure], labels: LabelTable) -> Table:
    rows = []
    for s in structures:
        # One draw agrees with itself, which says nothing.
        agreement = (s.iou, s.mutual_information)
        if math.isnan(s.volume_sd_mm3):
            agreement = (math.nan, math.nan)
        is_found = s.status == "found"
        sd_mm3 = s.volume_sd_mm3 if is_found else math.nan
        swatch = Markup('<span class="swatch" style="background: {}"></span>{}')
        rows.append(
            (
                swatch.format(labels.colors[s.index], s.name),
                number(s.volume_mm3 / 1000, 2) if is_found else s.status,
                number(sd_mm3 / 1000, 2),
                span(s.volume_low_mm3 / 1000, s.volume_high_mm3 / 1000, 2),
                span(s.conformal_low_mm3 / 1000, s.conformal_high_mm3 / 1000, 2),
                number(100 * s.cv, 1),
                number(s.pairwise_dice),
                number(agreement[0]),
                number(s.entropy),
                number(agreement[1]),
            )
        )
    return Table(
        "Structures: volumes, and how sure the network is of them",
        ("structure", *_COLUMNS),
        tuple(rows),
    ).without_blanks()


def _region_table(regions: Sequence[Region]) -> Table:
    return Table(
        "The most uncertain areas",
        ("mostly labelled", "size (ml)", OF_DRAWS["entropy"].heading, *_AXES),
        tuple(
            (
                one.structure,
                number(one.volume_mm3 / 1000, 2),
                number(one.peak),
                *(number(place, 1) for place in (one.x_mm, one.y_mm, one.z_mm)),
            )
            for one in regions
        ),
    )


def _in_mm(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """The image with its affine in millimetres, whatever its header's unit."""
    return nib.Nifti1Image(np.asarray(image.dataobj), read_geometry(image).affine)


def _least_sure(
    prediction: Prediction, regions: Sequence[Region]
) -> tuple[float, float, float]:
    """Where viewers open: the worst area's peak, or the highest entropy there is."""
    if regions:
        return regions[0].x_mm, regions[0].y_mm, regions[0].z_mm
    entropy = _in_mm(prediction.entropy)
    place = np.unravel_index(np.argmax(entropy.dataobj), entropy.shape)
    x_mm, y_mm, z_mm = nib.affines.apply_affine(entropy.affine, place)
    return float(x_mm), float(y_mm), float(z_mm)


def _summaries(means: Mapping[str, float]) -> list[Table]:
    of_structures = tuple(
        (metric.title, number(means[name], metric.digits), metric.meaning)
        for name, metric in _OF_STRUCTURES.items()
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
            ("figure", "mean", "what it says"),
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


def _overlap_table(
    values: Mapping[str, Mapping[str, Sequence[float]]], labels: LabelTable
) -> Table:
    def cell(metric: str, structure: str) -> str:
        digits, found = _OF_STRUCTURES[metric].digits, values[metric].get(structure, ())
        if not found:
            return number(np.nan)
        mean = number(float(np.mean(found)), digits)
        if metric.endswith("covered"):
            return mean
        ends = span(min(found), max(found), digits)
        return Markup('{} <span class="range">({})</span>').format(mean, ends)

    metrics = [metric for metric in _OF_STRUCTURES if values.get(metric)]
    names = [n for n in labels.names[1:] if any(n in values[m] for m in metrics)]
    return Table(
        "Structures: mean over scans (lowest to highest)",
        ("structure", "scans", *(_OF_STRUCTURES[m].heading for m in metrics)),
        tuple(
            (
                name,
                str(max(len(values[m].get(name, ())) for m in metrics)),
                *(cell(m, name) for m in metrics),
            )
            for name in names
        ),
    )


def _subject_table(rows: Sequence[Row]) -> Table:
    """Means over structures, and the figures near the structures, of each scan."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.structure != "all" or row.region == "foreground":
            found[row.subject][row.metric].append(row.value)
    columns = {n: (m.heading, m.digits) for n, m in _OF_STRUCTURES.items()}
    # The table is wide, and a scan's figure is less exact than the mean.
    columns |= {
        n: (OF_REGIONS[n].heading, OF_REGIONS[n].digits - 1) for n in _OF_EACH_SCAN
    }
    return Table(
        "Scans: means over structures; NLL, ECE and AUROC near the structures",
        ("scan", *(name for name, _ in columns.values())),
        tuple(
            (
                name,
                *(
                    number(float(np.mean(of[m])) if m in of else np.nan, digits)
                    for m, (_, digits) in columns.items()
                ),
            )
            for name, of in found.items()
        ),
    ).without_blanks()


def _facts(model: Recipe | None, calibration: Calibration | None) -> Facts:
    """How the model was made, as terms and descriptions."""
    facts: Facts = []
    if model is not None:
        training, story = model.training, model.provenance
        roles = [file.role for file in story.files]
        spacing = model.preprocess.spacing_mm
        grid = "the scan's own voxels"
        if spacing is not None:
            grid = f"voxels of {' x '.join(f'{one:g}' for one in spacing)} mm"
        facts = [
            ("Network", model.model.name),
            ("Its arguments", _listed(model.model.args)),
            ("Classes", f"{model.data.n_classes}, background among them"),
            (
                "Preprocessing",
                f"orientation {model.preprocess.orientation}, {grid}, "
                f"{model.preprocess.normalize} intensities, outliers "
                f"{model.preprocess.outliers}",
            ),
            (
                "Training scans",
                f"{roles.count('train-image')} for training, "
                f"{roles.count('validate-image')} for validation",
            ),
            (
                "Training",
                f"{training.epochs} epochs of {training.loss} by "
                f"{training.optimizer} ({_listed(training.opt_args)}), schedule "
                f"{training.schedule}, precision {training.precision}",
            ),
            ("Seed of the training", str(training.seed)),
            ("Trained", f"{story.started} to {story.ended}"),
            ("Figures after it", _listed(story.metrics)),
            ("Software", _listed(story.versions, "{} {}")),
        ]
    if calibration is not None:
        text = (
            f"{calibration.method} scaling, fitted on {calibration.counted}: negative "
            f"log-likelihood {calibration.nll_before:.4f} before, "
            f"{calibration.nll_after:.4f} after"
        )
        intervals = calibration.intervals
        if intervals is not None:
            text += (
                f"; intervals of volumes made to hold the truth in "
                f"{intervals.coverage:.0%} of cases, fitted on "
                f"{intervals.n_subjects} subjects"
            )
        facts.append(("Calibration", text))
    elif model is not None:
        facts.append(("Calibration", "none"))
    return facts


def _listed(values: Mapping[str, object], pattern: str = "{} = {}") -> str:
    parts = [
        pattern.format(name, value if isinstance(value, str) else _short(value))
        for name, value in values.items()
    ]
    return ", ".join(parts) or "none"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
