"""Where the main structures of the brain lie in MNI space, as simple bodies.

A body is a chain of balls along the middle of the structure, the same on both sides. It
is no more than a place: where the structure ends, the tissue in the scan decides.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WHITE, GREY = 0, 1
_BALLS_BETWEEN = 8


class _Structure(NamedTuple):
    """What becomes of the tissues within a body.

    white, grey: FreeSurfer's ids on the left and on the right of white and of grey
        matter in the body; None leaves it what it is.
    chain: distance from the middle plane, y, z and radius of balls, in mm.
    """

    white: tuple[int, int] | None
    grey: tuple[int, int] | None
    chain: tuple[tuple[float, float, float, float], ...]


# Read off the MNI152 template that ships inside nilearn. Where bodies meet, the later
# one wins. The cerebellum, which is the first, is what lies below its tent.
_CEREBELLUM = _Structure((7, 46), (8, 47), ())
_STRUCTURES = (
    _CEREBELLUM,
    _Structure(  # brain stem
        (16, 16),
        (16, 16),
        (
            *((2, -28, -6, 8), (7, -22, -12, 9), (6, -28, -30, 12)),
            *((3, -33, -44, 10), (1, -41, -57, 8), (0, -45, -68, 8)),
        ),
    ),
    _Structure(  # thalamus
        (10, 49), (10, 49), ((9, -8, 8, 7), (11, -17, 8, 9.5), (15, -24, 7, 9))
    ),
    _Structure(  # putamen
        (12, 51),
        (12, 51),
        (
            *((21, 12, -4, 6), (23, 9, 4, 6.5), (27, 1, 6, 6), (30, -9, 4, 4.5)),
            *((28, -2, -3, 5.5), (22, 10, -2, 6)),
        ),
    ),
    _Structure(  # pallidum
        (13, 52), (13, 52), ((15, 1, -3, 5), (18, -4, 0, 6), (21, -9, 1, 5.5))
    ),
    _Structure(  # caudate nucleus
        None,
        (11, 50),
        (
            *((11, 15, 1, 6.5), (12, 13, 9, 7), (14, 4, 16, 5.5), (16, -6, 20, 4.5)),
            (19, -18, 21, 3.5),
        ),
    ),
    _Structure(None, (26, 58), ((9, 11, -8, 5), (12, 11, -7, 4))),  # accumbens
    _Structure(  # hippocampus
        None,
        (17, 53),
        (
            *((22, -11, -21, 6.5), (27, -17, -18, 6.5), (29, -24, -13, 6)),
            *((29, -31, -7, 5.5), (25, -37, 0, 5)),
        ),
    ),
    _Structure(None, (18, 54), ((23, -2, -19, 8),)),  # amygdala
)


def find_ids(tissues: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """FreeSurfer's ids by structure, side and tissue.

    Args:
        tissues: the ids outside of all structures, (side, tissue): left first, and
            white and grey matter first.

    Returns:
        (structure, side, tissue), where the first structure is none.
    """
    ids = np.repeat(tissues[None], len(_STRUCTURES) + 1, axis=0)
    for number, structure in enumerate(_STRUCTURES, start=1):
        for tissue, pair in ((WHITE, structure.white), (GREY, structure.grey)):
            if pair is not None:
                ids[number, :, tissue] = pair
    return ids


def draw_structures(
    shape: tuple[int, ...], affine: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Draw the bodies of all structures.

    Args:
        shape: number of voxels along each axis.
        affine: (4, 4), from voxels to MNI space in mm, with axes along x, y and z.

    Returns:
        The number of the structure that each voxel lies in, (I, J, K); 0 for none.
    """
    step_mm, origin = float(affine[0, 0]), affine[:3, 3]
    axes = [o + step_mm * np.arange(n) for o, n in zip(origin, shape, strict=True)]
    x, y, z = np.ix_(*axes)
    found = _below_the_tent(np.abs(x), y, z).astype(np.uint8)
    for number, structure in enumerate(_STRUCTURES, start=1):
        for beside, *centre, radius in _fill(structure.chain):
            for side in (-1, 1):
                middle = np.array((side * beside, *centre))
                first = np.ceil((middle - radius - origin) / step_mm).astype(int)
                last = np.floor((middle + radius - origin) / step_mm).astype(int)
                box = tuple(map(slice, first.clip(0), (last + 1).clip(0)))
                i, j, k = (axis[part] for axis, part in zip(axes, box, strict=True))
                away = zip(np.ix_(i, j, k), middle, strict=True)
                found[box][sum((at - m) ** 2 for at, m in away) <= radius**2] = number
    return found


def _fill(chain: tuple[tuple[float, float, float, float], ...]) -> NDArray[np.float64]:
    """The balls of a chain, with others between them."""
    if len(chain) < 2:
        return np.array(chain).reshape(-1, 4)
    at = np.linspace(0, len(chain) - 1, _BALLS_BETWEEN * (len(chain) - 1) + 1)
    known = np.arange(len(chain))
    return np.stack([np.interp(at, known, row) for row in np.array(chain).T], axis=1)


def _below_the_tent(
    beside: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Where the cerebellum may lie, given distances from the middle plane, y and z."""
    behind = np.maximum(-58 - y, 0)
    sides = -17 - 0.25 * np.maximum(beside - 20, 0)
    roof = np.maximum(3 - 0.9 * beside - 0.8 * behind, sides)
    in_front = 0.8 * np.maximum(y + 48, 0)
    return (z < roof - in_front) & (y < -33)
