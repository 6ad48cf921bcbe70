"""Maps over a scan that one can click through together, by nilearn's viewer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import nibabel as nib
import numpy as np
from matplotlib.colors import Colormap, ListedColormap
from nilearn.image import resample_img
from nilearn.plotting import view_img

from nobrainer.data.labels import LabelTable

_MAX_VOXELS = 128
"""Most voxels along an axis; the viewer holds each volume as one picture."""
_LEVELS = 32
"""Steps of grey and of a map's colours: more are hardly seen and make pages large."""
_FAINT = 0.05
"""Share of a map's range below which it lets the scan through."""
_OPACITY = 0.7


@dataclass(frozen=True)
class Viewer:
    """An HTML document to be shown in a frame.

    title: what it shows, in words.
    html: the document; it loads nothing.
    ratio: height of its slices / width.
    """

    title: str
    html: str
    ratio: float


class Scan:
    """A scan in world axes, coarse enough for a page, to lay maps over.

    Args:
        image: the scan, 3-D.
        open_at_mm: place where its viewers open, in world millimetres.
    """

    def __init__(self, image: nib.Nifti1Image, open_at_mm: Sequence[float]) -> None:
        corners = nib.affines.apply_affine(
            image.affine, np.stack(np.meshgrid(*((0, n) for n in image.shape)), -1)
        ).reshape(-1, 3)
        extent_mm = float(np.ptp(corners, axis=0).max())
        finest_mm = float(nib.affines.voxel_sizes(image.affine).min())
        self._affine = np.eye(3) * max(finest_mm, extent_mm / _MAX_VOXELS)
        scan = self._resample(image, "linear")
        values = scan.get_fdata(dtype=np.float32)
        low, high = float(values.min()), float(np.percentile(values, 99.8))
        greys = _round((values - low) / ((high - low) or 1.0))
        self._image = nib.Nifti1Image(greys, scan.affine)
        self._open_at_mm = tuple(open_at_mm)
        i, j, k = greys.shape
        # A sagittal, a coronal and an axial slice side by side, and a line of text.
        self._ratio = 1.1 * max(j, k) / (j + 2 * i)

    def show_labels(self, label: nib.Nifti1Image, table: LabelTable) -> Viewer | None:
        """Show the structures in their colours; None if there are none.

        Args:
            label: the label map, on the scan's grid.
            table: names, colours and label values of the classes.
        """
        coarse = self._resample(label, "nearest")
        classes = table.to_classes(np.asarray(coarse.dataobj))
        if not classes.any():
            return None
        coarse = nib.Nifti1Image(classes, coarse.affine)
        # With the background, because nilearn takes no colour map of one colour.
        colours = ListedColormap(list(table.colors))
        limits = -0.5, len(table.names) - 0.5
        return self._view("Segmentation", coarse, colours, limits, threshold=0.5)

    def show_map(
        self, title: str, image: nib.Nifti1Image, cmap: str, highest: float
    ) -> Viewer | None:
        """Show a map from 0 to a highest value; None if it is 0 everywhere.

        Args:
            title: name of the map, with its unit.
            image: the map, on the scan's grid.
            cmap: name of the colour map.
            highest: value at the last colour, which what lies beyond it has, too.
        """
        if not np.asarray(image.dataobj).any():
            return None
        coarse = self._resample(image, "linear")
        values = coarse.get_fdata(dtype=np.float32)
        even = nib.Nifti1Image(_round(values / highest) * highest, coarse.affine)
        limits = 0.0, highest
        return self._view(title, even, cmap, limits, threshold=_FAINT * highest)

    def _view(
        self,
        title: str,
        overlay: nib.Nifti1Image,
        cmap: Colormap | str,
        limits: tuple[float, float],
        *,
        threshold: float,
    ) -> Viewer:
        values = overlay.get_fdata()
        # nilearn warns where a threshold hides nothing, or everything.
        is_of_use = float(values.min()) < threshold < float(values.max())
        html = view_img(
            overlay,
            bg_img=self._image,
            cut_coords=self._open_at_mm,
            cmap=cmap,
            vmin=limits[0],
            vmax=limits[1],
            threshold=threshold if is_of_use else None,
            symmetric_cmap=False,
            # Structures are told by the table's colours, not by numbers.
            colorbar=isinstance(cmap, str),
            black_bg=True,
            opacity=_OPACITY,
            resampling_interpolation="nearest",
        ).get_standalone()
        return Viewer(
            title, _linked(_without_numbers(_without_icon(html))), self._ratio
        )

    def _resample(self, image: nib.Nifti1Image, interpolation: str) -> nib.Nifti1Image:
        return resample_img(
            image,
            target_affine=self._affine,
            interpolation=interpolation,
            copy_header=True,
            force_resample=True,
        )


def _round(share: np.ndarray) -> np.ndarray:
    """Round values to a few steps in [0, 1]; what lies outside is clipped."""
    return np.round(np.clip(share, 0, 1) * (_LEVELS - 1)) / np.float32(_LEVELS - 1)


def _without_icon(html: str) -> str:
    """The viewer without the icon, which it would load from the network."""
    start = html.index('<link rel="icon"')
    return html[:start] + html[html.index(">", start) + 1 :]


def _without_numbers(html: str) -> str:
    """The page without random identifiers, which are needed where pages share one."""
    return re.sub(r"-[0-9a-f]{32}\b", "", html)


def _linked(html: str) -> str:
    """The viewer with a script by which it follows clicks in the other viewers."""
    script = files("nobrainer.report").joinpath("linked.js").read_text("utf-8")
    # Before the last script, which makes the viewer by the function that ours wraps.
    start = html.rindex("<script")
    return f"{html[:start]}<script>{script}</script>\n{html[start:]}"
