"""The part of a volume in which a network's probabilities are judged."""

import numpy as np
from scipy.ndimage import maximum_filter

FOREGROUND_MARGIN = 5
"""Voxels by which the band reaches beyond the true foreground."""


def foreground_band(label: np.ndarray) -> np.ndarray:
    """The true foreground widened by 5 voxels along every axis, diagonals included.

    What lies further out is background that every network gets right.

    Args:
        label: true classes (I, J, K), 0 is background.

    Returns:
        Booleans (I, J, K).
    """
    size = 2 * FOREGROUND_MARGIN + 1
    return maximum_filter(label > 0, size=size, mode="constant")
