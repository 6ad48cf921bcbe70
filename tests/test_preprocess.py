"""The answer must not depend on how a scan is stored."""

import nibabel as nib
import numpy as np
import pytest

from nobrainer.data.preprocess import (
    NORMALIZERS,
    common_spacing,
    minmax,
    preprocess_image,
    preprocess_labels,
    zscore,
)
from nobrainer.errors import InputError
from nobrainer.recipe import PreprocessConfig
from nobrainer.volume import Geometry, Volume


@pytest.fixture(scope="module")
def head():
    """A ball of two tissues in a noisy background."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 40)] * 3, indexing="ij"))
    radius = np.sqrt((grid**2).sum(0))
    tissue = np.where(radius < 0.5, 110, np.where(radius < 0.8, 80, 0))
    noise = rng.normal(0, 5, (2, *radius.shape))
    return np.hypot(tissue + noise[0], noise[1]).astype(np.float32)


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


@pytest.mark.parametrize("name", ["zscore", "minmax"])
def test_normalisation_ignores_linear_scaling(head, name):
    normalize = NORMALIZERS[name]
    expected = normalize(head)
    for scale, shift in ((0.01, 0), (37, 500), (3, -1000)):
        scaled = (scale * head.astype(np.float64) + shift).astype(np.float32)
        np.testing.assert_allclose(normalize(scaled), expected, atol=1e-4)


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
    config = PreprocessConfig()
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
