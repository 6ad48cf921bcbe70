"""The answer must not depend on how a scan is stored."""

import warnings

import nibabel as nib
import numpy as np
import pytest

from nobrainer.data.preprocess import (
    MOST_VOXELS,
    NORMALIZERS,
    clip_outliers,
    common_spacing,
    invert_bright_air,
    is_head,
    minmax,
    preprocess_image,
    preprocess_labels,
    zscore,
)
from nobrainer.errors import InputError
from nobrainer.recipe import PreprocessConfig
from nobrainer.volume import Geometry, Volume, conform

CLIPPED = PreprocessConfig(outliers="clipped")


@pytest.fixture(scope="module")
def head():
    """A ball of two tissues in a noisy background."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 40)] * 3, indexing="ij"))
    radius = np.sqrt((grid**2).sum(0))
    tissue = np.where(radius < 0.5, 110, np.where(radius < 0.8, 80, 0))
    noise = rng.normal(0, 5, (2, *radius.shape))
    return np.hypot(tissue + noise[0], noise[1]).astype(np.float32)


def outside_a_cylinder(shape):
    i, j, _ = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    return i**2 + j**2 > 0.95


def filled(image, value):
    """The scan with a value outside of a cylinder: a quarter of the voxels."""
    image = image.copy()
    image[outside_a_cylinder(image.shape)] = value
    return image


def test_zscore_standardises_the_head(head):
    result = zscore(head)
    inside = head > 50
    assert result.dtype == np.float32
    assert abs(result[inside].mean()) < 1e-3
    assert abs(result[inside].std() - 1) < 1e-3
    assert result[~inside].max() < -2


def test_zscore_by_hand():
    image = np.zeros((4, 2, 2), np.float32)
    image[0], image[1] = 9, 11
    # Threshold 5, so the head is the 9s and 11s: mean 10, standard deviation 1.
    assert np.unique(zscore(image)).tolist() == [-10, -1, 1]


def test_zscore_of_a_mask_is_finite():
    image = np.zeros((4, 4, 4), np.float32)
    image[0] = 7
    values = np.unique(zscore(image))
    np.testing.assert_allclose(values, [-7 / (7 * np.sqrt(3 / 16)), 0], rtol=1e-6)


@pytest.mark.parametrize("fill", [None, -1024, 32767])
@pytest.mark.parametrize("name", ["zscore", "minmax"])
def test_normalisation_ignores_linear_scaling(head, name, fill):
    normalize = NORMALIZERS[name]
    image = head if fill is None else filled(head, fill)
    expected = normalize(image)
    for scale, shift in ((0.01, 0), (37, 500), (3, -1000)):
        scaled = (scale * image.astype(np.float64) + shift).astype(np.float32)
        np.testing.assert_allclose(normalize(scaled), expected, atol=2e-4)


@pytest.mark.parametrize("name", ["zscore", "minmax"])
@pytest.mark.parametrize("noisy", [True, False])
def test_normalisation_ignores_a_wider_field_of_view(head, name, noisy):
    image = head if noisy else np.where(head > 50, head, 0).astype(np.float32)
    padded = np.pad(image, 25)
    result = NORMALIZERS[name](padded)[25:-25, 25:-25, 25:-25]
    np.testing.assert_allclose(result, NORMALIZERS[name](image), atol=2e-3)


def test_minmax_clips_at_the_percentile():
    image = np.arange(101, dtype=np.float32).reshape(101, 1, 1)
    result = minmax(image)
    # The 99th percentile of 1..100 is 99.01.
    assert result[50, 0, 0] == pytest.approx(50 / 99.01)
    assert result.min() == 0
    assert result.max() == 1
    assert (result == 1).sum() == 1


# --- bright air


@pytest.mark.parametrize("spacing_mm", [None, (1.3, 1.3, 1.3)])
@pytest.mark.parametrize("skull", [True, False])
def test_a_head_that_is_inverted_with_its_air_is_that_head(head, spacing_mm, skull):
    scan = (head if skull else np.where(head > 50, head, 0)).astype(np.float32)
    config = PreprocessConfig(
        spacing_mm=spacing_mm, outliers="clipped", bright_air="inverted"
    )
    affine = np.diag([-1.0, 1, 1, 1])
    usual = preprocess_image(Volume(scan, affine), config).data
    for inverted in (scan.max() - scan, 40 - 3 * scan):
        result = preprocess_image(Volume(inverted, affine), config).data
        np.testing.assert_allclose(result, usual, atol=2e-5)
    if not skull:
        # Exactly constant surroundings count as a fill.
        return
    # An older model gets what it learned from: the head with another sign.
    older = PreprocessConfig(spacing_mm=spacing_mm, outliers="clipped")
    raw = preprocess_image(Volume(scan.max() - scan, affine), older).data
    assert np.corrcoef(raw.ravel(), usual.ravel())[0, 1] == pytest.approx(-1, abs=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda head: head,
        # Brain without skull; negative values; a CT, with bone around the brain.
        lambda head: np.where(head > 50, head, 0),
        lambda head: head - 60,
        lambda head: np.where(head < 50, -1000, np.where(head > 95, 40, 900)),
        # Inverted inside the head only.
        lambda head: np.where(head > 50, 120 - head, 0),
        # A block of one tissue, and of two.
        lambda head: head[15:25, 15:25, 15:25],
        lambda head: 160 - head[10:30, 10:30, 10:30],
        lambda head: np.random.default_rng(0).normal(100, 5, head.shape),
        lambda head: np.random.default_rng(0).random(head.shape),
        lambda head: np.full(head.shape, 7.0),
        # Framed by a value as bright as the brightest tissue, or by zeros.
        lambda head: np.pad(head, 4, constant_values=head.max()),
        lambda head: np.pad(head, 4),
        # A phantom that fills the whole field but for a cavity.
        lambda head: np.where(np.abs(np.indices(head.shape) - 20).max(0) < 5, 0, 1),
    ],
)
def test_scans_whose_air_is_not_bright_stay_as_they_are(head, change):
    image = change(head).astype(np.float32)
    assert invert_bright_air(image) is image


def test_bright_air_is_found_in_noise_and_around_a_neck(head):
    """Noise of 8 % of the range, and a neck that takes 5 % of the faces."""
    noisy = head + np.abs(np.random.default_rng(1).normal(0, 5, head.shape))
    noisy[13:27, 13:27, :20] = 80
    inverted = (200 - noisy).astype(np.float32)
    result = invert_bright_air(inverted)
    assert result is not inverted
    np.testing.assert_allclose(result - result.min(), noisy - noisy.min(), atol=1e-4)
    wide = 200 - head
    wide[:, :, :8] = 110
    assert invert_bright_air(wide) is wide


# --- outliers


def test_limits_by_hand():
    # Above the minimum lie 1 ... 1999 and an outlier: 2000 values. Their percentiles
    # lie at 0.02, 0.1 and 0.999 times 1999 of the way along them.
    image = np.arange(2001, dtype=np.float32).reshape(2001, 1, 1)
    image[-1] = 1e9
    p2, p10, p999 = 1 + 39.98, 1 + 199.9, 1 + 1997.001
    high = p999 + (p999 - p2)
    low = p2 - 8 * (p10 - p2) - 0.01 * (p999 - p2)
    result = clip_outliers(image)
    assert result[-1].item() == pytest.approx(high)
    np.testing.assert_array_equal(result[:-1], image[:-1])
    assert image[-1] == 1e9
    image[:2] = -1e6
    result = clip_outliers(image)
    # A two-thousandth of the voxels makes a fill: these two leave the percentiles.
    p2, p10, p999 = 2 + 0.02 * 1998, 2 + 0.1 * 1998, 2 + 0.999 * 1998
    low = p2 - 8 * (p10 - p2) - 0.01 * (p999 - p2)
    assert result[0] == result[1] == pytest.approx(low)
    np.testing.assert_array_equal(result[2:-1], image[2:-1])


@pytest.mark.parametrize(
    "change",
    [
        lambda head: head,
        # Brain without skull: more than half of the voxels are 0.
        lambda head: np.where(head > 50, 8 * (head - 50), 0),
        # Reconstructed with signed noise, or interpolated with overshoots.
        lambda head: head - np.median(head),
        lambda head: np.pad(head, 20),
        # A bright lesion within twice the range.
        lambda head: np.where(np.indices(head.shape).max(0) < 3, 200, head),
        lambda head: np.minimum(head, 110),
        lambda head: (head > 50) * 7,
        # A black hole in the middle of the brain.
        lambda head: np.where(np.abs(np.indices(head.shape) - 20).max(0) < 2, 0, head),
    ],
)
def test_scans_as_they_are_stay_as_they_are(head, change):
    image = change(head).astype(np.float32)
    assert clip_outliers(image) is image


@pytest.mark.parametrize("times", [30, 1e3, 1e6])
def test_one_voxel_in_a_hundred_that_is_too_bright_does_not_move_the_head(head, times):
    bright = np.random.default_rng(5).permutation(head.size)[: head.size // 100]
    image = head.copy()
    image.flat[bright] = times * head.max()
    others = np.delete(np.arange(head.size), bright)
    clipped = clip_outliers(image)
    np.testing.assert_array_equal(clipped.flat[others], head.flat[others])
    assert clipped.max() < 5.1 * np.ptp(head)
    found, expected = is_head(clipped), is_head(head)
    np.testing.assert_array_equal(found.flat[others], expected.flat[others])
    assert np.count_nonzero(expected) > head.size / 10


@pytest.mark.parametrize("value", [-300, -1024, -32768, 1500, 32767, 1e30])
@pytest.mark.parametrize("name", ["zscore", "minmax"])
def test_a_fill_outside_of_the_field_of_view_changes_little(head, name, value):
    expected = NORMALIZERS[name](head)
    result = NORMALIZERS[name](filled(head, value))
    inside = ~outside_a_cylinder(head.shape)
    # Against what lies between air and the mean of the tissue.
    air, tissue = np.median(expected[~inside]), expected[head > 50].mean()
    assert np.abs(result - expected)[inside].max() < 0.15 * (tissue - air)
    assert np.ptp(result[~inside]) == 0
    assert abs(result[~inside][0] - air) < 0.25 * (tissue - air)


@pytest.mark.parametrize("value", [-1024, 32767])
def test_a_fill_around_a_brain_without_skull_stays_far_below_it(head, value):
    brain = np.where(head > 50, head, value)
    result, usual = zscore(brain), zscore(np.where(head > 50, head, np.float32(0)))
    np.testing.assert_allclose(result[head > 50], usual[head > 50], atol=0.02)
    around = result[head <= 50]
    assert np.ptp(around) == 0
    assert around[0] < result[head > 50].min() - 0.5


def test_two_fills_are_found():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 40)] * 3, indexing="ij"))
    brain = (grid**2).sum(0) < 0.5
    image = np.where(brain, rng.normal(600, 120, brain.shape), 0).astype(np.float32)
    expected = zscore(image)
    for value in (-1024, -32768, 32767):
        result = zscore(filled(image, value))
        np.testing.assert_allclose(result[brain], expected[brain], atol=0.02)
        assert -7 < result[~brain].min() <= result[~brain].max() < -3
    deep = np.where(brain, image, -1024)
    result = zscore(filled(deep, -32768))
    np.testing.assert_allclose(result[brain], expected[brain], atol=0.15)
    assert np.ptp(result[~brain]) == 0


@pytest.mark.parametrize("name", ["zscore", "minmax"])
@pytest.mark.parametrize(
    ("count", "factor"), [(1, 1e3), (1, 1e5), (20, 1e3), (1, -1e5)]
)
def test_a_few_extreme_voxels_change_little(head, name, count, factor):
    image = head.copy()
    at = np.random.default_rng(0).choice(head.size, count, replace=False)
    image.flat[at] = head.max() * factor
    expected, result = NORMALIZERS[name](head), NORMALIZERS[name](image)
    others = np.delete(np.abs(result - expected).ravel(), at)
    assert others.max() < (0.1 if factor < 0 else 0.05) * np.ptp(expected)
    # They stay the extremes, not further than the range of all others.
    extreme = result.flat[at]
    assert np.ptp(extreme) == 0
    outermost = result.max() if factor > 0 else result.min()
    assert extreme[0] == outermost
    assert abs(extreme[0]) <= 3 * np.abs(expected).max()


def test_a_bright_lesion_is_clipped_and_not_taken_for_a_fill(head):
    image = head.copy()
    # 1.6 % of the voxels have one value, far above all others, but not at the border.
    image[15:25, 15:25, 15:25] = 3000
    result = clip_outliers(image)
    assert (result[15:25, 15:25, 15:25] == result.max()).all()
    assert result.max() >= 2 * np.percentile(head, 99)


def test_a_fill_does_not_leak_into_the_head_when_it_is_resampled(head):
    config = PreprocessConfig(spacing_mm=(2, 2, 2), outliers="clipped")
    expected = preprocess_image(Volume(head, np.eye(4)), config).data
    result = preprocess_image(Volume(filled(head, -32768), np.eye(4)), config).data
    assert np.abs(result - expected).max() < 2
    inside = expected > -1
    assert np.abs(result - expected)[inside].max() < 0.5
    image = head.copy()
    image[20, 20, 20] = 1e7
    result = preprocess_image(Volume(image, np.eye(4)), config).data
    changed = np.abs(result - expected) > 0.1
    assert changed.sum() < 9**3 and result.max() < 2 * expected.max() + 3


def test_models_of_older_formats_see_what_they_saw(head):
    """With the formula and the order that formats 1 to 3 had, written out."""

    def original(image):
        threshold = float(image.mean(dtype=np.float64))
        while True:
            above = image > threshold
            high = float(image[above].mean(dtype=np.float64))
            low = float(image[~above].mean(dtype=np.float64))
            middle = (high + low) / 2
            if abs(middle - threshold) <= 1e-3 * (high - low):
                break
            threshold = middle
        spread = image[above].std(dtype=np.float64) or image.std(dtype=np.float64)
        centre = np.float32(image[above].mean(dtype=np.float64))
        return (image - centre) / np.float32(spread)

    affine = np.diag([-1.0, 1, 1.5, 1])
    extreme = head.copy()
    extreme[3, 4, 5] = 1e6
    assert PreprocessConfig().outliers == PreprocessConfig().bright_air == "kept"
    for image in (head, filled(head, -1024), filled(head, 32767), extreme):
        for spacing_mm in (None, (1.0, 1.3, 2.0)):
            config = PreprocessConfig(spacing_mm=spacing_mm)
            volume = Volume(image, affine)
            result = preprocess_image(volume, config).data
            expected = original(conform(volume, "RAS", spacing_mm).data)
            np.testing.assert_array_equal(result, expected)
    image = filled(head, -1024)
    config = PreprocessConfig(normalize="minmax")
    above = image[image > -1024]
    top = np.percentile(above, 99).astype(np.float32)
    expected = np.clip((image + np.float32(1024)) / (top + np.float32(1024)), 0, 1)
    result = preprocess_image(Volume(image, np.eye(4)), config).data
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    "image",
    [
        np.full((8, 8, 8), 3, np.float32),
        # Neighbours in single precision: their mean is rounded to one of them.
        np.where(np.indices((8, 8, 8))[0] < 4, 1e8, 1e8 + 8).astype(np.float32),
        np.where(np.indices((8, 8, 8))[0] < 1, 1e8, 1e8 + 8).astype(np.float32),
        (np.float32(1e8) + 8 * (np.arange(512) % 3)).reshape(8, 8, 8),
        np.array([[[5.0]]], np.float32),
        np.where(np.indices((8, 8, 8))[0] < 1, -3e38, 3e38).astype(np.float32),
        np.full((2, 2, 2), 1e-45, np.float32) * np.arange(8).reshape(2, 2, 2),
    ],
)
def test_every_finite_image_has_a_head(image):
    image = image.astype(np.float32)
    head = is_head(image)
    assert head.any()
    assert image[head].min() >= image[~head].max(initial=-np.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("zscore", "minmax"):
            result = NORMALIZERS[name](image)
            assert result.shape == image.shape
            if np.ptp(image) == 0:
                assert not result.any()


# --- grids and values that cannot be worked on


def scan(shape, spacing_mm, unit="mm"):
    header = nib.Nifti1Header()
    header.set_xyzt_units(unit)
    data = np.broadcast_to(np.float32(0), shape)
    return Volume(data, np.diag([*spacing_mm, 1.0]), "a.nii", header)


@pytest.mark.parametrize("prepare", [preprocess_image, preprocess_labels])
@pytest.mark.parametrize(
    ("volume", "message"),
    [
        # 2 mm in a file that says micrometres; no unit, 0.02 mm; 1 mm that are metres.
        (
            scan((96, 120, 108), [0.002] * 3, "micron"),
            r"a\.nii: is 0.192 x 0.24 x 0.216 mm large, .* header: micrometre\).* 1 of",
        ),
        (
            scan((96, 120, 108), [0.02] * 3),
            r"0.02 x 0.02 x 0.02 mm \(unit in the header: millimetre\).*takes 8 of",
        ),
        (
            scan((200, 200, 200), [1e3] * 3, "meter"),
            r"1e\+03 mm .*metre.*e\+15 of them",
        ),
        # A field of 9 mm, a slice that is next to nothing thick, and a thick one.
        (scan((90, 90, 90), [0.1] * 3), "takes 216 of them"),
        (scan((90, 90, 90), [1, 1, 1e-30]), "100 times larger or smaller"),
        (scan((90, 90, 2), [1, 1, 1e30]), "100 times larger or smaller"),
        (scan((1100, 1100, 1100), [1.5] * 3), "1073741824 are possible"),
    ],
)
def test_a_working_grid_out_of_bounds_is_refused(prepare, volume, message):
    config = PreprocessConfig(spacing_mm=(1.5, 1.5, 1.5))
    with pytest.raises(InputError, match=message):
        prepare(volume, config)
    assert MOST_VOXELS == 1073741824


def test_a_slice_is_worked_on(head):
    volume = Volume(head[:, :, 20:21], np.diag([1.0, 1, 5, 1]))
    config = PreprocessConfig(spacing_mm=(1, 1, 1), outliers="clipped")
    result = preprocess_image(volume, config).data
    assert result.shape == (40, 40, 5)
    np.testing.assert_array_equal(result, result[..., :1].repeat(5, 2))


def test_a_scan_that_resampling_makes_constant_is_refused():
    image = np.full((20, 20, 20), 1e8, np.float32)
    image[10, 10, 10] += 8
    with pytest.raises(
        InputError, match=r"a\.nii: constant, .* working grid is 1e\+08"
    ):
        preprocess_image(
            Volume(image, np.eye(4), "a.nii"), PreprocessConfig(spacing_mm=(2, 2, 2))
        )


def test_intensities_that_overflow_are_refused():
    rng = np.random.default_rng(0)
    image = rng.uniform(3.3e38, 3.4e38, (8, 8, 8)).astype(np.float32)
    image[:4] *= -1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=r"a\.nii: its intensities, -3\.39"):
            preprocess_image(Volume(image, np.eye(4), "a.nii"), CLIPPED)
    # Smaller ones are not too large to be measured, though their squares are.
    result = preprocess_image(Volume(image / 100, np.eye(4)), CLIPPED).data
    assert np.isfinite(result).all()


def test_unknown_normalisation_names_the_near_miss(head):
    config = PreprocessConfig(normalize="z-score")
    with pytest.raises(InputError, match="did you mean 'zscore'"):
        preprocess_image(Volume(head, np.eye(4)), config)


@pytest.mark.parametrize("orientation", ["LAS", "PIL", "SRA"])
def test_orientation_of_the_file_does_not_matter(head, orientation):
    image = nib.Nifti1Image(head, np.diag([1.0, 2, 3, 1]))
    stored = image.as_reoriented(
        nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"),
            nib.orientations.axcodes2ornt(orientation),
        )
    )
    assert "".join(nib.aff2axcodes(stored.affine)) == orientation
    volume = Volume(np.asarray(stored.dataobj), stored.affine)
    config = CLIPPED
    expected = preprocess_image(Volume(head, image.affine), config)
    result = preprocess_image(volume, config)
    np.testing.assert_allclose(result.data, expected.data, atol=1e-6)
    np.testing.assert_allclose(result.affine, expected.affine)
    labels = Volume((volume.data > 95).astype(np.uint8), volume.affine)
    assert np.array_equal(preprocess_labels(labels, config).data, head > 95)


def test_labels_follow_the_image_to_the_working_spacing(head):
    config = PreprocessConfig(spacing_mm=(2, 2, 2))
    labels = Volume((head > 50).astype(np.uint8), np.eye(4))
    image = preprocess_image(Volume(head, np.eye(4)), config)
    result = preprocess_labels(labels, config)
    assert image.data.shape == result.data.shape == (20, 20, 20)
    assert result.data.dtype == np.uint8
    # Away from the surface the two must agree.
    assert image.data[result.data == 1].mean() > 2 + image.data[result.data == 0].mean()


def test_common_spacing_is_the_median_in_the_working_orientation():
    ras = Geometry((9, 9, 9), np.diag([1.0, 2, 3, 1]))
    # Axes run to inferior, anterior and left: 3 mm, 2 mm and 1 mm.
    turned = np.array([[0, 0, -1, 0], [0, 2, 0, 0], [-3, 0, 0, 0], [0, 0, 0, 1.0]])
    other = Geometry((9, 9, 9), np.diag([1.0004, 4, 5, 1]))
    assert Geometry((9, 9, 9), turned).orientation == "IAL"
    three = [ras, Geometry((9, 9, 9), turned), other]
    assert common_spacing(three, "RAS") == (1.0, 2.0, 3.0)
    assert common_spacing(three, "SAR") == (3.0, 2.0, 1.0)
    assert common_spacing([other], "RAS") == (1.0, 4.0, 5.0)
    # A cycle of the axes differs from its inverse, unlike a swap.
    assert common_spacing([other], "ASR") == (4.0, 5.0, 1.0)
