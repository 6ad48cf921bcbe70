"""The model of McClure et al. 2019, part by part, against its definition."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from nobrainer import models
from nobrainer.bayes.draws import is_stochastic, realise
from nobrainer.bayes.dropout import ConcreteDropout3d
from nobrainer.bayes.kl import model_divergence, n_stochastic_weights
from nobrainer.bayes.layers import BayesianConv3d
from nobrainer.bayes.posteriors import (
    POSTERIORS,
    WeightNormalised,
    WeightNormalisedNormal,
)
from nobrainer.bayes.priors import PRIORS
from nobrainer.losses import LOSSES
from nobrainer.training.objective import Elbo

VARIANTS = ["spike_and_slab", "bernoulli", "map"]
DILATIONS = [1, 1, 1, 2, 4, 8, 1]


def _kwyk(**args) -> nn.Module:
    small = {"n_classes": 3, "base_filters": 6, "dilations": [1, 2]}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.build("kwyk", **small | args)


def _weight(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _convolutions(model: nn.Module) -> list[BayesianConv3d]:
    return [m for m in model.modules() if isinstance(m, BayesianConv3d)]


def test_the_default_is_the_published_network():
    model = models.build("kwyk")
    kinds = [type(m) for m in model.layers]
    assert kinds == 7 * [BayesianConv3d, ConcreteDropout3d, nn.ReLU]
    convolutions = _convolutions(model)
    assert [c.dilation for c in convolutions] == [(d,) * 3 for d in [*DILATIONS, 1]]
    shapes = [tuple(c.posteriors()["weight"].mean.shape) for c in convolutions]
    inner = 6 * [(96, 96, 3, 3, 3)]
    assert shapes == [(96, 1, 3, 3, 3), *inner, (50, 96, 1, 1, 1)]
    assert all("bias" in c.posteriors() for c in convolutions)
    for convolution in convolutions:
        for q in convolution.posteriors().values():
            torch.testing.assert_close(q.scale, torch.full_like(q.mean, 1e-4))
    for gate in (m for m in model.modules() if isinstance(m, ConcreteDropout3d)):
        torch.testing.assert_close(gate.keep_probability, torch.full((96,), 0.9))
        assert (gate.temperature, gate.prior) == (0.02, 0.5)
    assert (model.stride, model.halo, model.width) == (1, 18, 96)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_mean_network_written_out(variant):
    model = _kwyk(variant=variant)
    x = _weight(2, 1, 6, 5, 7)
    h = x
    for n, dilation in enumerate([1, 2]):
        q = model.layers[3 * n].posteriors()
        w, b = q["weight"].mean, q["bias"].mean
        h = F.conv3d(h, w, b, padding=dilation, dilation=dilation)
        h = torch.relu(0.9 * h if variant == "spike_and_slab" else h)
    q = model.head.posteriors()
    expected = F.conv3d(h, q["weight"].mean, q["bias"].mean)
    torch.testing.assert_close(realise(model, None)(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_is_random_in_its_own_way(variant):
    model = _kwyk(variant=variant)
    assert is_stochastic(model) == (variant != "map")
    one, two = (realise(model, seed) for seed in (1, 2))
    same = one.head.weight.equal(two.head.weight)
    assert same == (variant != "spike_and_slab")
    x = _weight(1, 1, 6, 6, 6)
    assert one(x).equal(two(x)) == (variant == "map")
    # Outside of training the model itself draws, too.
    model.eval()
    assert model(x).equal(model(x)) == (variant != "spike_and_slab")
    model.train()
    # Few filters: two passes alone can well shut none of them.
    passes = [model(x) for _ in range(40)]
    same = all(passes[0].equal(other) for other in passes[1:])
    assert same == (variant == "map")


def test_bernoulli_shuts_a_tenth_of_the_filters():
    model = _kwyk(variant="bernoulli")
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout3d)] == [0.1, 0.1]


def test_the_mean_over_draws_is_the_posterior_mean():
    model = _kwyk(base_filters=2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("posterior.a"):
                parameter.fill_(-0.3)
    n = 400
    draws = [realise(model, seed).state_dict() for seed in range(n)]
    mean = realise(model, None).state_dict()
    for place, expected in mean.items():
        found = torch.stack([draw[place] for draw in draws])
        gate = place.endswith(".gate")
        sd = 0.3 if not gate else math.sqrt(0.9 * 0.1)
        assert (found.mean(0) - expected).abs().max() < 5 * sd / math.sqrt(n), place
        if not gate:
            assert found.std().item() == pytest.approx(
                math.sqrt(0.09 + expected.var(correction=0)), rel=0.1
            )


@pytest.mark.parametrize("posterior", ["weight_normalised", "point"])
def test_weight_normalisation_is_the_one_of_torch(posterior):
    weight = _weight(4, 2, 3, 3, 3)
    q = POSTERIORS[posterior](weight, 0.1)
    conv = nn.Conv3d(2, 4, 3)
    conv.weight.data.copy_(weight)
    conv = parametrizations.weight_norm(conv, dim=0)
    theirs = conv.parametrizations.weight
    torch.testing.assert_close(q.g, theirs.original0)
    torch.testing.assert_close(q.v, theirs.original1)
    with torch.no_grad():
        for parameter in (q.g, theirs.original0):
            parameter.mul_(2.5)
        for parameter in (q.v, theirs.original1):
            parameter.add_(0.3)
    torch.testing.assert_close(q.mean, conv.weight)
    for loss in (q.mean.pow(3).sum(), conv.weight.pow(3).sum()):
        loss.backward()
    torch.testing.assert_close(q.g.grad, theirs.original0.grad)
    torch.testing.assert_close(q.v.grad, theirs.original1.grad, rtol=1e-4, atol=1e-5)


def test_a_filter_of_zeros_stays_one():
    q = WeightNormalised(torch.zeros(2, 3))
    assert q.mean.equal(torch.zeros(2, 3))
    q.mean.sum().backward()
    assert q.g.grad.isfinite().all() and q.v.grad.isfinite().all()


def test_the_divergence_of_weight_normalised_gaussians_by_hand():
    weight, prior = _weight(4, 2, 3, 3, 3), PRIORS["standard_normal"](scale=0.5)
    q = WeightNormalisedNormal(weight, 0.1)
    with torch.no_grad():
        q.a.copy_(0.1 * torch.randn(q.a.shape, generator=torch.Generator()))
    variance = q.a.square() + weight.square()
    terms = torch.log(0.5 / q.a.abs()) + variance / (2 * 0.25) - 0.5
    kl = q.divergence(prior)
    torch.testing.assert_close(kl, terms.sum())
    kl.backward()
    lengths = weight.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1, 1)
    # Σ w² = g² for each filter, whatever its direction.
    torch.testing.assert_close(q.g.grad, lengths / 0.25)
    assert q.v.grad.abs().max() < 1e-4
    by_a = q.a.detach() / 0.25 - 1 / q.a.detach()
    torch.testing.assert_close(q.a.grad, by_a)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_divergence_of_points_is_the_log_prior(scale):
    model = _kwyk(variant="map", prior_args={"scale": scale})
    kl = model_divergence(model)
    weights = torch.cat(
        [
            q.mean.detach().flatten()
            for layer in _convolutions(model)
            for q in layer.posteriors().values()
        ]
    )
    assert n_stochastic_weights(model) == len(weights)
    constant = math.log(scale) + 0.5 * math.log(2 * math.pi)
    expected = (weights**2 / (2 * scale**2) + constant).sum()
    torch.testing.assert_close(kl, expected)
    kl.backward()
    for layer in _convolutions(model):
        q = layer.posteriors()
        # A weight's gradient is w / scale²; along a filter's direction that is g.
        bias, weight = q["bias"], q["weight"]
        torch.testing.assert_close(bias.g.grad, bias.g.detach() / scale**2)
        torch.testing.assert_close(weight.g.grad, weight.g.detach() / scale**2)


@pytest.mark.parametrize("estimator", ["shared", "per_example", "local", "flipout"])
def test_points_do_not_depend_on_the_estimator(estimator):
    x = _weight(2, 1, 5, 5, 5)
    model = _kwyk(variant="map", estimator=estimator).train()
    torch.testing.assert_close(model(x), realise(model, None)(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_lowers_the_loss_by_all_its_parts(variant):
    model = _kwyk(variant=variant, n_classes=2)
    image = _weight(2, 1, 8, 8, 8)
    label = (image[:, 0] > 0).long()
    elbo = Elbo(model, LOSSES["cross_entropy"](), n_voxels=1_000_000)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(60):
            optimizer.zero_grad()
            loss = elbo(image, label)
            loss.total.backward()
            optimizer.step()
            losses.append(float(loss.data.detach()))
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    assert not any(model.state_dict()[k].equal(v) for k, v in start.items())
