"""Figures of scans against balls and boxes of which they are known."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from nobrainer import appearance
from nobrainer.appearance import (
    FACES,
    Appearance,
    distances,
    measure,
    summarise,
)
from nobrainer.errors import InputError
from nobrainer.oddities import Place
from nobrainer.recipe import TrainingAppearance
from nobrainer.volume import Geometry

SHAPE = (40, 36, 32)
SPACING = (1.0, 1.0, 1.0)
GRID = Geometry(SHAPE, np.eye(4))


def scan(seed=0, centre=(20, 18, 16), noise=1.0):
    """A head of 40 in air of 0, and in it a brain of 100 with a core of 140."""
    gap = np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1))
    far = np.linalg.norm(gap, axis=0)
    image = 40.0 * (far < 13) + 60.0 * (far < 9) + 40.0 * (far < 5)
    image += np.random.default_rng(seed).normal(0, noise, SHAPE)
    label = (far < 9).astype(np.uint8) + (far < 5)
    return image.astype(np.float32), label


def looks(**changes):
    image, label = scan(**changes)
    return measure(image, label, GRID, SPACING)


TRAINING = summarise([looks(seed=n, centre=(20 + n % 2, 18, 16)) for n in range(4)])


def far(scan):
    return max(distances(scan, TRAINING).values())


def test_statistics_are_those_of_the_voxels():
    image, label = scan()
    found = looks().statistics
    head = image[image > 20]
    mean, sd = head.mean(), head.std()
    assert found["intensity/level"] == pytest.approx(mean / sd, rel=1e-4)
    assert found["intensity/95 %"] == pytest.approx(
        (np.percentile(head, 95) - mean) / sd, rel=1e-4
    )
    core = image[label == 2]
    assert found["contrast/middle of 2"] == pytest.approx(
        (np.median(core) - mean) / sd, rel=1e-4
    )
    # The quartiles of a Gaussian lie 1.349 standard deviations apart.
    assert found["contrast/spread of 2"] == pytest.approx(
        math.log(1.349 / sd + 0.01), abs=0.15
    )
    assert found["contrast/around"] == pytest.approx((40 - mean) / sd, abs=0.02)
    assert found["surroundings/mean"] == pytest.approx(-mean / sd, abs=0.02)
    assert found["position/class 2 S"] == pytest.approx(0, abs=0.02)
    flat = label.copy()
    flat[:, :, :16] = 0
    half = measure(image, flat, GRID, (3.0, 1.0, 1.0)).statistics
    # The middle of half a ball lies 3/8 of its radius from the centre of the ball; in
    # radii of a ball as large as it, which is smaller by the cube root of 2.
    radius = 3 / 8 * 2 ** (1 / 3)
    assert half["position/foreground S"] == pytest.approx(radius, abs=0.07)
    assert half["voxels/largest"] == pytest.approx(math.log(3))


def test_every_so_manieth_voxel_of_a_large_foreground_counts(monkeypatch):
    monkeypatch.setattr(appearance, "_SAMPLED", 400)
    image, label = scan()
    found = looks().statistics
    sd = math.exp(found["intensity/scale"])
    mean = found["intensity/level"] * sd
    at = np.flatnonzero(label)
    at = at[:: math.ceil(len(at) / 400)]
    core = image.ravel()[at][label.ravel()[at] == 2]
    assert found["contrast/middle of 2"] == pytest.approx((np.median(core) - mean) / sd)
    for axis, letter in enumerate("RAS"):
        upper = np.delete(label > 0, 0, axis)
        steps = np.abs(np.diff(image, axis=axis))[
            upper & np.delete(label > 0, -1, axis)
        ]
        median = np.median(steps[:: math.ceil(len(steps) / 400)])
        assert math.exp(found[f"sharpness/{letter}"]) == pytest.approx(
            median / sd + 0.01
        )


@pytest.mark.parametrize(("thin_mm", "reach"), [(1.0, 1), (0.2, 3), (0.05, 7)])
def test_the_shell_is_as_thick_along_each_axis_in_mm(thin_mm, reach):
    image, label = scan(noise=9)
    thin = Geometry(SHAPE, np.diag([thin_mm, 1, 1, 1]))
    found = measure(image, label, thin, SPACING).statistics
    sd = math.exp(found["intensity/scale"])
    around = ndimage.maximum_filter(label > 0, (2 * reach + 1, 3, 3))
    median = np.median(image[around & (label == 0)])
    assert found["contrast/around"] * sd == pytest.approx(
        median - found["intensity/level"] * sd, abs=1e-4
    )


def test_statistics_do_not_depend_on_the_scale_of_the_scan():
    image, label = scan()
    other = measure(3 * image, label, GRID, SPACING).statistics
    for name, value in looks().statistics.items():
        gain = math.log(3) if name == "intensity/scale" else 0
        assert other[name] == pytest.approx(value + gain, abs=1e-4)


@pytest.mark.parametrize("face", range(6))
@pytest.mark.parametrize("fill", [0.0, -1024.0])
def test_a_ball_cut_through_its_middle_is_cut_at_that_face(face, fill):
    image, label = scan()
    assert looks().cut == (0.0,) * 6
    axis, is_high = divmod(face, 2)
    middle = (20, 18, 16)[axis]
    gone = slice(middle + 1, None) if is_high else slice(0, middle)
    for data, value in ((image, fill), (label, 0)):
        np.moveaxis(data, axis, 0)[gone] = value
    cut = measure(image, label, GRID, SPACING).cut
    assert cut[face] == 1.0
    assert sum(cut) == 1.0
    # The same scan without its fill ends there.
    kept = [slice(None)] * 3
    kept[axis] = slice(0, middle + 1) if is_high else slice(middle, None)
    shorter = image[tuple(kept)], label[tuple(kept)]
    assert measure(*shorter, GRID, SPACING).cut == cut
    assert (
        FACES[face]
        == (*("left", "right", "posterior", "anterior", "inferior", "superior"),)[face]
    )


def test_a_cut_is_found_where_the_network_stops_before_a_blurred_face():
    image, label = scan()
    image[:, :, 17:] = 0
    image[:, :, 15] *= 0.7
    image[:, :, 16] *= 0.3
    label[:, :, 15:] = 0
    areas = np.count_nonzero(label, axis=(0, 1))
    cut = measure(image, label, GRID, SPACING).cut
    assert cut[5] == areas[14] / areas.max() > 0.8


def test_a_gap_in_the_middle_cuts_on_both_sides():
    image, label = scan()
    image[:, :, 15:17], label[:, :, 15:17] = 0, 0
    cut = measure(image, label, GRID, SPACING).cut
    assert cut[4] == cut[5] == 1.0 and sum(cut) == 2.0


def test_pieces_that_training_scans_have_are_on_record():
    def of(**shares):
        pieces = [Place(int(n[1]), x, 1000 * x, (0, 0, 0)) for n, x in shares.items()]
        return replace(looks(), pieces=tuple(pieces))

    assert summarise([of(_1=0.01, _3=0.02), of(_3=0.05), of()]).pieces == (
        *(0.0, 0.01, 0.0),
        0.05,
    )
    assert summarise([of()]).pieces == (0.0,)


def test_the_place_of_training_scans_that_stands_out_most_is_on_record():
    def of(*values):
        misfits = [Place(1, value, 1.0, (0, 0, 0)) for value in values]
        return replace(looks(), misfits=tuple(misfits))

    assert summarise([of(4.0, 3.5), of(), of(5.0)]).misfit == 5.0
    assert summarise([of()]).misfit == 0.0


def test_places_are_those_of_the_world_though_a_part_of_the_scan_is_measured():
    affine = np.diag([2.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = -100, 50, 10
    image, label = scan()
    label[30, 30, 28] = 2
    image[26, 17:20, 15:18] += 20
    found = measure(image, label, Geometry(SHAPE, affine), SPACING)
    (piece,), (misfit, *_) = found.pieces, found.misfits
    assert (piece.class_number, piece.volume_mm3) == (2, 2)
    assert piece.place_mm == (2 * 30 - 100, 30 + 50, 28 + 10)
    assert misfit.class_number == 1
    assert misfit.place_mm == (2 * 26 - 100, 18 + 50, 16 + 10)


def test_nothing_segmented_leaves_the_head_to_compare():
    image, label = scan()
    empty = measure(image, np.zeros_like(label), GRID, SPACING)
    assert (empty.cut, empty.islands) == ((0.0,) * 6, 0.0)
    assert far(empty) < TRAINING.limit


def test_distance_by_hand():
    training = TrainingAppearance(
        n_scans=3,
        names=("intensity/level", "intensity/scale", "sharpness/R"),
        mean=(1.0, 2.0, 0.0),
        sd=(0.5, 0.25, 1.0),
        limit=3.0,
        cut=(0.0,) * 6,
        islands=0.0,
    )
    given = {"intensity/level": 2.5, "intensity/scale": 3.0, "sharpness/R": -3.5}
    one = Appearance(given, (0.0,) * 6, 0.0)
    # √((3² + 4²) / 2) = 3.54 in the intensities, 3.5 in sharpness.
    found = distances(one, training)
    assert found == pytest.approx({"intensity": math.sqrt(12.5), "sharpness": 3.5})
    # What a scan does not have is not compared.
    del given["intensity/scale"]
    assert distances(one, training) == pytest.approx({"intensity": 3, "sharpness": 3.5})
    given["sharpness/R"] = 1e6
    assert distances(one, training)["sharpness"] == 20.0


def test_the_spread_of_few_scans_is_shrunk_towards_a_usual_one():
    def of(level):
        return Appearance({"intensity/level": level}, (0.0,) * 6, 0.0)

    two = summarise([of(1.0), of(1.2)])
    # (2 · 0.1² + 3 · 0.1²) / (1 + 3), for a further scan times 1 + 1/2.
    assert two.sd[0] == pytest.approx(math.sqrt(0.05 / 4 * 1.5))
    assert two.mean[0] == pytest.approx(1.1)
    one = summarise([of(1.0)])
    # Nothing but what is usual: 3 · 0.1² / 3, times 1 + 1.
    assert one.sd[0] == pytest.approx(math.sqrt(0.02))
    far = summarise([of(1.0), of(1.0), of(3.0)])
    # The third is 2 from the others' mean, whose spread is that of the prior alone.
    assert far.limit == pytest.approx(2 / math.sqrt(0.03 / 4 * 1.5))


@pytest.mark.parametrize(
    ("n_scans", "limit"),
    # The 99.865th percentile of Student's t with 3, 5, 12 and 1,002 degrees of freedom.
    [(1, 9.219), (3, 5.507), (10, 3.764), (1000, 3.007)],
)
def test_the_limit_of_few_scans_allows_for_what_they_do_not_show(n_scans, limit):
    one = Appearance({"intensity/level": 1.0}, (0.0,) * 6, 0.0)
    assert summarise([one] * n_scans).limit == pytest.approx(limit, abs=1e-3)


def test_the_record_of_training_goes_there_and_has_rules():
    with pytest.raises(InputError, match="appearance must have a finite mean"):
        replace(TRAINING, sd=TRAINING.sd[1:])
    with pytest.raises(InputError, match="positive sd"):
        replace(TRAINING, sd=(0.0, *TRAINING.sd[1:]))


def test_a_foreground_of_one_slice_has_no_sharpness_across_it():
    image, label = scan(seed=9)
    slices = (label > 0).sum((1, 2))
    label[np.arange(len(label)) != slices.argmax()] = 0
    seen = measure(image, label, GRID, SPACING).statistics
    assert "sharpness/R" not in seen
    assert seen["sharpness/A"] == pytest.approx(seen["sharpness/S"], abs=0.2)


def test_ordinary_scans_are_near_and_damaged_ones_are_not():
    assert far(looks(seed=9)) < 2
    image, label = scan(seed=9)
    head = image > 20
    inverted = image.copy()
    inverted[head] = image[head].max() - image[head]
    rng = np.random.default_rng(0)
    blurred = (image + np.roll(image, 1, 0) + np.roll(image, 1, 1)) / 3
    for damaged in (
        inverted,
        image.max() - image,
        image + rng.normal(0, 20, SHAPE),
        blurred,
    ):
        seen = measure(damaged.astype(np.float32), label, GRID, SPACING)
        assert far(seen) > 2 * TRAINING.limit
    thick = measure(image, label, GRID, (1.0, 1.0, 5.0))
    # ln 5 over √(2 (0.1² · 3 / 6) (1 + 1/4)): the smallest size is as in training.
    assert distances(thick, TRAINING)["voxels"] == pytest.approx(
        math.log(5) / math.sqrt(2 * 0.005 * 1.25)
    )
