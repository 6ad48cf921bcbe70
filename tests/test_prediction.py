"""Predictions by networks of one's own, against plain passes."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nobrainer import models
from nobrainer.errors import InputError
from nobrainer.prediction import predict, predict_with_uncertainty

SHAPE = (21, 18, 25)


class Threshold(nn.Module):
    """Class 1 where the intensity is above 10."""

    halo, stride, width = 0, 1, 2

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((torch.zeros_like(x), x - 10), 1)


class Mean(nn.Module):
    """Class 1 where the mean of the window is above 10: not local."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3, 4), keepdim=True).expand(x.shape)
        return torch.cat((torch.zeros_like(x), mean - 10), 1)


def scan() -> np.ndarray:
    return np.random.default_rng(0).normal(10, 5, SHAPE).astype(np.float32)


def unet(**args: object) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.get("unet")(channels=(4, 8), strides=(2,), **args)


def values(image: nib.Nifti1Image) -> np.ndarray:
    return np.asarray(image.dataobj)


def test_intensities_reach_the_network_as_they_are(tmp_path: Path) -> None:
    # Neither the orientation nor the slope of a file may come between.
    affine = np.diag([-2.0, 3.0, -1.0, 1.0])
    image = nib.Nifti1Image(scan(), affine)
    nib.save(image, tmp_path / "scan.nii.gz")
    for source in (scan(), image, tmp_path / "scan.nii.gz", (scan(), affine)):
        found = predict(inputs=source, model=Threshold(), block_shape=(8, 8, 8))
        np.testing.assert_array_equal(values(found), scan() > 10)
        assert found.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(found.affine, affine)
    np.testing.assert_array_equal(predict(scan(), Threshold()).affine, np.eye(4))


def test_several_scans_give_a_list() -> None:
    low, high = predict([scan() - 5, scan() + 5], Threshold())
    assert values(low).sum() < (scan() > 10).sum() < values(high).sum()


@pytest.mark.parametrize("block_shape", [None, (16, 16, 16), (7, 30, 4)])
def test_tiles_of_a_local_network_do_not_show(block_shape: tuple | None) -> None:
    model = unet().train()
    found = predict(scan(), model, block_shape, batch_size=4)
    # The faces see the background of the scan, not zeros.
    inner = (slice(6, 12), slice(6, 12), slice(6, 18))
    with torch.no_grad():
        image = torch.from_numpy(scan())[None, None, :20, :, :24]
        expected = model.eval()(image).argmax(1)[0]
    np.testing.assert_array_equal(values(found)[inner], expected[inner])
    assert 0.1 < values(found).mean() < 0.9


def test_the_network_is_left_as_it_is() -> None:
    model = unet().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predict(scan(), model)
    assert model.training
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_windows_of_a_network_that_is_not_local_are_the_blocks() -> None:
    image = np.full(SHAPE, 5, np.float32)
    image[:8] = 20
    # One window of all has the mean 10.7; some of its parts are all dim.
    assert values(predict(image, Mean(), block_shape=SHAPE)).all()
    parts = values(predict(image, Mean(), block_shape=(6, 6, 6)))
    assert parts[:4].all() and not parts[12:].any()


def test_a_normalizer_comes_before_the_network() -> None:
    found = predict(scan(), Threshold(), normalizer=lambda x: x + 3)
    np.testing.assert_array_equal(values(found), scan() > 7)
    with pytest.raises(InputError, match="normalizer must give finite numbers of the"):
        predict(scan(), Threshold(), normalizer=lambda x: x[1:])


def test_draws_give_maps_of_uncertainty() -> None:
    model = unet(dropout_rate=0.3)
    label, variance, entropy = predict_with_uncertainty(scan(), model, n_samples=4)
    again = predict_with_uncertainty(scan(), model, 4, block_shape=(8, 9, 10))
    np.testing.assert_array_equal(values(label), values(again[0]))
    np.testing.assert_allclose(values(variance), values(again[1]), atol=1e-5)
    assert 0 < values(variance).mean() <= 0.25
    assert 0 < values(entropy).mean() <= np.log(2) + 1e-6
    # Without draws there is the mean.
    assert not np.array_equal(values(predict(scan(), model)), values(label))
    with pytest.raises(InputError, match="has nothing to draw"):
        predict_with_uncertainty(scan(), unet())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "model.h5"}, "got str: read a saved model with Segmentation.load"),
        ({"model": nn.Sequential(nn.Conv3d(1, 1, 1))}, "one channel of output"),
        ({"model": nn.Sequential(nn.Conv3d(2, 2, 1))}, "does not take an image"),
        (
            {"model": nn.Sequential(nn.Conv3d(1, 2, 3))},
            "and should make logits of each",
        ),
        ({"block_shape": (8, 8)}, "block_shape must be three positive integers"),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1"),
        ({"inputs": np.zeros((4, 4))}, "."),
        ({"inputs": "missing.nii"}, "missing.nii"),
    ],
)
def test_what_cannot_be_used_is_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        predict(**({"inputs": scan(), "model": Threshold()} | change))
