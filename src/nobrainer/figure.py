"""A picture of a prediction: where the structures are, and how sure that is."""

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nobrainer.io import ImageSource, read_image, read_labels, to_nibabel

_PLANES = (("sagittal", "P", "A"), ("coronal", "L", "R"), ("axial", "L", "R"))


def draw_prediction(
    image: ImageSource,
    label: nib.Nifti1Image,
    variance: nib.Nifti1Image,
    entropy: nib.Nifti1Image,
    *,
    truth: ImageSource,
    title: str,
) -> Figure:
    """Draw three planes of a scan, its segmentation and its uncertainty maps.

    The planes meet in the centre of the true foreground; left is left.

    Args:
        image: the scan.
        label, variance, entropy: what prediction gave for it.
        truth: its true labels.
        title: above the figure.

    Returns:
        A figure with a row per plane and the columns scan, outlines of all that is
        not background, variance and entropy; save it with `savefig`.

    Raises:
        InputError: the scan or the true labels cannot be read.
    """
    volume, labels = read_image(image), read_labels(truth)
    upright = nib.as_closest_canonical(to_nibabel(volume.data, volume))
    spacing_mm = nib.affines.voxel_sizes(upright.affine)
    scan = _upright(upright)
    outlines = {
        "true": ("tab:cyan", _upright(to_nibabel(labels.data, labels)) > 0),
        "predicted": ("tab:orange", _upright(label) > 0),
    }
    columns = (
        ("scan", scan, "gray", "intensity"),
        ("segmentation", scan, "gray", "intensity"),
        ("variance", _upright(variance), "magma", "variance of probabilities"),
        ("entropy", _upright(entropy), "viridis", "entropy (nats)"),
    )
    centre = np.argwhere(outlines["true"][1]).mean(0).astype(int)

    figure = Figure(figsize=(13, 10.4), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(3, 4)
    for column, (name, values, colours, unit) in enumerate(columns):
        axes[0, column].set_title(name)
        # A few voxels far above the others would leave those dark.
        limits = min(0.0, float(values.min())), float(np.percentile(values, 99.8))
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
            axis.set(xticks=[], yticks=[], xlabel=f"{low}  {plane}  {high}")
            if name == "segmentation":
                for colour, mask in outlines.values():
                    section = mask.take(centre[normal], normal).T
                    axis.contour(section, [0.5], colors=colour, linewidths=1)
        figure.colorbar(
            shown, ax=axes[:, column], location="bottom", label=unit, extend="max"
        )
    axes[0, 1].legend(
        handles=[Line2D([], [], color=c, label=n) for n, (c, _) in outlines.items()],
        loc="upper right",
        fontsize="small",
    )
    return figure


def _upright(image: nib.Nifti1Image) -> np.ndarray:
    """The voxels, with axes to the right, to the front and up."""
    return np.asarray(nib.as_closest_canonical(image).dataobj)
