"""Tiles cover a volume exactly once and read it with a halo of background."""

import math
from itertools import product

import numpy as np
import pytest

from nobrainer.inference.tiles import (
    SLOW,
    Tile,
    choose_core,
    content_box,
    dilate,
    plan_tiles,
    read_window,
    round_up,
)
from nobrainer.types import Shape3


def _random_case(seed: int) -> tuple[tuple[int, ...], Tile, tuple[int, ...], int]:
    """Shape, content box, core and stride of a random volume."""
    rng = np.random.default_rng(seed)
    stride = int(rng.choice([1, 2, 4, 8]))
    shape = tuple(int(n) for n in rng.integers(1, 41, 3))
    corners = np.sort([rng.integers(0, n + 1, 2) for n in shape], axis=1)
    if seed % 4 == 0:
        corners[:] = 0  # No content at all.
    core = tuple(stride * int(n) for n in rng.integers(1, 6, 3))
    start, stop = (tuple(int(v) for v in c) for c in corners.T)
    return shape, Tile(start, stop), core, stride


@pytest.mark.parametrize("seed", range(60))
def test_tiles_cover_each_voxel_once_on_the_pooling_grid(seed):
    shape, box, core, stride = _random_case(seed)
    seen = np.zeros(shape, int)
    for tile in plan_tiles(shape, box, core, stride):
        assert all(s % stride == 0 for s in tile.start)
        assert all(0 < n <= c for n, c in zip(tile.shape, core, strict=True))
        assert seen[tile.where].shape == tile.shape
        seen[tile.where] += 1
    assert seen.min() == seen.max() == 1


def test_tiles_are_cut_at_the_sides_of_the_content():
    # Content in [9, 22) on a grid of 4: cuts at 8 and 24, then every 8 voxels.
    tiles = plan_tiles((30, 1, 1), Tile((9, 0, 0), (22, 1, 1)), (8, 4, 4), 4)
    edges = [(t.start[0], t.stop[0]) for t in tiles]
    assert edges == [(0, 8), (8, 16), (16, 24), (24, 30)]


@pytest.mark.parametrize("seed", range(20))
def test_a_window_is_a_slice_of_the_padded_volume(seed):
    shape, box, core, stride = _random_case(seed)
    halo = stride * int(np.random.default_rng(seed).integers(0, 3))
    image = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    margin = halo + max(core)
    padded = np.pad(image, margin, constant_values=-3.5)
    for tile in plan_tiles(shape, box, core, stride):
        window = read_window(image, tile, core, halo, -3.5)
        where = tuple(
            slice(s - halo + margin, s + c + halo + margin)
            for s, c in zip(tile.start, core, strict=True)
        )
        np.testing.assert_array_equal(window, padded[where])
        assert window.dtype == np.float32


def _work(extent: Shape3, core: Shape3, halo: int, fast_voxels: int) -> float:
    """Window voxels to compute for `extent`, those of windows off the cache dearer."""
    window = math.prod(c + 2 * halo for c in core)
    windows = math.prod(-(-e // c) for e, c in zip(extent, core, strict=True))
    return windows * window * (SLOW if window > fast_voxels else 1)


@pytest.mark.parametrize("seed", range(40))
def test_the_chosen_core_is_on_the_grid_and_fits(seed):
    rng = np.random.default_rng(seed)
    stride = int(rng.choice([1, 2, 8]))
    halo = stride * int(rng.integers(0, 4))
    extent = tuple(int(n) for n in rng.integers(0, 70, 3))
    fast, largest = sorted(int(n) for n in rng.integers(1, 60**3, 2))
    core = choose_core(extent, stride, halo, fast_voxels=fast, max_voxels=largest)
    assert all(c % stride == 0 and c >= stride for c in core)
    assert all(c < max(e, 1) + stride for c, e in zip(core, extent, strict=True))
    window = math.prod(c + 2 * halo for c in core)
    assert window <= max(largest, (stride + 2 * halo) ** 3)
    whole = tuple(max(stride, round_up(e, stride)) for e in extent)
    if math.prod(c + 2 * halo for c in whole) <= largest:
        # Cutting is only worth it where it saves work.
        assert _work(extent, core, halo, fast) <= _work(extent, whole, halo, fast)


def test_the_core_is_the_whole_extent_where_cutting_saves_nothing():
    def core(fast_voxels: int, max_voxels: int) -> Shape3:
        return choose_core((50, 41, 8), 4, 8, fast_voxels, max_voxels)

    assert core(10**9, 10**9) == (52, 44, 8)
    # Halves of 44 voxels a side need 1.2 times the voxels at 1 / 1.5 of the price.
    assert core(44 * 60 * 24, 10**9) == (28, 44, 8)
    # So little fits the cache that the halo would cost more than it saves.
    assert core(20 * 20 * 20, 10**9) == (52, 44, 8)
    assert core(1, 44 * 60 * 24) == (28, 44, 8)


def test_content_box_by_hand():
    image = np.full((6, 7, 8), -1.0, np.float32)
    image[2, 3, 1] = image[4, 1, 6] = 5.0
    assert content_box(image, -1.0) == Tile((2, 1, 1), (5, 4, 7))
    assert content_box(image[:2], -1.0).shape == (0, 0, 0)
    assert content_box(image, 0.0) == Tile((0, 0, 0), (6, 7, 8))


@pytest.mark.parametrize("corner", list(product([0, 1], repeat=3)))
def test_content_box_finds_a_corner(corner):
    image = np.zeros((4, 5, 6))
    at = tuple(c * (n - 1) for c, n in zip(corner, image.shape, strict=True))
    image[at] = 1e-6
    assert content_box(image, 0.0) == Tile(at, tuple(a + 1 for a in at))


def test_a_widened_box_stays_within_the_volume():
    box = dilate(Tile((2, 0, 5), (4, 3, 6)), 3, (10, 5, 8))
    assert box == Tile((0, 0, 2), (7, 5, 8))


def test_round_up():
    assert [round_up(n, 4) for n in (0, 1, 4, 5)] == [0, 4, 4, 8]
