"""Probabilities on a scan's own grid, against values found by hand."""

import numpy as np
import pytest
import torch

from nobrainer.inference.finer import FinerGrid
from nobrainer.inference.intensities import N_BINS, Likelihood
from nobrainer.inference.moments import Statistics
from nobrainer.inference.predict import Scaling, TileResult
from nobrainer.volume import Volume, conform

N_CLASSES = 3
SLOPE = 1.5


def straight_table() -> Likelihood:
    """A likelihood of which class 2 gains 1.5 for each unit of intensity, from 0 to 5.

    Class 1 loses as much, and the background neither.
    """
    values = torch.linspace(0, 5, N_BINS)
    gain = SLOPE * values
    return Likelihood(0.0, 5.0, torch.stack([0 * gain, -gain, gain], 1))


def tile(probabilities: np.ndarray, start: int, stop: int) -> TileResult:
    """The planes of a tile from `start` to `stop`; its other maps do not matter."""
    none = torch.zeros(())
    where = (slice(start, stop), slice(None, None), slice(None, None))
    part = torch.from_numpy(probabilities[:, start:stop].astype(np.float32))
    i, j, k = (slice(s.start or 0, s.stop) for s in where)
    return TileResult((i, j, k), Statistics(none, none, none, none, part, none))


def found(grid: FinerGrid, probabilities: np.ndarray, shape: tuple) -> np.ndarray:
    """All probabilities on the own grid, from two tiles."""
    half = probabilities.shape[1] // 2
    grid.keep(tile(probabilities, 0, half))
    grid.keep(tile(probabilities, half, probabilities.shape[1]))
    result = np.zeros((len(probabilities), *shape))
    result[0] = 1
    for where, part in grid:
        result[:, *where] = part
    return result


def scan(intensities: np.ndarray, orientation: str = "RAS") -> tuple[Volume, Volume]:
    """A scan of voxels of 1 mm, and the means of eight of them, voxels of 2 mm."""
    i, j, k = (n // 2 for n in intensities.shape)
    means = intensities.reshape(i, 2, j, 2, k, 2).mean((1, 3, 5), dtype=np.float32)
    coarse = np.diag([2.0, 2, 2, 1])
    coarse[:3, 3] = 0.5
    own = conform(Volume(intensities.astype(np.float32), np.eye(4)), orientation)
    return own, Volume(means, coarse)


def in_brain(shape: tuple, share_of_2: np.ndarray) -> np.ndarray:
    """Probabilities without background in the middle, and nothing but it outside."""
    p = np.zeros((N_CLASSES, *shape))
    p[0] = 1
    middle = (slice(4, -4),) * 3
    p[:, *middle] = 0
    p[2, *middle] = share_of_2[middle]
    p[1, *middle] = 1 - share_of_2[middle]
    return p


def test_each_voxel_speaks_for_itself():
    # One voxel of 3 among voxels of 1.
    intensities = np.ones((32, 32, 32))
    intensities[15, 15, 15] = 3
    own, prepared = scan(intensities)
    assert prepared.data[7, 7, 7] == pytest.approx(1 + 2 / 8)
    p = in_brain(prepared.data.shape, np.full(prepared.data.shape, 0.3))
    result = found(FinerGrid(straight_table(), None, prepared, own), p, own.data.shape)
    # Of its surroundings, at a quarter of the way: 1.25 · (3/4)³.
    seen = 1 + 0.25 * 0.75**3
    odds = 0.3 / 0.7 * np.exp(2 * SLOPE * (3 - seen))
    # Bins are 5 / 95 wide, so that an intensity is right within half of that, twice.
    wrong = 2 * SLOPE * 5 / (N_BINS - 1)
    got = result[2, 15, 15, 15] / result[1, 15, 15, 15]
    assert abs(np.log(got / odds)) < wrong
    # What is far from it looks as its surroundings do.
    assert result[2, 20, 20, 20] == pytest.approx(0.3, abs=1e-3)
    np.testing.assert_allclose(result.sum(0), 1, atol=1e-3)


def test_between_voxels_probabilities_change_evenly():
    own, prepared = scan(np.full((32, 32, 32), 2.0))
    share = np.linspace(0.1, 0.9, 16)[:, None, None] * np.ones((16, 16, 16))
    grid = FinerGrid(straight_table(), None, prepared, own)
    result = found(grid, in_brain(share.shape, share), own.data.shape)
    # Voxels of 1 mm lie a quarter of a step before and after those of 2 mm.
    wanted = np.interp(np.arange(32), 0.5 + 2 * np.arange(16), share[:, 0, 0])
    inside = slice(10, 22)
    np.testing.assert_allclose(result[2, inside, 16, 16], wanted[inside], atol=1e-3)
    # Beyond the brain there is nothing but background.
    np.testing.assert_array_equal(result[0, :6], 1)


def test_a_boundary_within_a_voxel_is_found():
    truth = np.ones((32, 32, 32), int)
    truth[15:] = 2
    intensities = np.where(truth == 2, 5.0, 0.0)
    own, prepared = scan(intensities)
    # The voxel of 2 mm with the boundary in it is undecided, the others are sure.
    share = np.where(np.arange(16) > 7, 0.99, 0.01)
    share[7] = 0.5
    p = in_brain((16, 16, 16), share[:, None, None] * np.ones((16, 16, 16)))
    result = found(FinerGrid(straight_table(), None, prepared, own), p, own.data.shape)
    inside = (slice(10, 22),) * 3
    np.testing.assert_array_equal(result.argmax(0)[inside], truth[inside])


def test_the_scaling_of_the_logits_counts():
    intensities = np.ones((32, 32, 32))
    intensities[15, 15, 15] = 3
    own, prepared = scan(intensities)
    p = in_brain(prepared.data.shape, np.full(prepared.data.shape, 0.3))
    odds = []
    for scaling in (None, Scaling((1.0, 0.5, 0.5), (0.0, 3.0, -3.0))):
        grid = FinerGrid(straight_table(), scaling, prepared, own)
        one = found(grid, p, own.data.shape)[:, 15, 15, 15]
        odds.append(np.log(one[2] / one[1] / (0.3 / 0.7)))
    assert odds[1] == pytest.approx(odds[0] / 2, rel=1e-3)


def test_axes_may_be_turned_over():
    rng = np.random.default_rng(0)
    intensities = rng.uniform(0, 5, (32, 30, 28))
    share = rng.uniform(0.2, 0.8, (16, 15, 14))
    results = []
    for orientation in ("RAS", "LSA"):
        own, prepared = scan(intensities, orientation)
        grid = FinerGrid(straight_table(), None, prepared, own)
        result = found(grid, in_brain(share.shape, share), own.data.shape)
        classes = [conform(Volume(one, own.affine)).data for one in result]
        results.append(np.stack(classes))
    np.testing.assert_allclose(results[1], results[0], atol=2e-3)


def test_where_all_is_background_there_is_nothing():
    own, prepared = scan(np.ones((16, 16, 16)))
    p = np.zeros((N_CLASSES, *prepared.data.shape))
    p[0] = 1
    grid = FinerGrid(straight_table(), None, prepared, own)
    grid.keep(tile(p, 0, 8))
    assert list(grid) == []
