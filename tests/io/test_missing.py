"""Scans with voxels that are NaN look as they would with their background there."""

import warnings

import nibabel as nib
import numpy as np
import pytest

from images import LAS, counting, error_of, save
from nobrainer import io
from nobrainer.data.preprocess import background_value, preprocess_image
from nobrainer.io.missing import fill_missing
from nobrainer.recipe import PreprocessConfig

SIDE = 40


def is_beyond():
    """Where a head that was turned by 10 degrees has no value, 16 % of the field."""
    i, j, _ = np.indices((SIDE,) * 3) - (SIDE - 1) / 2
    c, s = np.cos(np.radians(10)), np.sin(np.radians(10))
    return np.maximum(abs(c * i + s * j), abs(c * j - s * i)) > SIDE / 2 - 1.5


def head(noise=5.0):
    """A ball of two tissues, 80 and 110, in noisy air; it ends at 0.8 of the way."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 3, indexing="ij"))
    radius = np.sqrt((grid**2).sum(0))
    tissue = np.where(radius < 0.5, 110, np.where(radius < 0.8, 80, 0))
    real, imaginary = rng.normal(0, noise, (2, *radius.shape))
    return np.hypot(tissue + real, imaginary).astype(np.float32)


def with_missing(image, where):
    image = image.copy()
    image[where] = np.nan
    return image


def prepared(source, spacing_mm):
    config = PreprocessConfig(
        spacing_mm=spacing_mm, outliers="clipped", bright_air="inverted"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return preprocess_image(io.read_image(source), config).data


@pytest.mark.parametrize("suffix", [".nii.gz", ".mgz"])
@pytest.mark.parametrize("turned_over", [False, True])
@pytest.mark.parametrize(
    # Voxels of 1.5 mm lie between head and air, and one or two change sides.
    ("side_mm", "tolerance"),
    [(1, 0), (1.5, 0.003), (2, 1e-5)],
)
def test_a_rim_of_nan_gives_what_true_air_gives(
    tmp_path, suffix, turned_over, side_mm, tolerance
):
    image = 200 - head() if turned_over else head()
    expected = prepared((image, np.eye(4)), (side_mm,) * 3)
    rimmed = with_missing(image, is_beyond())
    path = save(tmp_path / f"a{suffix}", rimmed, np.eye(4))
    result = prepared(path, (side_mm,) * 3)
    inside = expected > -2
    assert inside.mean() > 0.2
    assert np.abs(result - expected)[inside].max() <= tolerance
    # No voxel of the rim is as bright as the head.
    assert result[~inside].max() < -1.99
    # The noise of the air itself is a third of the deviation of the head.
    assert abs(background_value(result) - background_value(expected)) < 0.2


def test_a_frame_of_nan_gives_what_the_cropped_scan_gives():
    image, box = head(), (slice(2, -3), slice(1, -1), slice(2, -2))
    where = np.ones(image.shape, bool)
    where[box] = False
    expected = prepared((image[box], np.eye(4)), (1, 1, 1))
    result = prepared((with_missing(image, where), np.eye(4)), (1, 1, 1))
    np.testing.assert_allclose(result[box], expected, atol=1e-5)
    assert set(result[where]) == {np.float32(background_value(result))}
    assert background_value(result) == pytest.approx(
        background_value(expected), abs=1e-3
    )


@pytest.mark.parametrize("lowest", [0, -40])
def test_nan_around_a_brain_is_no_tissue(lowest):
    """The mask of a brain ends in tissue: what lies beyond is 0, or what is darkest."""
    image = head() + lowest
    brain = np.linalg.norm(np.indices(image.shape) - (SIDE - 1) / 2, axis=0) < 12
    image[brain] -= image[brain].min() - 20 - lowest
    n_filled, fill = fill_missing(filled := with_missing(image, ~brain))
    low = np.percentile(image[brain].astype(float), 0.1, method="lower")
    assert n_filled == np.count_nonzero(~brain) and fill == min(low, 0)
    assert set(filled[~brain]) == {np.float32(fill)}
    np.testing.assert_array_equal(filled[brain], image[brain])
    if lowest == 0:
        stripped = (np.where(brain, image, 0), np.eye(4))
        np.testing.assert_array_equal(
            prepared((with_missing(image, ~brain), np.eye(4)), (1.5,) * 3),
            prepared(stripped, (1.5,) * 3),
        )


def test_the_fill_is_the_lower_quartile_of_the_border_by_hand():
    # The voxels with a value are one column in an axis of six faces: all are border.
    image = np.full((3, 3, 9), np.nan, np.float32)
    image[1, 1] = [900, 1, 3, 2, 0, 4, 800, 1000, 700]
    assert fill_missing(image) == (72, 2.0)
    assert image[0, 0, 0] == 2 and image[1, 1, 0] == 900


def test_one_warning_says_how_many_and_what_was_done(tmp_path):
    image = head(noise=0)
    image[:, :, :4] = np.nan
    path = save(tmp_path / "sub-1_T1w.nii", image)
    with pytest.warns(UserWarning) as caught:
        volume = io.read_image(path)
    assert [str(w.message) for w in caught] == [
        f"{path}: 6400 of 64000 voxels (10.00%) are NaN, as tools that move or mask a "
        "scan write them: they are taken for background, of intensity 0. If some lie "
        "inside the head, what is found there cannot be trusted: fill these from "
        "their neighbours, or give the scan as it was before"
    ]
    assert np.isfinite(volume.data).all() and not volume.data[:, :, :4].any()
    for source in (nib.load(path), (image, LAS)):
        with pytest.warns(UserWarning, match="6400 of 64000"):
            np.testing.assert_array_equal(io.read_image(source).data, volume.data)
    # What the caller holds is not written to.
    assert np.isnan(image[0, 0, 0])


def test_infinity_too_few_values_and_labels_are_refused(tmp_path):
    image = with_missing(head(), is_beyond())
    n_missing = int(np.isnan(image).sum())
    image[20, 20, 20] = np.inf
    said = f"holds NaN or infinity in {n_missing + 1} voxels: replace them"
    assert said in error_of(io.read_image, save(tmp_path / "a.nii", image))
    for n_known in (0, 639):
        few = np.full(64000, np.nan, np.float32)
        few[:n_known] = np.arange(n_known)
        said = f"holds NaN or infinity in {64000 - n_known} voxels"
        assert said in error_of(io.read_image, (few.reshape(40, 40, 40), LAS))
    few[:640] = np.arange(640)
    assert fill_missing(few.reshape(40, 40, 40))[0] == 63360
    labels = counting(dtype=np.float32)
    labels[0, 0, 0] = np.nan
    assert "NaN or infinity in 1 voxels" in error_of(io.read_labels, (labels, LAS))
    flat = with_missing(np.full((9, 9, 9), 7, np.float32), (0, 0, 0))
    assert "constant, every voxel is 7" in error_of(io.read_image, (flat, LAS))
    flat[4, 4, 4] = 1
    said = error_of(io.read_image, save(tmp_path / "mask.nii", flat))
    assert "holds two values alone, 1 and 7" in said
