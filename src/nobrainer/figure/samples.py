"""Pictures of several small images side by side."""

from collections.abc import Sequence

import nibabel as nib
import numpy as np
from matplotlib.colors import ListedColormap

from nobrainer.data.labels import LabelTable
from nobrainer.figure.outlines import cut
from nobrainer.figure.slices import Picture

_PLANES = ("sagittal", "coronal", "axial")


def draw_images(
    images: Sequence[nib.Nifti1Image],
    labels: Sequence[nib.Nifti1Image] = (),
    *,
    table: LabelTable | None = None,
    names: Sequence[str] = (),
    title: str = "",
) -> Picture:
    """Draw the middle slices of several images, a column each.

    All have the same greys: the usual range of the first image.

    Args:
        images: the images, with axes in RAS order.
        labels: label map of each image, whose axial slice is a fourth row; none draws
            no such row.
        table: names, colours and values of the classes in the label maps; None where
            these hold the numbers of classes without names.
        names: text above each column; none leaves it out.
        title: text above the figure.
    """
    voxels = [np.asarray(image.dataobj) for image in images]
    low, high = np.percentile(voxels[0], (1, 99.5))
    rows = [*_PLANES, *["labels"] * bool(labels)]
    figure = Picture(
        figsize=(0.5 + 1.5 * len(images), 0.5 + 1.5 * len(rows)), layout="constrained"
    )
    axes = figure.subplots(len(rows), len(images), squeeze=False)
    for column, values in zip(axes.T, voxels, strict=True):
        for normal in range(3):
            section = cut(values, normal, values.shape[normal] // 2).T
            column[normal].imshow(section, "gray", origin="lower", vmin=low, vmax=high)
    for column, label in zip(axes.T, labels, strict=False):
        values = np.asarray(label.dataobj)
        known = table or LabelTable.generic(max(2, int(values.max()) + 1))
        section = cut(known.to_classes(values), 2, values.shape[2] // 2).T
        column[3].imshow(
            section,
            ListedColormap(list(known.colors)),
            origin="lower",
            vmin=-0.5,
            vmax=len(known.colors) - 0.5,
            interpolation="nearest",
        )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for axis, name in zip(axes[0], names, strict=False):
        axis.set_title(name, fontsize="small", parse_math=False)
    for axis, name in zip(axes[:, 0], rows, strict=True):
        axis.set_ylabel(name, fontsize="small")
    if title:
        figure.suptitle(title, parse_math=False)
    return figure
