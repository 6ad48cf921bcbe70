"""Outlines of structures on slices, and the legend that names them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from nobrainer.data.freesurfer import OUTER_FLUID
from nobrainer.data.labels import LabelTable

_TRUTH_COLOUR = "white"
_MOST_IN_LEGEND = 12
"""Structures that a legend names; there is no room for more."""


def draw_outlines(
    axes: np.ndarray,
    slices: Sequence[tuple[int, int]],
    predicted: np.ndarray,
    true: np.ndarray | None,
    table: LabelTable,
) -> list[Artist]:
    """Draw the outlines of every structure on the slices.

    Args:
        axes: panel of each slice.
        slices: for each slice, the axis across it and its index along that axis.
        predicted: (I, J, K), class numbers.
        true: the same of the true labels, if they are known.
        table: names and colours of the classes.

    Returns:
        What the legend shows of them.
    """
    shown: dict[int, int] = {}
    for axis, (normal, at) in zip(axes, slices, strict=True):
        if true is not None:
            section = cut(true, normal, at).T
            for index in np.unique(section[section > 0]):
                _contour(axis, section == index, _TRUTH_COLOUR, 3.0)
        section = cut(predicted, normal, at).T
        classes, counts = np.unique(section[section > 0], return_counts=True)
        # Neighbours share a line: that of the smaller one is seen, and of the brain.
        is_fluid = np.array([table.ids[n] == OUTER_FLUID for n in classes], bool)
        order = np.lexsort((-counts, ~is_fluid))
        for index, count in zip(classes[order], counts[order], strict=True):
            shown[index] = shown.get(index, 0) + count
            _contour(axis, section == index, table.colors[index], 1.2)
    largest = sorted(shown, key=lambda index: -shown[index])[:_MOST_IN_LEGEND]
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


def cut(values: np.ndarray, normal: int, at: int) -> np.ndarray:
    """A slice of a volume, as a view.

    `take` would copy the whole volume where its voxels do not lie in order.

    Args:
        values: (I, J, K).
        normal: the axis across the slice.
        at: its index along that axis.
    """
    return np.moveaxis(values, normal, 0)[at]


def add_legend(figure: Figure, handles: Sequence[Artist], n_columns: int) -> None:
    """Put a legend below a figure, unless there is nothing to name.

    Args:
        figure: the figure.
        handles: what `draw_outlines` returned.
        n_columns: most names side by side.
    """
    if not handles:
        return
    legend = figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), n_columns),
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _contour(axis: Axes, mask: np.ndarray, colour: str, width: float) -> None:
    # One voxel of air around it closes the outline at the edge of the scan.
    rows, columns = (np.arange(-1, n + 1) for n in mask.shape)
    line = axis.contour(
        columns, rows, np.pad(mask, 1), [0.5], colors=colour, linewidths=width
    )
    # It stays in its panel, so that the layout need not ask how far it reaches.
    line.set_in_layout(False)
    # A dark rim, so that a line is seen on tissue of its own brightness.
    line.set_path_effects([withStroke(linewidth=width + 0.7, foreground="black")])
