"""Pictures of predictions, and charts of how good and how sure they are."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import nibabel as nib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.io import ImageSource, read_image, read_labels, to_nibabel
from nobrainer.metrics.calibration import Reliability
from nobrainer.metrics.uncertainty import RiskCoverage
from nobrainer.quality import Case
from nobrainer.structures import Structure

_PLANES = (("sagittal", "P", "A"), ("coronal", "L", "R"), ("axial", "L", "R"))
_TRUTH_COLOUR = "cyan"
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


def draw_prediction(
    image: ImageSource,
    label: nib.Nifti1Image,
    variance: nib.Nifti1Image,
    entropy: nib.Nifti1Image,
    *,
    mutual_information: nib.Nifti1Image | None = None,
    labels: LabelTable | None = None,
    truth: ImageSource | None = None,
    title: str,
) -> Figure:
    """Draw three planes of a scan, its segmentation and its uncertainty maps.

    The planes meet in the centre of the foreground, the true one where it is known;
    left is left.

    Args:
        image: the scan.
        label, variance, entropy: what prediction gave for it, on its grid.
        mutual_information: the same, for a column of its own.
        labels: names and colours of the classes, and their values in the label map;
            None where it holds the numbers of classes about which nothing is known.
        truth: true labels on the scan's grid, whose outlines are drawn dashed.
        title: above the figure.

    Returns:
        A figure with a row per plane and the columns scan, outlines of every
        structure, and a column for each map that is not 0 everywhere (the variance
        of one draw is); save it with `savefig`.

    Raises:
        InputError: the scan or the true labels cannot be read, or do not lie on one
            grid.
    """
    volume = read_image(image)
    upright = nib.as_closest_canonical(to_nibabel(volume.data, volume))
    spacing_mm = nib.affines.voxel_sizes(upright.affine)
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
    maps = (
        ("variance", variance, "magma", "variance of probabilities"),
        ("entropy", entropy, "viridis", "entropy (nats)"),
        (
            "mutual information",
            mutual_information,
            "cividis",
            "mutual information (nats)",
        ),
    )
    columns = [
        ("scan", scan, "gray", "intensity"),
        ("segmentation", scan, "gray", "intensity"),
    ]
    for name, found_map, colours, unit in maps:
        if found_map is None:
            continue
        values = _upright(found_map)
        if values.any():
            columns.append((name, values, colours, unit))
    centre = _centre(predicted if true is None or not true.any() else true)

    figure = Figure(figsize=(0.6 + 3.1 * len(columns), 10.4), layout="constrained")
    # A dollar sign in a name is not the start of a formula.
    figure.suptitle(title, parse_math=False, wrap=True)
    axes = figure.subplots(3, len(columns))
    for column, (name, values, colours, unit) in enumerate(columns):
        axes[0, column].set_title(name)
        # A few voxels far above the others would leave those dark.
        high_value = float(np.percentile(values, 99.8)) or float(values.max())
        limits = min(0.0, float(values.min())), high_value
        for normal, (plane, low, high) in enumerate(_PLANES):
            across, up = (axis for axis in range(3) if axis != normal)
            axis = axes[normal, column]
            shown = axis.imshow(
                values.take(centre[normal], normal).T,
                colours,
                origin="lower",
                aspect=spacing_mm[up] / spacing_mm[across],
                vmin=limits[0],
                vmax=limits[1],
            )
            # An outline that leaves the scan must not widen the panel.
            axis.autoscale(False)
            axis.set(xticks=[], yticks=[], xlabel=f"{low}  {plane}  {high}")
        bar = figure.colorbar(
            shown, ax=axes[:, column], location="bottom", label=unit, extend="max"
        )
        bar.ax.locator_params(nbins=4)
        bar.ax.ticklabel_format(scilimits=(-2, 5), useMathText=True)
    top = int(max(predicted.max(), 0 if true is None else true.max()))
    table = labels or LabelTable.generic(max(top + 1, 2))
    predicted = table.to_classes(predicted)
    handles = _outline(axes[:, 1], centre, predicted, true, table)
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
        structures: of one scan; those without a voxel are left out.
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
        cases: of one run.
        pages: address of a case's page by its name; in an SVG its point leads there.

    Returns:
        A figure with a panel for the deviation of volumes, where a cohort to compare
        with was known, and one for entropy. Flagged cases are crosses, the others
        dots; the worst of them have their names.
    """
    kinds = (
        ("volume_z", "largest deviation of a volume (SD)"),
        ("entropy", "mean entropy in the structures (nats)"),
    )
    panels = [
        (name, meaning)
        for name, meaning in kinds
        if name == "entropy" or any(case.features[name] for case in cases)
    ]
    figure = Figure(figsize=(5.4 * len(panels), 4.4), layout="constrained")
    worst = sorted((c for c in cases if c.flags), key=lambda case: case.score)
    for axis, (feature, meaning) in zip(
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
        axis.set(xlabel=meaning, ylabel="score (1 is best)", ylim=(-0.03, 1.03))
        axis.margins(x=0.12)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize="small")
    return figure


def _outline(
    axes: np.ndarray,
    centre: np.ndarray,
    predicted: np.ndarray,
    true: np.ndarray | None,
    table: LabelTable,
) -> list[Artist]:
    """Draw the outlines of every structure on the three planes; what they are."""
    shown: dict[int, int] = {}
    for normal, axis in enumerate(axes):
        section = predicted.take(centre[normal], normal).T
        classes, counts = np.unique(section[section > 0], return_counts=True)
        for index, count in zip(classes.tolist(), counts.tolist(), strict=True):
            shown[index] = shown.get(index, 0) + count
            _contour(axis, section == index, table.colors[index], "solid")
        if true is not None:
            section = true.take(centre[normal], normal).T
            for index in np.unique(section[section > 0]):
                _contour(axis, section == index, _TRUTH_COLOUR, "dashed")
    largest = sorted(shown, key=lambda index: -shown[index])[:_LEGEND]
    # Patches, because a thin white line is not seen on white.
    handles: list[Artist] = [
        Patch(facecolor=table.colors[n], edgecolor="gray", label=table.names[n])
        for n in sorted(largest)
    ]
    if true is not None:
        handles.append(
            Line2D([], [], color=_TRUTH_COLOUR, linestyle="dashed", label="truth")
        )
    if len(shown) > len(largest):
        more = f"and {len(shown) - len(largest)} more"
        handles.append(Line2D([], [], linestyle="none", label=more))
    return handles


def _contour(axis: Axes, mask: np.ndarray, colour: str, style: str) -> None:
    # One voxel of air around it closes the outline at the edge of the scan.
    rows, columns = (np.arange(-1, n + 1) for n in mask.shape)
    axis.contour(
        columns,
        rows,
        np.pad(mask, 1),
        [0.5],
        colors=colour,
        linewidths=1,
        linestyles=style,
    )


def _centre(labels: np.ndarray) -> np.ndarray:
    """The middle voxel of the foreground, or of the volume where there is none."""
    foreground = np.argwhere(labels > 0)
    if not len(foreground):
        return np.array(labels.shape) // 2
    return foreground.mean(0).astype(int)


def _chart(*, height: float = 3.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.4, height), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _upright(image: nib.Nifti1Image) -> np.ndarray:
    """The voxels, with axes to the right, to the front and up."""
    return np.asarray(nib.as_closest_canonical(image).dataobj)
