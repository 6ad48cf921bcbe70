"""Distances between surfaces of boxes, worked out by hand."""

import warnings

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

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


def blobs() -> tuple[np.ndarray, np.ndarray]:
    """A ragged structure and a moved one with stray voxels, (22, 20, 18)."""
    rng = np.random.default_rng(3)
    truth = box(slice(5, 15), slice(4, 16), slice(5, 12), (22, 20, 18))
    truth[rng.random(truth.shape) < 0.05] = 1
    label = np.roll(truth, (2, 1, 0), (0, 1, 2))
    label[rng.random(truth.shape) < 0.05] = 0
    return truth, label


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.8, 2.0, 1.3)])
def test_as_monai_measures_where_axes_are_at_right_angles(spacing_mm) -> None:
    truth, label = blobs()
    found = compare_surfaces(truth, label, 2, spacing_mm, tolerance_mm=1.5)
    pair = [torch.from_numpy(a == 1)[None, None] for a in (label, truth)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        distance = compute_hausdorff_distance(
            *pair, include_background=True, percentile=95, spacing=list(spacing_mm)
        )
        share = compute_surface_dice(
            *pair, [1.5], include_background=True, spacing=list(spacing_mm)
        )
    assert found.hd95_mm[1] == pytest.approx(float(distance), rel=1e-5)
    assert found.surface_dice[1] == pytest.approx(float(share), rel=1e-5)
    turned = np.diag(spacing_mm)[[2, 0, 1]]
    again = compare_surfaces(truth, label, 2, turned, tolerance_mm=1.5)
    assert again.hd95_mm[1] == pytest.approx(found.hd95_mm[1])


def test_a_sheared_grid_is_measured_in_the_world() -> None:
    # A step along the second axis leans by half a voxel: a bar that is moved by 3
    # along it has gone (1.5, 3) mm, but its voxels have nearer ones: (0.5, 3).
    steps_mm = np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 1.0]])
    truth = box(slice(4, 20), slice(5, 6), slice(5, 6))
    found = compare_surfaces(truth, np.roll(truth, 3, axis=1), 2, steps_mm)
    # The last voxel of each bar has its nearest at (1.5, 3), the next at (0.5, 3).
    assert found.hd95_mm[1] == pytest.approx(
        np.percentile([*[np.hypot(0.5, 3)] * 15, np.hypot(1.5, 3)], 95)
    )
    near = compare_surfaces(truth, np.roll(truth, 3, 1), 2, steps_mm, tolerance_mm=3.1)
    assert near.surface_dice[1] == pytest.approx(30 / 32)


def test_distances_on_a_sheared_grid_by_all_pairs() -> None:
    steps_mm = np.array([[1.0, 0.4, -0.3], [0.2, 1.1, 0.3], [0.1, -0.2, 1.4]])
    truth, label = blobs()

    def surface(array: np.ndarray) -> np.ndarray:
        padded = np.pad(array, 1)
        shifts = [(s, axis) for s in (1, -1) for axis in range(3)]
        inside = np.all([np.roll(padded, s, axis) for s, axis in shifts], axis=0)
        return np.argwhere(padded & ~inside) @ steps_mm.T

    one, two = surface(truth), surface(label)
    distances = np.linalg.norm(one[:, None] - two, axis=-1)
    ways = [distances.min(0), distances.min(1)]
    found = compare_surfaces(truth, label, 2, steps_mm)
    assert found.hd95_mm[1] == pytest.approx(max(np.percentile(w, 95) for w in ways))
    assert found.surface_dice[1] == pytest.approx((np.concatenate(ways) <= 1).mean())
