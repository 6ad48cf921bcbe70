"""Networks that look at the whole window, in windows that overlap."""

import numpy as np
import pytest
import torch
from torch import nn

from nobrainer.errors import InputError
from nobrainer.inference.predict import Sampling, TileResult
from nobrainer.inference.predictor import Predictor
from nobrainer.models.check import blended_window
from nobrainer.types import Shape3
from small_models import MONAI, SHAPES, small


def noise(shape: Shape3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def predict(
    model: nn.Module, image: np.ndarray, block_shape: Shape3 | None = None
) -> np.ndarray:
    """Probabilities (C, I, J, K) by the posterior mean."""
    tiles: list[TileResult] = []
    sampling = Sampling(0, 0, block_shape)
    Predictor(model, 2, sampling, torch.device("cpu"))(image, 0.0, tiles.append)
    (whole,) = tiles
    return whole.probabilities


@pytest.mark.parametrize("name", [name for name in MONAI if name != "highresnet"])
def test_a_volume_of_one_window_gets_one_plain_pass(name: str) -> None:
    model = small(name).eval()
    shape = SHAPES.get(name, (16, 8, 12))
    image = noise(shape)
    with torch.no_grad():
        logits = model(torch.from_numpy(image)[None, None])
    np.testing.assert_allclose(
        predict(model, image, shape), torch.softmax(logits, 1)[0], rtol=0, atol=1e-5
    )


def test_a_network_of_one_window_blends_that_window_alone() -> None:
    model = small("unetr").eval()
    image = noise((20, 16, 45))
    found = predict(model, image)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, predict(model, image, SHAPES["unetr"]))
    with pytest.raises(InputError, match=r"images of 16x16x32 voxels alone, and block"):
        predict(model, image, (16, 16, 16))


def test_windows_are_no_wider_than_the_volume() -> None:
    attention, swin = small("attention_unet"), small("swin_unetr")
    assert blended_window(attention, (200, 41, 96), None) == (96, 42, 96)
    assert blended_window(attention, (200, 41, 96), (31, 32, 64)) == (32, 32, 64)
    # A single voxel at the bottom has no variance to be normalised by.
    assert blended_window(swin, (10, 70, 300), None) == (64, 96, 96)
