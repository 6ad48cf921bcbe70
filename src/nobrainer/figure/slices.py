"""Pictures of a scan, its segmentation and its uncertainty maps, slice by slice."""

import math
from dataclasses import dataclass
from io import BytesIO

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke

from nobrainer.checks import check_count
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.figure.outlines import add_legend, cut, draw_outlines
from nobrainer.figure.scale import last_colour
from nobrainer.io import ImageSource, read_image, read_labels, to_nibabel

_PLANES = (("sagittal", "x"), ("coronal", "y"), ("axial", "z"))
"""For each world axis, the plane across it and the name of its coordinate."""
_ENDS = (("L", "R"), ("P", "A"), ("I", "S"))
"""For each world axis, the letters at its low and at its high end."""

_ROOM_INCHES = 0.15
"""Height that the layout leaves free at the top of a figure."""


class Picture(Figure):
    """A matplotlib figure that a notebook shows where it is the last value of a cell.

    Figures that pyplot does not manage are otherwise shown as text there, unless
    pyplot was imported before.
    """

    def _repr_png_(self) -> bytes:
        data = BytesIO()
        self.savefig(data, format="png")
        return data.getvalue()


@dataclass(frozen=True)
class _Column:
    """A column of panels: an image, and how its values become colours.

    name: text above the column.
    values: (I, J, K), its axes to the right, to the front and up.
    colours: name of the colour map.
    unit: text at the bar of colours.
    norm: how values become shares of the colour map.
    is_open: whether there may be values beyond the last colour.
    is_scan: whether it shows the scan and not a map of uncertainty.
    """

    name: str
    values: np.ndarray
    colours: str
    unit: str
    norm: Normalize
    is_open: bool
    is_scan: bool


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

    The variance is shown as its root, the standard deviation. The colours of each map
    go from 0 to what the 99th centile of the labelled voxels is, rounded up, which the
    bar of colours says; see `last_colour`. To compare two scans, compare these, too.

    Args:
        image: the scan.
        label, variance, entropy: label map and uncertainty maps of the prediction, on
            the scan's grid.
        mutual_information: map of the mutual information, if it is to be shown.
        labels: names and colours of the classes, and their values in the label map;
            None where the map holds the numbers of classes without names.
        truth: true labels on the scan's grid, with the values of `label`.
        n_slices: number of slices in each of the three planes. They are spread over
            the foreground (the true one where it is known); one lies in its middle.
        radiological: show the subject's left on the right of the picture.
        title: text above the figure.

    Returns:
        A figure with a row per slice and these columns: the scan, the outlines of every
        structure, and each map that is not 0 everywhere (the variance of one draw is).
        Save it with `savefig`. True outlines are a broad band under the predicted ones.
        The text at a slice gives the world coordinate of its middle in mm.

    Raises:
        InputError: the scan or the true labels cannot be read, or do not lie on one
            grid, or `n_slices` is below 1.
    """
    check_count("n_slices", n_slices, 1)
    volume = read_image(image)
    # In millimetres, whatever the unit of the file.
    upright = nib.as_closest_canonical(nib.Nifti1Image(volume.data, volume.affine))
    scan, predicted = _upright(upright), _upright(label)
    true = None if truth is None else _read_truth(truth)
    _check_grid("label", predicted, scan)
    if true is not None:
        _check_grid("truth", true, scan)
    top = int(max(predicted.max(), 0 if true is None else true.max()))
    table = labels or LabelTable.generic(max(top + 1, 2))
    columns = _scan_columns(scan)
    columns += _map_columns(
        variance, entropy, mutual_information, predicted > 0, len(table.names)
    )
    reference = predicted if true is None or not true.any() else true
    slices = [
        (normal, at)
        for normal, places in enumerate(_positions(reference, n_slices))
        for at in places
    ]
    figure, panels = _empty_panels(len(columns), n_slices, title, radiological)
    for own, column in zip(panels.T, columns, strict=True):
        for axis, (normal, at) in zip(own, slices, strict=True):
            axis.imshow(
                cut(column.values, normal, at).T,
                column.colours,
                origin="lower",
                norm=column.norm,
            )
            _frame(axis, upright, normal, at, radiological)
        own[0].set_title(column.name)
        _add_colour_bar(figure, own, column)
    true_classes = None if true is None else table.to_classes(true)
    handles = draw_outlines(
        panels[:, 1], slices, table.to_classes(predicted), true_classes, table
    )
    add_legend(figure, handles, n_columns=len(columns) - 1)
    return figure


def _read_truth(truth: ImageSource) -> np.ndarray:
    """The true labels, with axes to the right, to the front and up."""
    found = read_labels(truth)
    return _upright(to_nibabel(found.data, found))


def _check_grid(name: str, labels: np.ndarray, scan: np.ndarray) -> None:
    """Refuse labels that do not have the shape of the scan."""
    if labels.shape != scan.shape:
        raise InputError(
            f"{name} must be on the scan's grid of {scan.shape} voxels, got "
            f"{labels.shape}: give the one that belongs to this scan"
        )


def _scan_columns(scan: np.ndarray) -> list[_Column]:
    """The scan in greys, twice: alone and under the outlines."""
    low, high = float(min(scan.min(), 0)), float(np.percentile(scan, 99.8))
    greys = Normalize(low, high if high > low else float(scan.max()))
    return [
        _Column(name, scan, "gray", "intensity", greys, is_open=True, is_scan=True)
        for name in ("scan", "segmentation")
    ]


def _map_columns(
    variance: nib.Nifti1Image,
    entropy: nib.Nifti1Image,
    mutual_information: nib.Nifti1Image | None,
    inside: np.ndarray,
    n_classes: int,
) -> list[_Column]:
    """The maps that are not 0 everywhere, with the colours of what is inside."""
    most_nats = math.log(n_classes)
    spread = nib.Nifti1Image(np.sqrt(variance.dataobj), variance.affine)
    maps = (
        ("standard deviation", spread, "magma", "of probabilities", 0.5),
        ("entropy", entropy, "viridis", "nats", most_nats),
        ("mutual information", mutual_information, "cividis", "nats", most_nats),
    )
    columns = []
    for name, image, colours, unit, most in maps:
        if image is None:
            continue
        values = _upright(image)
        if values.any():
            top = last_colour(values, inside, most)
            columns.append(
                _Column(
                    name,
                    values,
                    colours,
                    f"{name} ({unit})",
                    Normalize(0, top),
                    is_open=top < most,
                    is_scan=False,
                )
            )
    return columns


def _empty_panels(
    n_columns: int, n_slices: int, title: str, radiological: bool
) -> tuple[Picture, np.ndarray]:
    """A figure with its title and note, and its panels (3 * n_slices, n_columns)."""
    panel = 3.1 if n_slices == 1 else 2.2
    height = 1.1 + panel * 3 * n_slices
    # The layout takes panels for as high as they are before their aspect is known, so
    # that the names of the columns can end above the figure.
    rect = (0, 0, 1, 1 - _ROOM_INCHES / height)
    figure = Picture(
        figsize=(0.6 + panel * n_columns, height),
        layout=ConstrainedLayoutEngine(rect=rect),
    )
    side, convention = (
        ("right", "radiological") if radiological else ("left", "neurological")
    )
    note = f"the subject's left is on the {side} ({convention}); positions in mm"
    figure.supylabel(note, fontsize="small")
    # An empty title would take the room of the columns' names.
    if title:
        # A dollar sign in a name is not the start of a formula.
        figure.suptitle(title, parse_math=False, wrap=True)
    return figure, figure.subplots(3 * n_slices, n_columns)


def _add_colour_bar(figure: Figure, panels: np.ndarray, column: _Column) -> None:
    bar = figure.colorbar(
        panels[-1].images[0],
        ax=panels,
        location="bottom",
        label=column.unit,
        extend="max" if column.is_open else "neither",
    )
    if column.is_scan:
        bar.ax.locator_params(nbins=4)
        bar.ax.ticklabel_format(scilimits=(-2, 5), useMathText=True)
        return
    top = column.norm.vmax or 0.0
    ticks = [0, top / 2, top]
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])


def _frame(
    axis: Axes, upright: nib.Nifti1Image, normal: int, at: int, radiological: bool
) -> None:
    """Scale the panel of a slice, say where it lies and which side is which."""
    across, up = (one for one in range(3) if one != normal)
    spacing_mm = nib.affines.voxel_sizes(upright.affine)
    axis.set_aspect(spacing_mm[up] / spacing_mm[across])
    # An outline that leaves the scan must not widen the panel.
    axis.autoscale(False)
    plane, name = _PLANES[normal]
    middle = (np.array(upright.shape) - 1) / 2
    middle[normal] = at
    position_mm = nib.affines.apply_affine(upright.affine, middle)[normal]
    axis.set(xticks=[], xlabel=f"{plane}, {name} = {position_mm:.1f}")
    axis.yaxis.set_visible(False)
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
            # The foot of a thin L would vanish.
            fontweight="bold",
            ha="center",
            va="center",
            in_layout=False,
            path_effects=[withStroke(linewidth=1.5, foreground="black")],
        )


def _positions(labels: np.ndarray, n_slices: int) -> np.ndarray:
    """Find voxel indices (3, n_slices) that divide the foreground evenly on each axis.

    Without a foreground they divide the whole volume.
    """
    voxels = np.argwhere(labels > 0)
    if not len(voxels):
        voxels = np.array([(0, 0, 0), labels.shape])
    shares = (np.arange(n_slices) + 0.5) / n_slices
    return np.quantile(voxels, shares, axis=0).astype(int).T


def _upright(image: nib.Nifti1Image) -> np.ndarray:
    """The voxels of an image, with axes to the right, to the front and up."""
    return np.asarray(nib.as_closest_canonical(image).dataobj)
