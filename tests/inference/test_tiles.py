"""Tiles cover a volume exactly once; boxes hold what they should."""

import math
from itertools import product

import numpy as np
import pytest

from nobrainer.inference.tiles import (
    NOWHERE,
    Tile,
    around,
    choose_core,
    content_box,
    dilate,
    in_reach,
    outline,
    plan_tiles,
    round_up,
)


def _random_case(seed: int) -> tuple[tuple[int, ...], Tile, tuple[int, ...]]:
    """Shape, content box and core of a random volume."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 41, 3))
    corners = np.sort([rng.integers(0, n + 1, 2) for n in shape], axis=1)
    if seed % 4 == 0:
        corners[:] = 0  # No content at all.
    core = tuple(int(n) for n in rng.integers(2, 20, 3))
    start, stop = (tuple(int(v) for v in c) for c in corners.T)
    return shape, Tile(start, stop), core


@pytest.mark.parametrize("seed", range(60))
def test_tiles_cover_each_voxel_once(seed):
    shape, box, core = _random_case(seed)
    seen = np.zeros(shape, int)
    for tile in plan_tiles(shape, box, core):
        for (a, b), low, high in zip(tile.box, box.start, box.stop, strict=True):
            # None is both inside and outside of the content.
            assert (b <= low or a >= low) and (b <= high or a >= high)
        assert all(0 < n <= c for n, c in zip(tile.shape, core, strict=True))
        assert seen[tile.where].shape == tile.shape
        seen[tile.where] += 1
    assert seen.min() == seen.max() == 1


def test_tiles_are_cut_at_the_sides_of_the_content():
    tiles = plan_tiles((30, 1, 1), Tile((8, 0, 0), (24, 1, 1)), (8, 4, 4))
    edges = [(t.start[0], t.stop[0]) for t in tiles]
    assert edges == [(0, 8), (8, 16), (16, 24), (24, 30)]


@pytest.mark.parametrize("seed", range(40))
def test_the_chosen_core_fits_and_is_no_smaller_than_it_must_be(seed):
    rng = np.random.default_rng(seed)
    extent = tuple(int(n) for n in rng.integers(1, 70, 3))
    most = int(rng.integers(1, 60**3))
    core = choose_core(extent, lambda c: math.prod(c) <= most)
    assert math.prod(core) <= most
    assert all(c <= e for c, e in zip(core, extent, strict=True))
    parts = [-(-e // c) for e, c in zip(extent, core, strict=True)]
    assert math.prod(core) * math.prod(parts) < 8 * math.prod(extent)
    assert math.prod(parts) == 1 or math.prod(extent) > most
    assert math.prod(core) > most / 8 or core == extent


def test_the_core_is_cut_along_its_longest_axis():
    assert choose_core((50, 41, 8), lambda core: True) == (50, 41, 8)
    assert choose_core((50, 41, 8), lambda core: math.prod(core) < 9000) == (25, 41, 8)
    assert choose_core((50, 41, 8), lambda core: False) == (1, 1, 1)


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
    box = dilate(Tile((2, 0, 5), (4, 3, 6)), 3, 1, (10, 5, 8))
    assert box == Tile((0, 0, 2), (7, 5, 8))


def test_a_box_is_widened_from_the_pooling_grid():
    box = dilate(Tile((9, 8, 15), (10, 16, 17)), 8, 8, (50, 50, 50))
    assert box == Tile((0, 0, 0), (24, 24, 32))


def test_round_up():
    assert [round_up(n, 4) for n in (0, 1, 4, 5)] == [0, 4, 4, 8]


def test_the_outline_of_two_blobs_by_hand():
    image = np.zeros((5, 8, 9), np.float32)
    image[1, 2:4, 3] = 1
    image[3, 6, 4:8] = image[3, 3, 5] = 2
    found = outline(image, 0.0, ((1, 4), (1, 8), (2, 9)))
    assert found[0].tolist() == [2, 4, 3, 4]
    assert found[2].tolist() == [3, 7, 4, 8]
    assert found[1, 0] >= found[1, 1] and found[1, 2] >= found[1, 3]


def test_what_is_in_reach_of_a_slab_by_hand():
    rows = np.array([[2, 4, 3, 4], [9, 0, 9, 0], [30, 32, 40, 41]])
    content = ((10, 13), (2, 32), (3, 41))
    slab = ((0, 7), (0, 50), (0, 50))
    # The plane 10 is 4 planes beyond the slab's last one.
    assert in_reach(slab, rows, content, 3) == NOWHERE
    assert in_reach(slab, rows, content, 4) == ((0, 7), (0, 8), (0, 8))
    both = ((11, 12), (0, 50), (0, 50))
    assert in_reach(both, rows, content, 1) == ((11, 12), (1, 33), (2, 42))
    # A part that is hardly smaller is not worth it.
    most = ((11, 12), (0, 42), (0, 50))
    assert in_reach(most, rows, content, 9) == most


@pytest.mark.parametrize("seed", range(20))
def test_around_a_part_each_voxel_is_covered_once(seed):
    rng = np.random.default_rng(seed)
    box = ((2, 5), (1, 9), (0, 7))
    j, k = (tuple(np.sort(rng.integers(a, b + 1, 2)).tolist()) for a, b in box[1:])
    part = (box[0], j, k)
    seen = np.zeros((5, 9, 7), int)
    if min(j[1] - j[0], k[1] - k[0]) > 0:
        seen[Tile.of(part).where] += 1
    for beside in around(part, box):
        seen[Tile.of(beside).where] += 1
    assert (seen[2:5, 1:9] == 1).all()
    assert seen.sum() == 3 * 8 * 7
