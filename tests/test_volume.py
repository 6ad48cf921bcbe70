import tracemalloc
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from nobrainer.errors import InputError
from nobrainer.volume import Geometry, Volume, conform, restore

ORIENTATIONS = [
    "".join(letters)
    for order in permutations(("RL", "AP", "SI"))
    for letters in product(*order)
]
SPACING_MM = (1.0, 1.5, 2.0)


def affine_of(orientation: str, spacing_mm=SPACING_MM, tilt_degrees=0.0) -> np.ndarray:
    """Voxel to RAS mm, axes towards `orientation`, tilted about the x axis."""
    affine = nib.orientations.inv_ornt_aff(
        nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"),
            nib.orientations.axcodes2ornt(orientation),
        ),
        (1, 1, 1),
    )
    affine[:3, :3] *= spacing_mm
    c, s = np.cos(np.deg2rad(tilt_degrees)), np.sin(np.deg2rad(tilt_degrees))
    tilt = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])
    affine = tilt @ affine
    affine[:3, 3] = (-11, 7, 23)
    return affine


def world_mm(geometry: Geometry) -> np.ndarray:
    """World coordinates (3, I, J, K) of all voxel centres."""
    index = np.indices(geometry.shape).reshape(3, -1)
    world = nib.affines.apply_affine(geometry.affine, index.T)
    return world.T.reshape(3, *geometry.shape)


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("tilt_degrees", [0.0, 20.0])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_reorienting_keeps_each_value_at_its_place_and_reverts_bit_equal(
    orientation, tilt_degrees
):
    rng = np.random.default_rng(0)
    data = rng.standard_normal((4, 5, 6), dtype=np.float32)
    native = Volume(data, affine_of(orientation, tilt_degrees=tilt_degrees))
    conformed = conform(native)

    assert native.geometry.orientation == orientation
    assert conformed.geometry.orientation == "RAS"
    assert conformed.data.flags.c_contiguous
    there = nib.affines.apply_affine(
        np.linalg.inv(conformed.affine), world_mm(native.geometry).reshape(3, -1).T
    )
    np.testing.assert_allclose(there, there.round(), atol=1e-9)
    i, j, k = there.round().astype(int).T
    np.testing.assert_array_equal(conformed.data[i, j, k], data.ravel())

    back = restore(conformed.data, conformed.geometry, native.geometry)
    assert back.dtype == data.dtype
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, data)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_any_target_orientation_is_reached(orientation):
    data = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    native = Volume(data, affine_of("LPS"))
    conformed = conform(native, orientation, labels=True)
    assert conformed.geometry.orientation == orientation
    back = restore(conformed.data, conformed.geometry, native.geometry, labels=True)
    np.testing.assert_array_equal(back, data)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_blob_stays_at_its_world_position_when_resampled(orientation):
    shape, affine = (24, 20, 16), affine_of(orientation, tilt_degrees=10.0)
    geometry = Geometry(shape, affine)
    centre = nib.affines.apply_affine(affine, (11.3, 9.6, 7.8))
    distance = world_mm(geometry) - centre[:, None, None, None]
    blob = np.exp(-(distance**2).sum(0) / (2 * 3.0**2)).astype(np.float32)

    def centre_of_mass(data, grid):
        return (world_mm(grid) * data).sum((1, 2, 3)) / data.sum()

    conformed = conform(Volume(blob, affine), spacing_mm=(1.2, 1.2, 1.2))
    np.testing.assert_allclose(conformed.geometry.spacing_mm, (1.2, 1.2, 1.2))
    moved = centre_of_mass(conformed.data, conformed.geometry)
    np.testing.assert_allclose(moved, centre, atol=0.05)
    back = restore(conformed.data, conformed.geometry, geometry)
    assert back.shape == shape
    np.testing.assert_allclose(centre_of_mass(back, geometry), centre, atol=0.05)
    # Twice the bound of linear interpolation, h²/8 f'', summed over the axes.
    np.testing.assert_allclose(back, blob, atol=2 * (1 + 2.25 + 4) / 8 / 3.0**2)


def test_a_ramp_in_world_space_is_interpolated_exactly():
    geometry = Geometry((12, 10, 8), affine_of("PIL"))
    weights = np.array([2.0, -3.0, 0.5])
    ramp = np.tensordot(weights, world_mm(geometry), 1).astype(np.float32)
    conformed = conform(Volume(ramp, geometry.affine), "RAS", (0.7, 0.9, 1.3))
    expected = np.tensordot(weights, world_mm(conformed.geometry), 1)
    inner = (slice(2, -2),) * 3
    np.testing.assert_allclose(conformed.data[inner], expected[inner], atol=1e-4)


def test_the_new_grid_has_the_same_centre_and_covers_the_field_of_view():
    native = Volume(np.ones((10, 11, 7), np.float32), affine_of("LAS", (1, 1, 3)))
    conformed = conform(native, "RAS", (2, 2, 2))
    assert conformed.data.shape == (5, 6, 11)
    centres = [
        nib.affines.apply_affine(v.affine, (np.array(v.data.shape) - 1) / 2)
        for v in (native, conformed)
    ]
    np.testing.assert_allclose(*centres, atol=1e-9)
    np.testing.assert_array_equal(conformed.data, 1)


def test_spacing_within_one_percent_is_left_alone():
    rng = np.random.default_rng(0)
    data = rng.standard_normal((5, 6, 7), dtype=np.float32)
    native = Volume(data, affine_of("RAS", (1.009, 1.0000001, 0.5)))
    conformed = conform(native, spacing_mm=(1.0, 1.0, 1.0))
    np.testing.assert_allclose(conformed.geometry.spacing_mm, (1.009, 1.0000001, 1.0))
    same = conform(native, spacing_mm=(1.0, 1.0, 0.5))
    np.testing.assert_array_equal(same.data, data)
    np.testing.assert_array_equal(same.affine, native.affine)


def test_coarser_grids_are_smoothed_to_their_point_spread():
    # A third of the samples, taken exactly at voxel centres: what is left of a wave
    # is the Gaussian's transfer function, of variance (3² - 1)/(8 ln 2) voxels².
    frequency = 0.1
    wave = np.sin(2 * np.pi * frequency * np.arange(60)).astype(np.float32)
    data = np.broadcast_to(wave[:, None, None], (60, 2, 2)).copy()
    coarse = conform(Volume(data, np.eye(4)), spacing_mm=(3, 1, 1)).data[:, 0, 0]
    left = np.exp(-2 * np.pi**2 * (8 / (8 * np.log(2))) * frequency**2)
    assert left == pytest.approx(0.752, abs=1e-3)
    np.testing.assert_allclose(coarse[3:-3], left * wave[1::3][3:-3], atol=1e-3)

    mild = conform(Volume(data, np.eye(4)), spacing_mm=(1.4, 1, 1))
    position = mild.affine[0, 3] + 1.4 * np.arange(mild.data.shape[0])
    expected = np.interp(position, np.arange(60), wave)
    np.testing.assert_allclose(mild.data[:, 0, 0], expected, atol=1e-5)


def test_labels_go_to_the_largest_linear_weight_not_to_the_nearest_voxel():
    # At (0.4, 0.4): weights 0.36 (label 5), 0.24 + 0.24 (label 3), 0.16 (label 9).
    labels = np.array([[[5], [3]], [[3], [9]]], dtype=np.uint8)
    affine = np.eye(4)
    affine[:2, 3] = 0.4
    target = Geometry((1, 1, 1), affine)
    source = Geometry((2, 2, 1), np.eye(4))
    result = restore(labels, source, target, labels=True)
    assert result.dtype == np.uint8
    assert result.item() == 3


def test_resampled_labels_equal_the_largest_of_all_one_hot_maps():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 2, 7, 2035, 40000], size=(9, 8, 7)).astype(np.int32)
    native = Volume(labels, affine_of("LIP", (1.1, 0.8, 2.3)))
    classes = np.unique(labels)
    # A factor below 1.5 keeps maps free of smoothing.
    spacing = (1.0, 2.0, 1.0)
    result = conform(native, "RAS", spacing, labels=True)
    weights = [
        conform(
            Volume((labels == c).astype(np.float32), native.affine), "RAS", spacing
        ).data
        for c in classes
    ]
    assert result.data.dtype == np.int32
    chosen = np.searchsorted(classes, result.data)[None]
    won = np.take_along_axis(np.stack(weights), chosen, 0)[0]
    np.testing.assert_allclose(won, np.max(weights, axis=0), rtol=1e-4)


def test_no_label_grows_at_the_cost_of_one_with_another_number():
    labels = np.random.default_rng(0).choice([2, 24, 42], size=(80, 80, 80))
    # Each voxel of 2 mm lies between eight.
    coarse = conform(Volume(labels, np.eye(4)), spacing_mm=(2, 2, 2), labels=True)
    shares = [(coarse.data == value).mean() for value in (2, 24, 42)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.01)


@pytest.mark.parametrize("size", [60, 61, 256, 257])
def test_no_voxel_lies_halfway_between_two_where_a_step_more_helps(size):
    line = np.arange(size)[:, None, None]
    coarse = conform(Volume(line, np.eye(4)), spacing_mm=(1.5, 1, 1), labels=True)
    centres = coarse.affine[0, 3] + 1.5 * np.arange(len(coarse.data))
    assert np.isin(centres % 1, (0.25, 0.75)).all()
    nearest = np.clip(centres.round(), 0, size - 1)
    np.testing.assert_array_equal(coarse.data[:, 0, 0], nearest)
    assert len(coarse.data) - size / 1.5 < 2


def test_how_a_map_is_stored_does_not_decide_ties_between_labels():
    # At half the resolution all eight weights are 1/8: ties everywhere.
    labels = np.random.default_rng(0).integers(0, 9, (12, 12, 12)).astype(np.uint8)
    straight = Volume(labels, affine_of("RAS", (0.7, 0.7, 0.7)))
    expected = conform(straight, spacing_mm=(1.4, 1.4, 1.4), labels=True).data
    for orientation in ("LAS", "PIL", "SRA"):
        stored = conform(straight, orientation, labels=True)
        tilted = Volume(
            stored.data, affine_of(orientation, (0.7, 0.7, 0.7), tilt_degrees=13.0)
        )
        result = conform(tilted, spacing_mm=(1.4, 1.4, 1.4), labels=True).data
        np.testing.assert_array_equal(result, expected)


def test_how_a_scan_is_stored_does_not_decide_ties_of_its_label_map():
    # Where 68 voxels of 1 mm meet 46 of 1.5 mm, every third lies halfway between two.
    straight = Geometry((68, 14, 17), affine_of("RAS", (1.0, 1.0, 1.0)))
    grid = conform(Volume(np.zeros(straight.shape), straight.affine), "RAS", (1.5,) * 3)
    labels = np.random.default_rng(0).integers(0, 9, grid.data.shape).astype(np.uint8)
    expected = restore(labels, grid.geometry, straight, labels=True)
    for orientation in ("LAS", "PIL", "SRA"):
        there = nib.orientations.axcodes2ornt(orientation)
        stored = nib.Nifti1Image(expected, straight.affine).as_reoriented(there)
        native = Geometry(stored.shape, stored.affine)
        result = restore(labels, grid.geometry, native, labels=True)
        np.testing.assert_array_equal(result, np.asarray(stored.dataobj))


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (1.3, 1.3, 1.3)])
def test_a_ball_survives_resampling_and_back(spacing_mm):
    geometry = Geometry((40, 40, 20), affine_of("LSA", (1.0, 1.0, 2.0)))
    middle = nib.affines.apply_affine(geometry.affine, (19.5, 19.5, 9.5))
    radius = np.linalg.norm(world_mm(geometry) - middle[:, None, None, None], axis=0)
    ball = np.where(radius < 14, 17, 0).astype(np.uint8)
    conformed = conform(
        Volume(ball, geometry.affine), spacing_mm=spacing_mm, labels=True
    )
    volume_mm3 = (conformed.data == 17).sum() * np.prod(spacing_mm)
    assert volume_mm3 == pytest.approx(4 / 3 * np.pi * 14**3, rel=0.03)
    back = restore(conformed.data, conformed.geometry, geometry, labels=True)
    dice = (
        2 * ((back == 17) & (ball == 17)).sum() / ((back == 17).sum() + ball.sum() / 17)
    )
    assert dice > 0.98
    assert set(np.unique(back)) == {0, 17}


def test_voxels_outside_the_conformed_grid_get_the_fill_value():
    data = np.arange(8, dtype=np.float32).reshape(2, 2, 2) + 1
    shifted = np.eye(4)
    shifted[:3, 3] = (1, 0, 2)
    result = restore(
        data, Geometry((2, 2, 2), shifted), Geometry((4, 2, 5), np.eye(4)), fill=-7
    )
    expected = np.full((4, 2, 5), -7, np.float32)
    expected[1:3, :, 2:4] = data
    np.testing.assert_array_equal(result, expected)

    finer = Geometry((8, 1, 1), np.diag([0.5, 1, 1, 1]))
    line = restore(
        np.array([1, 3], np.float32).reshape(2, 1, 1),
        Geometry((2, 1, 1), np.eye(4)),
        finer,
        fill=-7,
    )
    # Centres at 0, 0.5 and 1 are inside; 1.5 is the border, the rest is beyond.
    np.testing.assert_array_equal(line.ravel(), [1, 2, 3, 3, -7, -7, -7, -7])
    votes = restore(
        np.array([4, 6], np.uint8).reshape(2, 1, 1),
        Geometry((2, 1, 1), np.eye(4)),
        finer,
        labels=True,
        fill=9,
    )
    assert votes[1].item() in (4, 6)
    np.testing.assert_array_equal(votes.ravel()[2:], [6, 6, 9, 9, 9, 9])
    assert votes[0].item() == 4


def test_memory_of_a_label_map_does_not_grow_with_the_classes():
    rng = np.random.default_rng(0)
    peaks = []
    for n_classes in (2, 50):
        labels = rng.integers(0, n_classes, (64, 64, 64)).astype(np.uint8)
        conformed = Geometry(labels.shape, np.eye(4))
        native = Geometry((80, 80, 80), np.diag([0.8, 0.8, 0.8, 1]))
        tracemalloc.start()
        restore(labels, conformed, native, labels=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0]
    assert peaks[1] / 80**3 < 40  # bytes per voxel: under 1 GB at 256³


def sheared(spacing_mm: float = 1.0) -> np.ndarray:
    """Along R, along A leaning half a voxel to R a step, along S leaning to A."""
    affine = np.array([[1, 0.5, 0, 7], [0, 1, 0.25, -3], [0, 0, 1, 2], [0, 0, 0, 1.0]])
    affine[:3, :3] *= spacing_mm
    return affine


def test_the_volume_of_a_voxel_is_the_determinant():
    # A shear moves planes along themselves and keeps volumes.
    assert Geometry((2, 2, 2), sheared(2.0)).voxel_mm3 == pytest.approx(8)
    assert np.prod(Geometry((2, 2, 2), sheared(2.0)).spacing_mm) > 9
    tilted = Geometry((2, 2, 2), affine_of("PIL", (0.7, 0.9, 1.3), tilt_degrees=20))
    assert tilted.voxel_mm3 == pytest.approx(0.7 * 0.9 * 1.3)
    for orientation in ORIENTATIONS:
        assert Geometry((2, 2, 2), affine_of(orientation)).voxel_mm3 == 3


@pytest.mark.parametrize("spacing_mm", [2.0, 1.7, 0.8])
def test_a_structure_keeps_its_volume_on_another_sheared_grid(spacing_mm):
    geometry = Geometry((60, 60, 60), sheared())
    centre = nib.affines.apply_affine(geometry.affine, (29.5, 29.5, 29.5))
    ball = np.linalg.norm(world_mm(geometry).T - centre, axis=-1).T < 17
    native = Volume(ball.astype(np.uint8), geometry.affine)
    conformed = conform(native, spacing_mm=[spacing_mm] * 3, labels=True)
    # Every step has the wanted length, in the direction that it had.
    steps = conformed.affine[:3, :3]
    np.testing.assert_allclose(np.linalg.norm(steps, axis=0), spacing_mm)
    present = native.affine[:3, :3] / np.linalg.norm(native.affine[:3, :3], axis=0)
    np.testing.assert_allclose(steps / spacing_mm, present, atol=1e-12)
    volume_mm3 = conformed.data.sum() * conformed.geometry.voxel_mm3
    assert volume_mm3 == pytest.approx(4 / 3 * np.pi * 17**3, rel=0.01)
    back = restore(conformed.data, conformed.geometry, geometry, labels=True)
    assert (back != ball).mean() < 0.01


def test_a_single_slice_is_conformed():
    data = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    conformed = conform(Volume(data, np.diag([1, 1, 5, 1.0])), spacing_mm=(1, 1, 1))
    assert conformed.data.shape == (3, 4, 5)
    for k in range(5):
        np.testing.assert_array_equal(conformed.data[..., k], data[..., 0])


@pytest.mark.parametrize("orientation", ["RA", "RAX", "RLS", "ras", "", "RASR"])
def test_an_invalid_orientation_is_refused(orientation):
    with pytest.raises(InputError, match="orientation must be"):
        conform(Volume(np.ones((2, 2, 2)), np.eye(4)), orientation)


@pytest.mark.parametrize("spacing_mm", [(1, 1), (1, 0, 1), (1, -1, 1), (1, np.nan, 1)])
def test_an_invalid_spacing_is_refused(spacing_mm):
    with pytest.raises(InputError, match="spacing_mm must be three positive"):
        conform(Volume(np.ones((2, 2, 2)), np.eye(4)), spacing_mm=spacing_mm)


def test_grids_that_do_not_belong_together_are_refused():
    data = np.ones((8, 8, 8), np.float32)
    straight = Geometry(data.shape, affine_of("RAS"))
    tilted = Geometry(data.shape, affine_of("RAS", tilt_degrees=5))
    with pytest.raises(InputError, match="not parallel"):
        restore(data, straight, tilted)
    with pytest.raises(InputError, match="not on the conformed grid"):
        restore(data[1:], straight, straight)
