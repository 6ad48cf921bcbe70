"""A scan's own voxels, in the unit of the scan on the working grid."""

from dataclasses import replace

import numpy as np
import pytest

from nobrainer.data.preprocess import (
    NORMALIZERS,
    preprocess_finely,
    preprocess_image,
)
from nobrainer.recipe import PreprocessConfig
from nobrainer.volume import Volume, conform


def a_scan() -> Volume:
    """A ball of two tissues in noise, int16, with slices of 3 mm, stored as LPS."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 36, 14))))
    radius = np.sqrt((grid**2).sum(0))
    tissue = np.where(radius < 0.5, 110, np.where(radius < 0.8, 80, 0))
    noise = rng.normal(0, 5, (2, *radius.shape))
    data = np.hypot(tissue + noise[0], noise[1]).astype(np.int16)
    return Volume(data, np.diag([-1.0, -1.0, 3.0, 1.0]))


@pytest.mark.parametrize("normalize", NORMALIZERS)
@pytest.mark.parametrize("change", ["as it is", "inverted", "with a fill"])
def test_own_voxels_resampled_are_the_prepared_scan(normalize: str, change: str):
    volume = a_scan()
    if change == "inverted":
        volume = replace(volume, data=(300 - volume.data).astype(np.int16))
    if change == "with a fill":
        volume.data[:6] = -2000
    config = PreprocessConfig(
        spacing_mm=(1.4, 1.4, 1.4),
        normalize=normalize,
        bright_air="inverted",
        outliers="clipped",
    )
    prepared, own = preprocess_finely(volume, config)
    np.testing.assert_array_equal(prepared.data, preprocess_image(volume, config).data)
    assert sorted(own.data.shape) == sorted(volume.data.shape)
    assert own.data.dtype == np.float32
    # Resampling is linear, and so is normalisation but for the limits of minmax.
    again = conform(own, config.orientation, config.spacing_mm)
    wanted = again.data.clip(0, 1) if normalize == "minmax" else again.data
    scale = np.abs(prepared.data).max()
    np.testing.assert_allclose(prepared.data, wanted, atol=1e-5 * scale)
    assert prepared.data.std() > 0.1


def test_a_scan_that_is_not_resampled_is_its_own_finer_one():
    config = PreprocessConfig(spacing_mm=(1.0, 1.0, 3.0), normalize="zscore")
    prepared, own = preprocess_finely(a_scan(), config)
    assert own is prepared


def test_two_values_are_enough():
    data = np.zeros((16, 16, 16), np.int16)
    data[4:12, 4:12, 4:12] = 50
    config = PreprocessConfig(spacing_mm=(2.0, 2.0, 2.0), normalize="zscore")
    volume = Volume(data, np.eye(4))
    prepared, own = preprocess_finely(volume, config)
    assert len(np.unique(own.data)) == 2
    again = conform(own, "RAS", config.spacing_mm)
    np.testing.assert_allclose(again.data, prepared.data, atol=1e-5)
