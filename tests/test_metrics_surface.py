"""Distances between surfaces of boxes, worked out by hand."""

import warnings

import numpy as np
import pytest

from nobrainer.metrics.surface import compare_surfaces


def box(i: slice, j: slice, k: slice, shape=(24, 20, 16), index: int = 1) -> np.ndarray:
    array = np.zeros(shape, np.uint8)
    array[i, j, k] = index
    return array


def test_a_plane_moved_along_an_axis_is_as_far_as_it_moved() -> None:
    # One voxel thick, moved by 3 voxels of 2 mm: every distance is 6 mm.
    truth = box(slice(5, 6), slice(3, 13), slice(2, 12))
    label = np.roll(truth, 3, axis=0)
    found = compare_surfaces(truth, label, 2, (2.0, 1.0, 1.0))
    assert found.hd95_mm[1] == pytest.approx(6)
    assert found.surface_dice[1] == 0
    wider = compare_surfaces(truth, label, 2, (2.0, 1.0, 1.0), tolerance_mm=6)
    assert wider.surface_dice[1] == 1
    assert np.isnan(found.hd95_mm[0]) and np.isnan(found.surface_dice[0])


def test_a_bar_that_sticks_out_by_hand() -> None:
    # Both one voxel thick. The label goes on 4 voxels too far: of its 20 voxels,
    # 16 are at 0 and the others at 1 ... 4 mm; seen from the truth all are at 0.
    truth = box(slice(2, 18), slice(5, 6), slice(5, 6))
    label = box(slice(2, 22), slice(5, 6), slice(5, 6))
    found = compare_surfaces(truth, label, 2, (1.0, 1.0, 1.0))
    # The 95th percentile of 20 numbers lies at 0.95 · 19 = 18.05: between 3 and 4.
    assert found.hd95_mm[1] == pytest.approx(3.05)
    assert found.surface_dice[1] == pytest.approx((16 + 17) / (16 + 20))
    back = compare_surfaces(label, truth, 2, (1.0, 1.0, 1.0))
    assert back.hd95_mm[1] == pytest.approx(3.05)


def test_a_millimetre_in_single_precision_is_a_millimetre() -> None:
    truth = box(slice(5, 6), slice(3, 13), slice(2, 12))
    label = np.roll(truth, 1, axis=0)
    found = compare_surfaces(truth, label, 2, (float(np.float32(1.000001)), 1.0, 1.0))
    assert found.surface_dice[1] == 1


def test_identity_has_no_distance_even_at_the_border() -> None:
    truth = box(slice(0, 6), slice(10, 20), slice(0, 16))
    found = compare_surfaces(truth, truth, 2, (1.0, 1.0, 1.0))
    assert (found.hd95_mm[1], found.surface_dice[1]) == (0, 1)


def test_only_the_surface_counts() -> None:
    # A cavity in a solid cube: its 6 walls (voxels next to the hole) are surface.
    truth = box(slice(4, 13), slice(4, 13), slice(4, 13))
    label = truth.copy()
    label[8, 8, 8] = 0
    found = compare_surfaces(truth, label, 2, (1.0, 1.0, 1.0))
    n = 9**3 - 7**3
    assert found.surface_dice[1] == pytest.approx(2 * n / (2 * n + 6))


def test_absent_classes() -> None:
    truth = box(slice(2, 4), slice(2, 4), slice(2, 4), index=1)
    label = box(slice(2, 4), slice(2, 4), slice(2, 4), index=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare_surfaces(truth, label, 5, (1.0, 1.0, 1.0))
    assert np.isnan(found.hd95_mm).all()
    np.testing.assert_array_equal(found.surface_dice, [np.nan, 0, np.nan, 0, np.nan])


def test_classes_do_not_disturb_each_other_and_cropping_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    shape = (40, 36, 30)
    blob = box(slice(3, 15), slice(4, 12), slice(5, 14), shape, 1)
    blob += box(slice(20, 31), slice(18, 30), slice(10, 22), shape, 2)
    other = np.where(rng.random(shape) < 0.02, rng.integers(0, 3, shape), blob)
    both = compare_surfaces(blob, other, 3, (1.0, 0.8, 1.2))
    for index in (1, 2):
        alone = compare_surfaces(
            (blob == index).astype(np.uint8),
            (other == index).astype(np.uint8),
            2,
            (1.0, 0.8, 1.2),
        )
        assert both.hd95_mm[index] == alone.hd95_mm[1] > 0
        assert both.surface_dice[index] == alone.surface_dice[1] < 1
