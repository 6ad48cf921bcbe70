"""Pictures of predictions, and charts of how good and how sure they are."""

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import cycle

import nibabel as nib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from nobrainer.checks import check_count
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.glossary import OF_SCANS
from nobrainer.io import ImageSource, read_image, read_labels, to_nibabel
from nobrainer.metrics.calibration import Reliability
from nobrainer.metrics.uncertainty import RiskCoverage
from nobrainer.quality import Case
from nobrainer.structures import Structure

_PLANES = (("sagittal", "x"), ("coronal", "y"), ("axial", "z"))
"""Of each world axis, the plane across it and the axis's name."""
_ENDS = (("L", "R"), ("P", "A"), ("I", "S"))
"""What lies at the low and at the high end of each world axis."""
_TRUTH_COLOUR = "white"
_OF_SCAN = ("scan", "segmentation")
"""The columns that show the scan itself."""
_STYLES = (
    ("tab:blue", "o", "solid"),
    ("tab:orange", "s", "dashed"),
    ("tab:green", "^", "dotted"),
    ("tab:purple", "D", "dashdot"),
)
"""Of curves, so that colour is not all that tells them apart."""
_LEGEND = 12
"""Structures that a legend names; there is no room for more."""
_NAMED = 6
"""Flagged cases whose names a chart has; more would cover each other."""
_DOTS = 100
"""Subjects up to which each has a dot."""
_WIDE = 50
"""Ratio of volumes above which an axis is logarithmic, or the smallest would vanish."""


class Picture(Figure):
    """A matplotlib figure that a notebook shows where it is the last value of a cell.

    Figures that pyplot does not manage are otherwise shown as text there, unless
    pyplot was imported before.
    """

    def _repr_png_(self) -> bytes:
        data = BytesIO()
        self.savefig(data, format="png")
        return data.getvalue()


def draw_prediction(
    image: ImageSource,
    label: nib.Nifti1Image,
    variance: nib.Nifti1Image,
    entropy: nib.Nifti1Image,
    *,
    mutual_information: nib.Nifti1Image | None = None,
    labels: LabelTable | None = None,
    truth: ImageSource | None = None,
    n_slices: int = 1,
    radiological: bool = False,
    title: str,
) -> Picture:
    """Draw slices of a scan, its segmentation and its uncertainty maps.

    The colours of the maps have fixed limits, so that two scans can be compared:
    variance 0 to 0.25, entropy and mutual information 0 to ln C nats for C classes.
    Colours of variance and mutual information follow the square root, because most
    of their values are small.

    Args:
        image: the scan.
        label, variance, entropy: what prediction gave for it, on its grid.
        mutual_information: the same, for a column of its own.
        labels: names and colours of the classes, and their values in the label map;
            None where it holds the numbers of classes about which nothing is known.
        truth: true labels on the scan's grid, with the values of `label`.
        n_slices: slices in each of the three planes, spread over the foreground
            (the true one where it is known); one lies in its middle.
        radiological: show the subject's left on the right of the picture.
        title: above the figure.

    Returns:
        A figure with a row per slice and the columns scan, outlines of every
        structure, and a column for each map that is not 0 everywhere (the variance
        of one draw is); save it with `savefig`. True outlines are a broad band under
        the predicted ones. The position of a slice is that of its middle in world
        millimetres.

    Raises:
        InputError: the scan or the true labels cannot be read, or do not lie on one
            grid, or `n_slices` is below 1.
    """
    check_count("n_slices", n_slices, 1)
    volume = read_image(image)
    # In millimetres, whatever the unit of the file.
    upright = nib.as_closest_canonical(nib.Nifti1Image(volume.data, volume.affine))
    scan, predicted, true = _upright(upright), _upright(label), None
    if truth is not None:
        found = read_labels(truth)
        true = _upright(to_nibabel(found.data, found))
    for name, given in (("label", predicted), ("truth", true)):
        if given is not None and given.shape != scan.shape:
            raise InputError(
                f"{name} must be on the scan's grid of {scan.shape} voxels, got "
                f"{given.shape}: give the one that belongs to this scan"
            )
    top = int(max(predicted.max(), 0 if true is None else true.max()))
    table = labels or LabelTable.generic(max(top + 1, 2))
    most = math.log(len(table.names))
    maps = (
        ("variance", variance, "magma", "of probabilities", PowerNorm(0.5, 0, 0.25)),
        ("entropy", entropy, "viridis", "nats", Normalize(0, most)),
        (
            "mutual information",
            mutual_information,
            "cividis",
            "nats",
            PowerNorm(0.5, 0, most),
        ),
    )
    low, high = float(min(scan.min(), 0)), float(np.percentile(scan, 99.8))
    greys = Normalize(low, high if high > low else float(scan.max()))
    columns = [(name, scan, "gray", "intensity", greys) for name in _OF_SCAN]
    for name, found_map, colours, unit, norm in maps:
        if found_map is None:
            continue
        values = _upright(found_map)
        if values.any():
            columns.append((name, values, colours, f"{name} ({unit})", norm))
    positions = _positions(
        predicted if true is None or not true.any() else true, n_slices
    )

    panel = 3.1 if n_slices == 1 else 2.2
    figure = Picture(
        figsize=(0.6 + panel * len(columns), 1.1 + panel * 3 * n_slices),
        layout="constrained",
    )
    side, convention = (
        ("right", "radiological") if radiological else ("left", "neurological")
    )
    note = f"the subject's left is on the {side} ({convention}); positions in mm"
    figure.supylabel(note, fontsize="small")
    # Without a text it would take the room of the columns' names.
    if title:
        # A dollar sign in a name is not the start of a formula.
        figure.suptitle(title, parse_math=False, wrap=True)
    axes = figure.subplots(3 * n_slices, len(columns))
    slices = [(normal, at) for normal in range(3) for at in positions[normal]]
    for column, (name, values, colours, unit, norm) in enumerate(columns):
        axes[0, column].set_title(name)
        for axis, (normal, at) in zip(axes[:, column], slices, strict=True):
            shown = axis.imshow(
                values.take(at, normal).T, colours, origin="lower", norm=norm
            )
            _frame(axis, upright, normal, at, radiological)
        bar = figure.colorbar(
            shown,
            ax=axes[:, column],
            location="bottom",
            label=unit,
            extend="max" if norm is greys else "neither",
        )
        if norm is greys:
            bar.ax.locator_params(nbins=4)
            bar.ax.ticklabel_format(scilimits=(-2, 5), useMathText=True)
        else:
            shares = (0, 0.04, 0.25, 1) if isinstance(norm, PowerNorm) else (0, 0.5, 1)
            ticks = [share * (norm.vmax or 0.0) for share in shares]
            bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
    handles = _outline(
        axes[:, 1],
        slices,
        table.to_classes(predicted),
        None if true is None else table.to_classes(true),
        table,
    )
    if handles:
        legend = figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=min(len(handles), len(columns) - 1),
            frameon=False,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def draw_structures(
    structures: Sequence[Structure],
    truth_volumes_mm3: Mapping[str, float] | None = None,
) -> Figure:
    """Draw the volume of each structure with its 95 % interval, in ml.

    Args:
        structures: the structures of one scan; those without a voxel are left out.
        truth_volumes_mm3: true volumes by name of the structure, drawn as crosses.

    Returns:
        A figure with a row per structure: the mean over draws as a dot, a line for
        the interval of one further draw and, where the model is calibrated, a wide
        pale one for the interval of the true volume. The axis is logarithmic where
        the smallest would vanish beside the largest.
    """
    present = [s for s in structures if s.volume_mm3 > 0]
    figure, axis = _chart(height=1.1 + 0.24 * max(len(present), 2))
    rows = np.arange(len(present))
    mean = np.array([s.volume_mm3 for s in present]) / 1000
    intervals = (
        ("interval of the true volume", "conformal", 7.0, "tab:blue", 0.3),
        ("95 % interval of one further draw", "volume", 1.8, "tab:blue", 1.0),
    )
    for meaning, kind, width, colour, alpha in intervals:
        low, high = (
            np.array([getattr(s, f"{kind}_{end}_mm3") for s in present]) / 1000
            for end in ("low", "high")
        )
        if np.isfinite(low).any():
            # A logarithmic axis has no 0: there the line starts at the frame.
            axis.hlines(
                rows, low, high, colour, linewidth=width, alpha=alpha, label=meaning
            )
    axis.plot(mean, rows, "o", color="tab:blue", markersize=5, label="volume")
    if truth_volumes_mm3 is not None:
        true = [truth_volumes_mm3.get(s.name, np.nan) / 1000 for s in present]
        axis.plot(true, rows, "x", color="black", markersize=6, label="true volume")
    if len(mean) and mean.max() > _WIDE * mean.min():
        axis.set_xscale("log")
    else:
        axis.set_xlim(left=0)
    axis.set_yticks(rows, [s.name for s in present], parse_math=False)
    axis.set(xlabel="volume (ml)", ylim=(len(present) - 0.5, -0.5))
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper left", ncols=2, fontsize="small", frameon=False)
    return figure


def draw_metric(values: Mapping[str, Sequence[float]], meaning: str) -> Figure:
    """Draw one figure of each structure over subjects.

    Args:
        values: of each subject, by name of the structure.
        meaning: name of the axis, with the unit.

    Returns:
        A figure with a row per structure: a line over the range of the subjects, a bar
        across it at their mean, and a dot for each subject or, of more than 100, a
        thick line from the first to the third quartile.
    """
    figure, axis = _chart(height=1.0 + 0.24 * max(len(values), 2))
    for row, found in enumerate(values.values()):
        axis.hlines(row, min(found), max(found), "tab:blue", linewidth=1)
        if len(found) > _DOTS:
            first, third = np.quantile(found, (0.25, 0.75))
            axis.hlines(row, first, third, "tab:blue", linewidth=5)
        else:
            axis.plot(found, [row] * len(found), "o", color="tab:blue", alpha=0.5, ms=4)
        axis.plot(np.mean(found), row, "|", color="black", ms=12, mew=2)
    axis.set_yticks(np.arange(len(values)), list(values), parse_math=False)
    axis.set(xlabel=meaning, ylim=(len(values) - 0.5, -0.5))
    axis.grid(axis="x", alpha=0.3)
    return figure


def draw_reliability(curves: Mapping[str, Reliability]) -> Figure:
    """Draw how often the winning class is right against how sure the network is.

    Args:
        curves: of each region, by its name.

    Returns:
        A figure with the curves and the line on which confidence is accuracy (below
        it the network is too sure), and under it the number of voxels in each bin.
    """
    figure, axis = _chart(height=4.6)
    axis.remove()
    upper, lower = figure.subplots(2, height_ratios=(3, 1), sharex=True)
    upper.plot([0, 1], [0, 1], color="black", linewidth=0.8, label="as it should be")
    for (name, curve), (colour, marker, style) in zip(
        curves.items(), cycle(_STYLES), strict=False
    ):
        upper.plot(
            curve.confidence,
            curve.accuracy,
            color=colour,
            marker=marker,
            linestyle=style,
            markersize=4,
            label=name,
        )
        lower.plot(
            curve.confidence,
            curve.count,
            color=colour,
            marker=marker,
            linestyle=style,
            markersize=3,
        )
    lowest = min((min(c.confidence, default=0.0) for c in curves.values()), default=0.0)
    upper.set(ylabel="share that is right", ylim=(-0.02, 1.02))
    lower.set(xlabel="mean probability of the winning class", ylabel="voxels")
    lower.set(yscale="log", xlim=(max(0.0, lowest - 0.05), 1.02))
    for part in (upper, lower):
        part.spines[["top", "right"]].set_visible(False)
        part.grid(alpha=0.3)
    upper.legend(fontsize="small", frameon=False)
    return figure


def draw_risk_coverage(curves: Mapping[str, RiskCoverage]) -> Figure:
    """Draw how the error falls where the most uncertain voxels are left out.

    Args:
        curves: of each score or region, by its name.
    """
    figure, axis = _chart()
    for (name, curve), (colour, _, style) in zip(
        curves.items(), cycle(_STYLES), strict=False
    ):
        axis.plot(curve.coverage, curve.risk, color=colour, linestyle=style, label=name)
    axis.set(xlabel="share of voxels kept, the most certain first", xlim=(0, 1))
    axis.set(ylabel="share of them that is wrong", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", frameon=False)
    return figure


def draw_quality(
    cases: Sequence[Case], pages: Mapping[str, str] | None = None
) -> Figure:
    """Draw the score of every case against the features that often explain it.

    Args:
        cases: cases of one run, at least one.
        pages: address of a case's page by its name; in an SVG its point leads there.

    Returns:
        A figure with a panel for the deviation of volumes, where a cohort to compare
        with was known, and one for entropy. Flagged cases are crosses, the others
        dots; the worst of them have their names.
    """
    panels = [
        name
        for name in ("volume_z", "entropy")
        if name == "entropy" or any(case.features[name] for case in cases)
    ]
    figure = Figure(figsize=(5.4 * len(panels), 4.4), layout="constrained")
    worst = sorted((c for c in cases if c.flags), key=lambda case: case.score)
    for axis, feature in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        for flagged, marker, colour in (
            (False, "o", "tab:blue"),
            (True, "X", "tab:red"),
        ):
            group = [case for case in cases if bool(case.flags) is flagged]
            points = axis.scatter(
                [case.features[feature] for case in group],
                [case.score for case in group],
                s=40,
                marker=marker,
                color=colour,
                label="flagged" if flagged else "not flagged",
            )
            if pages is not None:
                points.set_urls([pages.get(case.name) for case in group])
        middle = np.mean(axis.get_xlim())
        for case in worst[:_NAMED]:
            right = case.features[feature] > middle
            axis.annotate(
                case.name,
                (case.features[feature], case.score),
                xytext=(-6 if right else 6, 4),
                textcoords="offset points",
                ha="right" if right else "left",
                fontsize="x-small",
                parse_math=False,
                # Else long names leave no room for the panel.
                in_layout=False,
            )
        axis.set(
            xlabel=OF_SCANS[feature].title,
            ylabel=f"{cases[0].meaning} (1 is best)",
            ylim=(-0.03, 1.03),
        )
        axis.margins(x=0.12)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize="small")
    return figure


def _frame(
    axis: Axes, upright: nib.Nifti1Image, normal: int, at: int, radiological: bool
) -> None:
    """Scale a slice's panel and say where it lies and what is at its edges."""
    across, up = (one for one in range(3) if one != normal)
    spacing_mm = nib.affines.voxel_sizes(upright.affine)
    axis.set_aspect(spacing_mm[up] / spacing_mm[across])
    # An outline that leaves the scan must not widen the panel.
    axis.autoscale(False)
    plane, name = _PLANES[normal]
    middle = (np.array(upright.shape) - 1) / 2
    middle[normal] = at
    position_mm = nib.affines.apply_affine(upright.affine, middle)[normal]
    axis.set(xticks=[], yticks=[], xlabel=f"{plane}, {name} = {position_mm:.1f}")
    left, right = _ENDS[across]
    if radiological and across == 0:
        axis.invert_xaxis()
        left, right = right, left
    below, above = _ENDS[up]
    for text, x, y in (
        (left, 0.05, 0.5),
        (right, 0.95, 0.5),
        (below, 0.5, 0.05),
        (above, 0.5, 0.95),
    ):
        axis.text(
            x,
            y,
            text,
            transform=axis.transAxes,
            color="white",
            fontsize="small",
            ha="center",
            va="center",
            path_effects=[withStroke(linewidth=1.5, foreground="black")],
        )


def _outline(
    axes: np.ndarray,
    slices: Sequence[tuple[int, int]],
    predicted: np.ndarray,
    true: np.ndarray | None,
    table: LabelTable,
) -> list[Artist]:
    """Draw the outlines of every structure on the slices; return what they are."""
    shown: dict[int, int] = {}
    for axis, (normal, at) in zip(axes, slices, strict=True):
        if true is not None:
            section = true.take(at, normal).T
            for index in np.unique(section[section > 0]):
                _contour(axis, section == index, _TRUTH_COLOUR, 3.0)
        section = predicted.take(at, normal).T
        classes, counts = np.unique(section[section > 0], return_counts=True)
        for index, count in zip(classes.tolist(), counts.tolist(), strict=True):
            shown[index] = shown.get(index, 0) + count
            _contour(axis, section == index, table.colors[index], 1.2)
    largest = sorted(shown, key=lambda index: -shown[index])[:_LEGEND]
    # Patches, because a thin white line is not seen on white.
    handles: list[Artist] = [
        Patch(facecolor=table.colors[n], edgecolor="gray", label=table.names[n])
        for n in sorted(largest)
    ]
    if true is not None:
        handles.append(
            Line2D(
                [],
                [],
                color=_TRUTH_COLOUR,
                linewidth=3,
                label="truth, beneath",
                path_effects=[withStroke(linewidth=4, foreground="black")],
            )
        )
    if len(shown) > len(largest):
        more = f"and {len(shown) - len(largest)} more"
        handles.append(Line2D([], [], linestyle="none", label=more))
    return handles


def _contour(axis: Axes, mask: np.ndarray, colour: str, width: float) -> None:
    # One voxel of air around it closes the outline at the edge of the scan.
    rows, columns = (np.arange(-1, n + 1) for n in mask.shape)
    line = axis.contour(
        columns, rows, np.pad(mask, 1), [0.5], colors=colour, linewidths=width
    )
    # A dark rim, so that a line is seen on tissue of its own brightness.
    line.set_path_effects([withStroke(linewidth=width + 0.7, foreground="black")])


def _positions(labels: np.ndarray, n_slices: int) -> np.ndarray:
    """Voxel indices (3, n_slices) that divide the foreground evenly on each axis.

    Without foreground they divide the volume.
    """
    voxels = np.argwhere(labels > 0)
    if not len(voxels):
        voxels = np.array([(0, 0, 0), labels.shape])
    shares = (np.arange(n_slices) + 0.5) / n_slices
    return np.quantile(voxels, shares, axis=0).astype(int).T


def _chart(*, height: float = 3.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.4, height), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _upright(image: nib.Nifti1Image) -> np.ndarray:
    """The voxels, with axes to the right, to the front and up."""
    return np.asarray(nib.as_closest_canonical(image).dataobj)
