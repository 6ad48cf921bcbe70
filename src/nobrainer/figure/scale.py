"""How values of an uncertainty map become colours."""

import math

import numpy as np

_CENTILE = 99
_DARKEST = 1e-3
"""Share of the largest possible value that always lies within the colours."""


def last_colour(values: np.ndarray, inside: np.ndarray, most: float) -> float:
    """Choose the value of the last colour of a map; the first one is for 0.

    Hardly any voxel comes near the largest possible value, so colours up to there would
    leave most maps black. The 99th centile of the voxels inside is rounded up to 1, 2
    or 5 times a power of ten, so that scans which are about as uncertain have the same
    colours.

    Args:
        values: the map, (I, J, K), at least 0.
        inside: the voxels that count, those with a label, (I, J, K); all count where
            there are none.
        most: the largest possible value.

    Returns:
        The value: at most the largest possible one, and at least a thousandth of it, so
        that a map of next to nothing stays dark.
    """
    found = values[inside] if inside.any() else values
    usual = max(float(np.percentile(found, _CENTILE)), _DARKEST * most)
    power = 10.0 ** math.floor(math.log10(usual))
    rounded = next(n * power for n in (1, 2, 5, 10) if n * power >= usual)
    return min(rounded, most)
