"""Where the colours of maps end."""

import math

import numpy as np
import pytest

from nobrainer.figure import last_colour


@pytest.mark.parametrize(
    ("usual", "most", "expected"),
    [
        (0.0116, 0.5, 0.02),
        (0.006, math.log(33), 0.01),
        (0.98, math.log(33), 1),
        (0.5, 0.5, 0.5),
        # Rounded up to 1, which no voxel of two classes reaches.
        (0.6, math.log(2), math.log(2)),
        # Next to nothing stays dark: a thousandth is the least.
        (1e-9, 0.5, 5e-4),
    ],
)
def test_colours_end_at_a_round_number(
    usual: float, most: float, expected: float
) -> None:
    values = np.full((10, 10, 10), usual)
    assert last_colour(values, values > 0, most) == pytest.approx(expected)


def test_one_labelled_voxel_in_a_hundred_may_be_beyond_the_colours() -> None:
    values = np.full((10, 10, 10), 0.4)
    inside = np.zeros(values.shape, bool)
    inside[:2] = True
    values[inside] = 0.03
    values[0, 0, 0] = 0.3
    assert last_colour(values, inside, 0.5) == pytest.approx(0.05)
    values[0, 0] = 0.3
    assert last_colour(values, inside, 0.5) == pytest.approx(0.5)
    # Without labels all voxels count.
    assert last_colour(values, inside & False, 0.5) == pytest.approx(0.5)
