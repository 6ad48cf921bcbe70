"""Ensembles: their mixture, their draws, and that any tiling gives the same answer."""

import numpy as np
import pytest
import torch
from torch import nn

from nobrainer import models
from nobrainer.bayes.draws import (
    Draw,
    Draws,
    is_stochastic,
    mix_seed,
    plan_draws,
    realise,
)
from nobrainer.bayes.ensemble import EnsembleNetwork
from nobrainer.inference.predict import Sampling, TileResult
from nobrainer.inference.predictor import Predictor

PLAIN = [
    ["vnet", {"base_filters": 2, "levels": 3}],
    ["unet", {"base_filters": 2, "levels": 2}],
    ["meshnet", {"base_filters": 3, "dilations": [1, 2]}],
]
BAYESIAN = [
    ["bayesian_vnet", {"base_filters": 2, "levels": 2, "posterior_scale": 0.5}],
    ["meshnet", {"base_filters": 3, "dilations": [2, 1], "dropout_rate": 0.4}],
    [
        "vnet",
        {
            "base_filters": 3,
            "levels": 1,
            "dropout_rate": 0.4,
            "dropout_type": "concrete",
        },
    ],
]


def _ensemble(members: list, **args) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.build("ensemble", members=members, **args).eval()
        with torch.no_grad():
            for norm in model.modules():
                if isinstance(norm, nn.BatchNorm3d):
                    norm.weight.mul_(2)
                    norm.running_mean.normal_()
    return model


def _predict(model: nn.Module, image: np.ndarray, **sampling) -> dict[str, np.ndarray]:
    """The maps of a volume by name, and the voxel counts of the draws."""
    maps: dict[str, np.ndarray] = {}

    def put(tile: TileResult) -> None:
        for name in ("label", "variance", "entropy", "probabilities"):
            value = getattr(tile, name)
            shape = (*value.shape[:-3], *image.shape)
            maps.setdefault(name, np.zeros(shape, value.dtype))
            maps[name][..., *tile.where] = value

    cpu = torch.device("cpu")
    counts = Predictor(model, 2, Sampling(seed=5, **sampling), cpu)(image, 0.0, put)
    return maps | {"counts": counts}


def _image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_the_output_is_the_mean_of_the_members_probabilities():
    model = _ensemble(PLAIN, n_classes=3, in_channels=2)
    x = torch.rand(2, 2, 8, 4, 12, generator=torch.Generator().manual_seed(0))
    probabilities = torch.stack([m(x).softmax(1) for m in model.members]).mean(0)
    torch.testing.assert_close(model(x).exp(), probabilities)
    torch.testing.assert_close(model(x).softmax(1), probabilities)


def test_certain_members_that_disagree_have_finite_logits():
    class Certain(nn.Module):
        stride, halo, width = 1, 0, 1

        def __init__(self, logit: float) -> None:
            super().__init__()
            self.logit = logit

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.logit * x, -self.logit * x], 1)

    model = EnsembleNetwork([Certain(1000.0), Certain(1000.0), Certain(-1000.0)])
    found = model(torch.ones(1, 1, 1, 1, 1)).flatten()
    torch.testing.assert_close(found, torch.tensor([2 / 3, 1 / 3]).log())


@pytest.mark.parametrize(
    ("members", "stride", "halo", "width"),
    [
        ([(2, 6, 3), (3, 9, 5)], 6, 12, 5),
        ([(1, 5, 9), (4, 4, 1)], 4, 8, 9),
        ([(1, 18, 1), (1, 3, 1)], 1, 18, 1),
        ([(2, None, 1), (1, 3, 1)], 2, None, 1),
    ],
)
def test_reach_is_the_one_that_serves_every_member(members, stride, halo, width):
    parts = []
    for numbers in members:
        parts.append(nn.Identity())
        parts[-1].stride, parts[-1].halo, parts[-1].width = numbers
    model = EnsembleNetwork(parts)
    assert (model.stride, model.halo, model.width) == (stride, halo, width)


def test_members_are_trained_one_by_one():
    model = _ensemble(BAYESIAN)
    assert not hasattr(model, "kl_weight")
    assert [hasattr(m, "kl_weight") for m in model.members] == [True, False, True]


def test_the_draws_take_the_members_in_turn():
    model = _ensemble(BAYESIAN)
    seeds = [mix_seed(3, "draw", n) for n in range(5)]
    assert plan_draws(model, 3, 5) == [Draw(s, n % 3) for n, s in enumerate(seeds)]
    assert plan_draws(model, 3, 0) == [Draw(None, n) for n in range(3)]
    alone = model.members[0]
    assert plan_draws(alone, 3, 2) == [Draw(seeds[0]), Draw(seeds[1])]
    assert plan_draws(alone, 3, 0) == [Draw(None)]


def test_deterministic_members_are_not_repeated():
    model = _ensemble(PLAIN)
    assert is_stochastic(model)
    assert [d.member for d in plan_draws(model, 0, 10)] == [0, 1, 2]
    assert [d.member for d in plan_draws(model, 0, 2)] == [0, 1]
    # A single network is asked for what it is asked for.
    assert len(plan_draws(model.members[0], 0, 10)) == 10


@pytest.mark.parametrize("seed", [None, 4])
def test_a_draw_of_a_member_is_the_one_of_the_member_alone(seed):
    model = _ensemble(BAYESIAN)
    x = torch.rand(1, 1, 4, 6, 8)
    draws = Draws(model)
    for n in (1, 2, 0, 1):
        alone = realise(model.members[n], seed)
        assert realise(model, seed, n)(x).equal(alone(x))
        assert draws.set(seed, n).network(x).equal(alone(x))


@pytest.mark.parametrize(("members", "n_draws"), [(PLAIN, 3), (BAYESIAN, 5)])
def test_any_tiling_gives_the_same_maps(members, n_draws):
    model = _ensemble(members)
    image = _image(17, 9, 11)
    whole = _predict(model, image, n_draws=n_draws, block_shape=(20, 20, 20))
    assert whole["probabilities"][0].std() > 0.003
    for block in ((4, 8, 8), (8, 12, 5)):
        tiled = _predict(model, image, n_draws=n_draws, block_shape=block)
        assert np.array_equal(tiled["label"], whole["label"])
        assert np.array_equal(tiled["counts"], whole["counts"])
        for name in ("variance", "entropy", "probabilities"):
            np.testing.assert_allclose(tiled[name], whole[name], atol=1e-5)


def test_a_prediction_is_the_mean_of_the_members_own():
    model = _ensemble(PLAIN)
    image = _image(12, 8, 9)
    together = _predict(model, image, n_draws=3)
    alone = [_predict(member, image, n_draws=1) for member in model.members]
    each = np.stack([a["probabilities"] for a in alone])
    np.testing.assert_allclose(together["probabilities"], each.mean(0), atol=1e-6)
    np.testing.assert_allclose(
        together["variance"], each.var(0).mean(0), rtol=1e-3, atol=1e-6
    )
    assert np.array_equal(
        together["counts"], np.concatenate([a["counts"] for a in alone])
    )
    assert together["variance"].max() > 1e-3
