"""What a GPU may do to the products of float32 numbers, as far as it is a setting."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.backends import cuda, cudnn
from torch.utils.data import DataLoader

from nobrainer import models
from nobrainer.inference.predict import Sampling
from nobrainer.inference.predictor import Predictor
from nobrainer.rounding import float32_products
from nobrainer.training.own_network import fit


def _settings() -> tuple[bool, bool]:
    return cudnn.allow_tf32, cuda.matmul.allow_tf32


def test_products_are_exact_unless_they_may_be_rounded():
    before = _settings()
    with float32_products(tf32=True):
        assert _settings() == (True, True)
        with float32_products():
            assert _settings() == (False, False)
        assert _settings() == (True, True)
    assert _settings() == before
    with pytest.raises(ZeroDivisionError), float32_products(tf32=not before[1]):
        raise ZeroDivisionError
    assert _settings() == before


def test_prediction_and_training_say_how_products_are_rounded():
    seen: list[tuple[bool, bool]] = []
    model = models.build("vnet", n_classes=2, base_filters=2, levels=1)
    exact = Predictor(
        model,
        2,
        Sampling(0, 0),
        torch.device("cpu"),
        on_pass=lambda done, total: seen.append(_settings()),
    )
    image = np.ones((6, 6, 6), np.float32)
    before = _settings()
    for predictor in (exact, replace(exact, tf32=True)):
        predictor(image, 0.0, lambda tile: None)
    assert seen == [(False, False), (True, True)]

    network = nn.Conv3d(1, 2, 1)
    network.register_forward_hook(lambda *_: seen.append(_settings()))
    pair = torch.ones(1, 4, 4, 4), torch.ones(4, 4, 4, dtype=torch.int64)
    optimizer = torch.optim.SGD(network.parameters())
    fit(network, DataLoader([pair]), nn.functional.cross_entropy, optimizer, gpus=0)
    assert seen[-1] == (False, False)
    assert _settings() == before
