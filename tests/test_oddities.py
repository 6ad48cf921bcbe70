"""Places that anatomy or the scan speak against, in balls of which they are known."""

import numpy as np
import pytest

from nobrainer import oddities
from nobrainer.oddities import find_misfits, list_boxes
from nobrainer.volume import Geometry

SHAPE = (64, 60, 56)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
AFFINE[:3, 3] = -60, 20, 30
GRID = Geometry(SHAPE, AFFINE)
RADIUS_MM = 50.0


def find_pieces(label, affine):
    grid = Geometry(label.shape, affine)
    return oddities.find_pieces(label, list_boxes(label), grid)


def ball(centre, radius):
    gap = np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1))
    return np.linalg.norm(gap, axis=0) < radius


def head(seed=0, bias=0.0):
    """A ball of 100 ± 5 with a core of 60 ± 5, in a bias field along the first axis."""
    label = ball((32, 30, 28), 25).astype(np.uint8)
    label[ball((32, 30, 28), 9)] = 2
    image = np.array([0, 100, 60])[label] + np.random.default_rng(seed).normal(
        0, 5, SHAPE
    )
    image *= 1 + bias * np.linspace(-1, 1, SHAPE[0])[:, None, None]
    return image.astype(np.float32), label


def test_islands_by_hand():
    pieces = np.zeros((6, 6, 6), np.uint8)
    pieces[:2, :2, :2] = 1
    pieces[2, 2, 2] = 1  # touches by a corner
    assert find_pieces(pieces, AFFINE) == (0, ())
    pieces[4, 4, 4] = 1
    # The pieces of a structure that is alone are the islands.
    assert find_pieces(pieces, AFFINE) == (pytest.approx(1 / 10), ())
    pieces[2, 2, 2] = 2
    share, (place,) = find_pieces(pieces, AFFINE)
    assert (share, place.value) == (pytest.approx(1 / 10),) * 2
    # Of two structures that touch, neither is in pieces, nor is the foreground.
    pieces[4, 4, 4] = 0
    assert find_pieces(pieces, AFFINE) == (0, ())
    pieces[5, 5, 5] = 3
    assert find_pieces(pieces, AFFINE) == (pytest.approx(1 / 10), ())


def test_pieces_of_a_structure_by_hand():
    _, label = head()
    assert find_pieces(label, AFFINE) == (0, ())
    label[2:6, 20:22, 4:7] = 2  # 24 voxels beside the ball
    label[60, 50, 50] = 2
    label[61, 51, 51] = 1
    share, (one, two) = find_pieces(label, AFFINE)
    assert share == pytest.approx(26 / np.count_nonzero(label))
    assert (one.class_number, one.volume_mm3) == (1, pytest.approx(8))
    assert one.place_mm == pytest.approx((62, 122, 132))
    assert (two.class_number, two.volume_mm3) == (2, pytest.approx(24 * 8))
    assert two.value == pytest.approx(24 / np.count_nonzero(label))
    # Its centre, 3.5 20.5 5, lies between four of its voxels.
    at = np.linalg.inv(AFFINE) @ (*two.place_mm, 1)
    assert label[tuple(np.round(at[:3]).astype(int))] == 2
    np.testing.assert_allclose(at[:3], (3.5, 20.5, 5), atol=0.51)


@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_noise_and_a_bias_field_are_no_misfit(bias):
    for seed in range(3):
        image, label = head(seed, bias)
        assert find_misfits(image, label, GRID, RADIUS_MM) == ()


@pytest.mark.parametrize("change", [-30.0, 30.0])
def test_a_lesion_is_found_where_it_is(change):
    image, label = head(bias=0.3)
    lesion = ball((47, 30, 28), 4)
    image[lesion] += change
    (place,) = find_misfits(image, label, GRID, RADIUS_MM)
    assert place.class_number == 1
    at = np.linalg.inv(AFFINE) @ (*place.place_mm, 1)
    assert np.linalg.norm(at[:3] - (47, 30, 28)) < 3
    # 6 SD and less, since the lesion itself is part of the surroundings.
    assert 4 < place.value < 6
    assert 0.3 < place.volume_mm3 / (8 * np.count_nonzero(lesion)) < 1.2
    # On another scale of intensities and of voxels it is the same.
    (other,) = find_misfits(
        7 * image, label, Geometry(SHAPE, AFFINE / 2), RADIUS_MM / 2
    )
    assert other.value == pytest.approx(place.value, rel=1e-4)


def test_two_lesions_come_by_how_far_they_stand_out():
    image, label = head()
    image[ball((46, 30, 28), 4)] += 30
    image[ball((18, 30, 28), 4)] += 40
    first, second = find_misfits(image, label, GRID, RADIUS_MM)
    assert first.value > second.value
    assert first.place_mm[0] < second.place_mm[0]


def test_what_is_all_alike_or_small_has_no_spread_to_compare_with():
    label = np.zeros((20, 20, 20), np.uint8)
    label[5:15, 5:15, 5:15] = 1
    label[2, 2, 2] = 2
    image = np.full(label.shape, 3.1, np.float32)
    assert find_misfits(image, label, Geometry(label.shape, np.eye(4)), 6.0) == ()
