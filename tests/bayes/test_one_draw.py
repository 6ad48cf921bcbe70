"""Draws that are made ahead of a pass, with their divergence."""

import math

import pyro.poutine as poutine
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesian_cases import small_batch, small_conv
from nobrainer.bayes.kl import model_divergence
from nobrainer.bayes.layers import (
    BayesianConv3d,
    name_sites,
    one_draw,
)
from nobrainer.bayes.priors import PRIORS
from nobrainer.losses import LOSSES
from nobrainer.training.objective import Elbo


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("prior", ["standard_normal", "laplace"])
@pytest.mark.parametrize("posterior", ["mean_field", "weight_normalised"])
def test_one_draw_has_the_gradient_of_draw_and_divergence_apart(
    posterior, prior, order
):
    args = {"scale": 0.3}
    layer = small_conv(
        posterior=posterior, prior_type=prior, prior_args=args, dtype=torch.float64
    ).to(memory_format=order)
    name_sites(nn.Sequential(layer))
    x = torch.randn(2, 2, 5, 5, 5, dtype=torch.float64)
    with one_draw(layer):
        trace = poutine.trace(layer).get_trace(x)
        kl = model_divergence(layer)
    y = trace.nodes["_RETURN"]["value"]
    (y.square().mean() + 0.3 * kl).backward()
    together = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    # The same draw from its noise, with a gradient of each part.
    weights, apart = [], 0.0
    for name, q in layer.posteriors().items():
        drawn = trace.nodes[f"0.{name}"]["value"]
        noise = ((drawn - q.mean) / q.scale).detach()
        assert noise.abs().max() < 6
        weights.append(q.mean + q.scale * noise)
        normal = torch.distributions.Normal(q.mean, q.scale)
        p = PRIORS[prior](**args)
        apart = apart + torch.distributions.kl_divergence(normal, p).sum()
    expected = F.conv3d(x, *weights)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(kl, apart)
    (expected.square().mean() + 0.3 * apart).backward()
    for parameter, gradient in zip(layer.parameters(), together, strict=True):
        assert parameter.grad.abs().min() > 0
        torch.testing.assert_close(gradient, parameter.grad)


def test_one_draw_ends_with_its_context():
    layer, x = small_conv(), torch.randn(1, 2, 4, 4, 4)
    with pytest.raises(KeyError), one_draw(layer):
        assert layer(x).equal(layer(x))
        raise KeyError
    assert not layer(x).equal(layer(x))
    with torch.random.fork_rng():
        passes = []
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            with one_draw(layer):
                passes.append(layer(x))
    assert passes[0].equal(passes[1])
    assert not passes[0].equal(passes[2])


def test_one_draw_follows_the_parameters_of_its_pass():
    layer, x = small_conv(), torch.ones(1, 2, 3, 3, 3)
    with torch.no_grad():
        for q in layer.posteriors().values():
            q.assign(torch.full_like(q.mean, 2.0), torch.full_like(q.mean, 1e-6))
    with one_draw(layer):
        y, kl = layer(x), model_divergence(layer).item()
    torch.testing.assert_close(
        y.flatten(), torch.full((3,), 2.0 * 55), rtol=1e-4, atol=0
    )
    # 162 weights and 3 biases; -log 1e-6 - 1/2 + 2² / 2 each.
    assert kl == pytest.approx(165 * (math.log(1e6) + 1.5), rel=1e-4)


def test_one_draw_can_be_replaced_by_a_condition():
    layer, x = small_conv(), torch.ones(1, 2, 3, 3, 3)
    name_sites(nn.Sequential(layer))
    weight = torch.full((3, 2, 3, 3, 3), 0.5)
    given = {"0.weight": weight, "0.bias": torch.zeros(3)}
    with one_draw(layer):
        y = poutine.condition(layer, data=given)(x)
        (y.sum() + model_divergence(layer)).backward()
    assert y.flatten().equal(torch.full((3,), 27.0))
    q = layer.posteriors()["weight"]
    torch.testing.assert_close(q.mean.grad, q.mean.detach())


def test_one_draw_inside_another_changes_nothing():
    layer, x = small_conv(), torch.randn(1, 2, 4, 4, 4)
    with one_draw(layer):
        before = layer(x)
        with one_draw(layer):
            assert layer(x).equal(before)
        assert layer(x).equal(before)
    assert not layer(x).equal(before)


def test_the_loss_of_a_batch_comes_of_one_draw():
    class Twice(nn.Module):
        kl_weight = 1.0

        def __init__(self) -> None:
            super().__init__()
            self.layer = BayesianConv3d(1, 2, 1, posterior_scale=1.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) - self.layer(x)

    image, label = small_batch()
    model = Twice()
    loss = Elbo(model, LOSSES["cross_entropy"](), n_voxels=512)(image, label)
    assert loss.logits.abs().max() == 0
    assert model(image).abs().max() > 0
