"""Degraded scans against what the names promise."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from nobrainer.data.shifts import SHIFTS, shifted
from nobrainer.errors import InputError
from nobrainer.volume import Volume

SHAPE = (32, 40, 36)
AFFINE = nib.affines.from_matvec(np.diag([1.0, 1.0, 1.0]), [-16, -20, -18])


def head(affine=AFFINE, shape=SHAPE, dtype=np.int16):
    """An ellipsoid head of 60 with a brain of 100 and a ventricle of 30 in air."""
    grid = np.indices(shape).T.reshape(-1, 3)
    world = nib.affines.apply_affine(affine, grid)
    reach = np.linalg.norm(world / [14, 17, 16], axis=1)
    # Off the centre, so that turning moves it.
    near = np.linalg.norm(world - [5, 2, 1], axis=1)
    image = 60.0 * (reach < 1) + 40 * (reach < 0.8) - 70 * (near < 3)
    label = (reach < 0.8) * 1 + (near < 3)
    header = nib.Nifti1Header()

    def volume(data):
        return Volume(data.reshape(shape[::-1]).T, affine, "a", header)

    return volume((image + 10).astype(dtype)), volume(label.astype(np.uint8))


@pytest.mark.parametrize("name", SHIFTS)
def test_grid_type_and_seed(name):
    image, label = head()
    before = image.data.copy(), label.data.copy()
    new, kept = shifted(image, label, name, 0.7, seed=1)
    assert new.data.dtype == np.float32
    assert kept.data.dtype == np.uint8
    for given, made in ((image, new), (label, kept)):
        assert made.data.shape == SHAPE
        assert made.affine is given.affine and made.header is given.header
    assert np.isfinite(new.data).all()
    assert np.abs(new.data - before[0]).max() > 5
    np.testing.assert_array_equal(image.data, before[0])
    np.testing.assert_array_equal(label.data, before[1])
    again, _ = shifted(image, label, name, 0.7, seed=1)
    np.testing.assert_array_equal(again.data, new.data)
    changed = (kept.data != label.data).any()
    assert changed == (name in ("rotation", "cropped"))


@pytest.mark.parametrize("name", ["noise", "bias_field", "rotation", "cropped"])
def test_another_seed_gives_another_scan(name):
    scans = [shifted(*head(), name, 0.7, seed)[0].data for seed in range(4)]
    assert any((scan != scans[0]).any() for scan in scans)


@pytest.mark.parametrize("name", SHIFTS)
def test_severity_near_zero_changes_next_to_nothing(name):
    image, label = head()
    new, kept = shifted(image, label, name, 1e-4, seed=0)
    np.testing.assert_allclose(new.data, image.data, atol=0.05)
    np.testing.assert_array_equal(kept.data, label.data)


@pytest.mark.parametrize("severity", [0.3, 1.0])
def test_noise_is_rician(severity):
    image, label = head()
    new, _ = shifted(image, label, "noise", severity, seed=0)
    brain, air = image.data == 110, image.data == 10
    sd = severity * 0.3 * (image.data[label.data > 0].mean() - 10)
    noise = new.data - 10
    # E[x²] = signal² + 2 sd²; in air the mean of a Rayleigh distribution.
    assert (noise[brain] ** 2).mean() == pytest.approx(100**2 + 2 * sd**2, rel=0.02)
    assert noise[air].mean() == pytest.approx(sd * np.sqrt(np.pi / 2), rel=0.02)
    if severity < 0.5:
        assert noise[brain].std() == pytest.approx(sd, rel=0.03)


def test_a_fill_is_not_what_intensities_count_from():
    image, label = head(dtype=np.float32)
    rng = np.random.default_rng(0)
    image = replace(image, data=image.data + rng.normal(0, 2, SHAPE))
    data = image.data.copy()
    data[:5] = -32768
    usual, clipped = (
        (shifted(replace(image, data=one), label, "noise", 0.5, seed=3)[0].data - one)[
            label.data == 1
        ].std()
        for one in (image.data, data)
    )
    assert usual == pytest.approx(0.5 * 0.3 * 104, rel=0.05)
    assert clipped == pytest.approx(usual, rel=0.25)


def test_bias_field_reaches_its_limit_smoothly():
    image, label = head()
    flat = Volume(np.full(SHAPE, 100.0), AFFINE)
    flat.data[0, 0, 0] = 0
    for severity in (0.5, 1.0):
        new, _ = shifted(flat, label, "bias_field", severity, seed=2)
        factor = new.data / 100
        factor[0, 0, 0] = 1
        extreme = np.abs(np.log(factor)).max()
        assert extreme == pytest.approx(severity * np.log(3), rel=0.05)
        # From voxel to voxel the field of third degree changes by little.
        assert np.abs(np.diff(np.log(factor[1:]), axis=0)).max() < 0.35 * severity
    # Air at the minimum stays.
    new, _ = shifted(image, label, "bias_field", 1.0, seed=2)
    assert (new.data[image.data == 10] == 10).all()


def test_low_resolution_removes_what_is_finer():
    i = np.indices((48, 48, 48))[0]
    for period, kept in ((4, 0.0), (48, 1.0)):
        wave = 100 + 50 * np.sin(2 * np.pi * (i + 0.5) / period)
        new, _ = shifted(
            Volume(wave, np.eye(4)), head()[1], "low_resolution", 1.0, seed=0
        )
        inside = new.data[8:-8, 8:-8, 8:-8].std() / wave[8:-8, 8:-8, 8:-8].std()
        assert inside == pytest.approx(kept, abs=0.06)
    # Blurring and sampling keep places: the centre of a ball stays.
    image, label = head()
    new, _ = shifted(image, label, "low_resolution", 1.0, seed=0)
    centre = ndimage.center_of_mass(image.data - 10)
    np.testing.assert_allclose(ndimage.center_of_mass(new.data - 10), centre, atol=0.1)


@pytest.mark.parametrize(
    "steps_mm", [np.eye(3), np.diag([1, 1, 2]), [[1, 0.5, 0], [0, 1, 0], [0, 0, 1]]]
)
def test_rotation_turns_by_its_angle_in_the_world(steps_mm):
    shape = tuple(int(40 / mm) for mm in np.diag(steps_mm))
    affine = np.eye(4)
    affine[:3, :3] = steps_mm
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    world = nib.affines.apply_affine(affine, np.indices(shape).T.reshape(-1, 3))
    data = np.zeros((len(world), 2))
    spots = np.array([[12.0, 0, 0], [0, 12, 0], [0, 0, 12]])
    for number, spot in enumerate(spots, 1):
        near = np.linalg.norm(world - spot, axis=1) < 5
        data[near] = number, number
    image, label = (
        Volume(column.reshape(shape[::-1]).T, affine)
        for column in (data[:, 0], data[:, 1].astype(np.uint8))
    )
    new, kept = shifted(image, label, "rotation", 0.8, seed=5)
    found = np.array(
        [
            nib.affines.apply_affine(affine, ndimage.center_of_mass(kept.data == n))
            for n in (1, 2, 3)
        ]
    )
    # The orthogonal matrix closest to what the spots did.
    u, _, v = np.linalg.svd(found.T @ spots)
    angle = np.degrees(np.arccos((np.trace(u @ v) - 1) / 2))
    assert angle == pytest.approx(0.8 * 15, abs=0.6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 12, atol=0.3)
    # Image and labels turn together.
    middle = ndimage.binary_erosion(kept.data == 2, np.ones((3, 3, 3)), 2)
    np.testing.assert_allclose(new.data[middle], 2, atol=1e-5)


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SRA"])
def test_crop_takes_one_vertical_end(orientation):
    change = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"),
        nib.orientations.axcodes2ornt(orientation),
    )
    image, label = (
        Volume(
            np.ascontiguousarray(nib.orientations.apply_orientation(v.data, change)),
            v.affine @ nib.orientations.inv_ornt_aff(change, SHAPE),
        )
        for v in head()
    )
    ends = set()
    for seed in range(6):
        new, kept = shifted(image, label, "cropped", 0.5, seed)
        back = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt(orientation),
            nib.orientations.axcodes2ornt("RAS"),
        )
        data, labels, given, truth = (
            nib.orientations.apply_orientation(array, back)
            for array in (new.data, kept.data, image.data, label.data)
        )
        # 20 % of 36 slices.
        gone = (data == 10).all((0, 1)) & (labels == 0).all((0, 1))
        lower = gone[:7].all()
        ends.add(bool(lower))
        rest = slice(7, None) if lower else slice(0, -7)
        assert gone[:7].all() or gone[-7:].all()
        np.testing.assert_array_equal(data[..., rest], given[..., rest])
        np.testing.assert_array_equal(labels[..., rest], truth[..., rest])
    assert ends == {True, False}


def test_contrast_is_flipped_inside_the_head():
    image, label = head()
    new, _ = shifted(image, label, "contrast", 1.0, seed=0)
    # Head 70 and brain 110 and ventricle 40, a hole in the bright: x -> 150 - x.
    expected = np.where(image.data == 10, 10, 150 - image.data)
    np.testing.assert_allclose(new.data, expected)
    half, _ = shifted(image, label, "contrast", 0.5, seed=0)
    np.testing.assert_allclose(half.data, np.where(image.data == 10, 10, 75))


def test_what_is_refused():
    for severity in (0.0, -1.0, 1.01, float("nan")):
        with pytest.raises(InputError, match="severity must be above 0"):
            shifted(*head(), "noise", severity, seed=0)
    with pytest.raises(InputError, match="did you mean 'rotation'"):
        shifted(*head(), "rotate", 0.5, seed=0)
