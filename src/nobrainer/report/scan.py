"""The page of one scan: slices, viewers, volumes and the places to look at."""

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import nibabel as nib
import numpy as np
from markupsafe import Markup

from nobrainer.data.labels import LabelTable
from nobrainer.figure import draw_prediction, draw_structures, last_colour
from nobrainer.glossary import OF_DRAWS, OF_STRUCTURES
from nobrainer.io import read_geometry
from nobrainer.posthoc import Calibration
from nobrainer.processing.prediction import Prediction
from nobrainer.quality import Case
from nobrainer.recipe import Recipe
from nobrainer.regions import Region
from nobrainer.report.document import (
    Picture,
    Table,
    address,
    check_free,
    embed_figure,
    number,
    span,
    write_document,
)
from nobrainer.report.facts import caution_of, list_facts
from nobrainer.report.viewer import Scan, Viewer
from nobrainer.structures import Part, Structure

_CALIBRATED = "calibrated (ml)"
_COLUMNS = {
    "volume (ml)": "Mean over the draws, where there are several. Not found: no draw "
    "has a voxel of it, which does not make it certain. Not in training: no training "
    "scan had it, so that the network cannot know it.",
    "sd (ml)": OF_DRAWS["volume_sd_mm3"].meaning,
    "95 % of draws (ml)": "The volume of one further draw lies in it with 95 % "
    "probability. It says how far the draws agree, not where the truth is.",
    _CALIBRATED: "An interval for the true volume, as wide as held-out scans showed "
    "that it must be.",
    "CV (%)": OF_DRAWS["cv"].meaning,
} | {
    metric.heading: metric.meaning
    for metric in (
        OF_STRUCTURES["pairwise_dice"],
        OF_DRAWS["iou"],
        OF_DRAWS["entropy"],
        OF_DRAWS["mutual_information"],
        OF_DRAWS["expected_dice"],
    )
}
"""Columns of the table of structures, and what they mean."""
_AXES = ("x (mm)", "y (mm)", "z (mm)")


def write_case(
    prediction: Prediction,
    path: str | PathLike[str],
    *,
    model: Recipe | None,
    case: Case | None = None,
    calibration: Calibration | None = None,
    index: str | PathLike[str] | None = None,
    slices: Picture | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the report of one scan: one HTML page that loads nothing.

    Args:
        prediction: the prediction of the scan.
        path: path of the page; its directory exists.
        model: how the model was made, as far as known.
        case: what is said of the quality, if that was assessed.
        calibration: how the model was calibrated, if it was.
        index: path of the page of all scans, relative to this one, if there will be
            one.
        slices: what `draw_slices` returned for the prediction, if that was called.
        overwrite: replace a page that is there.

    Returns:
        The path of the page.

    Raises:
        InputError: a page is there already, or it cannot be written.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    parts = (*prediction.structures, *prediction.totals)
    table = _structure_table(parts, prediction.labels)
    regions = prediction.regions
    content = {
        "title": prediction.name,
        "method": _describe_method(prediction),
        "case": case,
        "score": case and _describe_score(case),
        "index": None if index is None else address(index),
        "slices": draw_slices(prediction) if slices is None else slices,
        "chart": _volume_chart(prediction.structures),
        "table": table,
        "meanings": _explain_columns(table, calibration),
        "regions": _region_table(regions) if regions else None,
        "viewers": _viewers(prediction, regions),
        "facts": list_facts(model, calibration),
    }
    return write_document(
        path, "scan.html", content, caution=caution_of(model), overwrite=overwrite
    )


def _describe_method(prediction: Prediction) -> str:
    n_draws = len(prediction.volumes_mm3)
    if n_draws > 1:
        return f"{n_draws} draws of the network, seed {prediction.seed}."
    return "One pass of the network: nothing is known about its variance."


def _describe_score(case: Case) -> str:
    if math.isfinite(case.predicted_dice):
        return f"Its mean Dice against a reference is predicted to be {case.score:.3f}."
    return f"Its score, from 0 to 1, is {case.score:.3f}: {case.meaning}."


def draw_slices(prediction: Prediction) -> Picture:
    """Draw nine slices with the outlines of the structures and maps of uncertainty.

    Args:
        prediction: the prediction of the scan.

    Returns:
        A PNG, with the text for those who do not see it.
    """
    n_present = sum(one.volume_mm3 > 0 for one in prediction.structures)
    figure = draw_prediction(
        prediction.scan,
        *prediction,
        mutual_information=prediction.mutual_information,
        labels=prediction.labels,
        n_slices=3,
        title="",
    )
    alt = (
        f"Sagittal, coronal and axial slices of {prediction.name} with outlines of "
        f"{n_present} structures and maps of uncertainty"
    )
    return embed_figure(figure, alt, "png")


def _volume_chart(structures: Sequence[Structure]) -> Picture | None:
    if not any(one.volume_mm3 > 0 for one in structures):
        return None
    alt = "Volumes of the structures with intervals; the table below has the numbers"
    return embed_figure(draw_structures(structures), alt, "svg")


def _viewers(prediction: Prediction, regions: Sequence[Region]) -> list[Viewer]:
    """The segmentation and the maps over the scan; a map of zeros has no viewer."""
    labels = prediction.labels
    variance = _in_mm(prediction.variance)
    spread = nib.Nifti1Image(np.sqrt(variance.dataobj), variance.affine)
    scan = Scan(_in_mm(prediction.scan), _least_sure(prediction, regions))
    viewers = [scan.show_labels(_in_mm(prediction.label), labels)]
    inside = np.asarray(prediction.label.dataobj) > 0
    entropy, most_nats = _in_mm(prediction.entropy), math.log(len(labels.names))
    of_spread = "Standard deviation of the probabilities, root of the variance"
    for title, image, colours, most in (
        ("Entropy in nats", entropy, "viridis", most_nats),
        (of_spread, spread, "magma", 0.5),
    ):
        top = last_colour(np.asarray(image.dataobj), inside, most)
        limits = f"0 to {top:.2g}{' and more' if top < most else ''}"
        viewers.append(scan.show_map(f"{title} ({limits})", image, colours, top))
    return [viewer for viewer in viewers if viewer]


def _structure_table(parts: Sequence[Part], labels: LabelTable) -> Table:
    """A row for each structure, with its colour, and for each whole of several."""
    rows = []
    for s in parts:
        # One draw agrees with itself, which says nothing.
        agreement = (s.iou, s.mutual_information)
        if math.isnan(s.volume_sd_mm3):
            agreement = (math.nan, math.nan)
        is_found = s.status == "found"
        sd_mm3 = s.volume_sd_mm3 if is_found else math.nan
        name = Markup.escape(s.name)
        if isinstance(s, Structure):
            swatch = Markup('<span class="swatch" style="background: {}"></span>{}')
            name = swatch.format(labels.colors[s.class_number], name)
        rows.append(
            (
                name,
                number(s.volume_mm3 / 1000, 2) if is_found else s.status,
                number(sd_mm3 / 1000, 2),
                span(s.volume_low_mm3 / 1000, s.volume_high_mm3 / 1000, 2),
                span(s.conformal_low_mm3 / 1000, s.conformal_high_mm3 / 1000, 2),
                number(100 * s.cv, 1),
                number(s.pairwise_dice),
                number(agreement[0]),
                number(s.entropy),
                number(agreement[1]),
                number(s.expected_dice),
            )
        )
    return Table(
        "Structures: volumes, and how sure the network is of them",
        ("structure", *_COLUMNS),
        tuple(rows),
    ).without_blanks()


def _explain_columns(
    table: Table, calibration: Calibration | None
) -> list[tuple[str, str]]:
    """The heads of the table of structures, and what they mean."""
    meanings = {name: _COLUMNS[name] for name in table.head[1:]}
    intervals = calibration and calibration.intervals
    if intervals and _CALIBRATED in meanings:
        meanings[_CALIBRATED] += (
            f" It is made to hold it in {intervals.coverage:.0%} of cases."
        )
    return list(meanings.items())


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
    """The image with its affine in millimetres, whatever the unit of its header."""
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
