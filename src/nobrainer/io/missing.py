"""Voxels of a scan without a value (NaN), and the background they are taken for."""

import numpy as np
from scipy import ndimage

_SAMPLE = 2**20
_LEAST_KNOWN = 0.01
"""Least share of voxels with a value; a cerebellum is 1 % of a whole head's field."""
_AIR_BAND = 0.15
"""Share of the usual range of intensities that air spans, at either end of it."""


def fill_missing(image: np.ndarray) -> tuple[int, float]:
    """Give the voxels that are NaN the intensity of the background, in place.

    It is the lower quartile of the voxels at the border of those with a value, as
    `background_value` takes it of the faces of a whole scan. So the scan looks as it
    would with a wider field of view, also where its air is bright. Where that is no
    air, but tissue at the edge of a mask, it is 0, or the smallest usual intensity if
    that is negative. Air is at most 15 % of the usual range, from the 0.1th to the
    99.9th percentile, away from one of its ends.

    Args:
        image: intensities, float32 (I, J, K); nothing is changed where one is infinite
            or less than 1 % of the voxels have a value.

    Returns: the number of voxels that were filled, and the intensity that they got.
    """
    is_known = ~np.isnan(image)
    known = image[is_known]
    if known.size < _LEAST_KNOWN * image.size or not np.isfinite(known).all():
        return 0, 0.0
    border = image[is_known & ~ndimage.binary_erosion(is_known)]
    fill = np.percentile(border, 25, method="lower")
    sample = known[:: max(1, known.size // _SAMPLE)].astype(np.float64)
    low = np.percentile(sample, 0.1, method="lower")
    high = np.percentile(sample, 99.9, method="higher")
    band = _AIR_BAND * (high - low)
    if low + band < fill < high - band:
        fill = min(low, 0.0)
    image[~is_known] = fill
    return image.size - known.size, float(fill)
