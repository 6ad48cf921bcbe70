"""Dropout whose rates are learned, against closed forms."""

import math

import numpy as np
import pyro
import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn

from bayesian_cases import small_batch
from nobrainer import models
from nobrainer.bayes.draws import Draws, is_stochastic, realise
from nobrainer.bayes.dropout import DROPOUTS, ConcreteDropout3d
from nobrainer.bayes.kl import model_divergence, n_stochastic_weights
from nobrainer.bayes.layers import (
    name_sites,
)
from nobrainer.errors import InputError
from nobrainer.losses import LOSSES
from nobrainer.training.objective import Elbo


def _gates(
    channels: int, keep: float = 0.9, temperature: float = 0.1, prior: float = 0.5
) -> ConcreteDropout3d:
    return ConcreteDropout3d(channels, keep, temperature, prior)


def _seeded(module: nn.Module, x: Tensor, seed: int = 0) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return module(x)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("temperature", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("level", [0.5, 0.6, 0.3])
def test_a_relaxed_gate_has_the_concrete_distribution(keep, temperature, level):
    layer = _gates(500, keep, temperature).train()
    gates = _seeded(layer, torch.ones(40, 500, 1, 1, 1)).flatten().detach()
    assert gates.min() >= 0 and gates.max() <= 1
    # sigmoid((logit p + logit u) / t) > level just where logit u > c; above 1/2 is as
    # often as the gate is open, whatever t is.
    c = temperature * math.log(level / (1 - level)) - math.log(keep / (1 - keep))
    above = 1 / (1 + math.exp(c))
    standard_error = math.sqrt(above * (1 - above) / 20_000)
    found = (gates > level).float().mean().item()
    assert found == pytest.approx(above, abs=4 * standard_error)


def test_training_draws_a_gate_for_each_example_and_channel():
    layer = _gates(64, 0.5, 0.5).train()
    y = _seeded(layer, torch.ones(3, 64, 2, 3, 4)).detach()
    gates = y[..., 0, 0, 0]
    assert y.equal(gates[..., None, None, None].expand_as(y))
    assert len(gates.flatten().unique()) == 3 * 64


def test_outside_training_a_gate_is_open_or_shut_and_the_same_for_the_batch():
    layer = _gates(64, 0.5).eval()
    x = torch.rand(3, 64, 2, 3, 4) + 0.5
    ratio = _seeded(layer, x) / x
    assert set(ratio.unique().tolist()) == {0.0, 1.0}
    assert ratio.equal(ratio[:1, :, :1, :1, :1].expand_as(ratio))
    assert not _seeded(layer, x, 1).equal(_seeded(layer, x))


@pytest.mark.parametrize("prior", [0.5, 0.2])
@pytest.mark.parametrize("keep", [0.05, 0.3, 0.9])
def test_divergence_of_gates_by_hand_by_monte_carlo_and_its_gradient(keep, prior):
    layer = _gates(7, keep, prior=prior)
    kl = model_divergence(layer)
    ratios = math.log(keep / prior), math.log((1 - keep) / (1 - prior))
    assert kl.item() == pytest.approx(
        7 * (keep * ratios[0] + (1 - keep) * ratios[1]), rel=1e-4
    )
    gates = np.random.default_rng(0).random(200_000) < keep
    terms = np.where(gates, *ratios)
    standard_error = 7 * terms.std() / math.sqrt(len(terms))
    assert kl.item() == pytest.approx(7 * terms.mean(), abs=4 * standard_error + 1e-5)
    kl.backward()
    by_logit = keep * (1 - keep) * (ratios[0] - ratios[1])
    torch.testing.assert_close(layer.logit.grad, torch.full((7,), by_logit))
    assert n_stochastic_weights(layer) == 7


@pytest.mark.parametrize("keep", [0.3, 0.8])
def test_the_gradient_of_a_relaxed_gate_is_the_one_of_its_mean(keep):
    n, temperature = 200_000, 0.5
    layer = _gates(n, keep, temperature).train()
    _seeded(layer, torch.ones(1, n, 1, 1, 1)).sum().backward()
    assert layer.logit.grad is not None

    def mean(logit: float) -> float:
        u = (np.arange(400_000) + 0.5) / 400_000
        return float(
            np.mean(1 / (1 + np.exp(-(logit + np.log(u / (1 - u))) / temperature)))
        )

    logit = math.log(keep / (1 - keep))
    expected = (mean(logit + 1e-3) - mean(logit - 1e-3)) / 2e-3
    found = layer.logit.grad
    standard_error = found.std().item() / math.sqrt(n)
    assert found.mean().item() == pytest.approx(expected, abs=4 * standard_error)


@pytest.mark.parametrize("logit", [6.0, -6.0])
def test_a_rate_out_of_bounds_can_come_back_but_goes_no_further(logit):
    layer = _gates(3)
    bound = 0.95 if logit > 0 else 0.05
    with torch.no_grad():
        layer.logit.fill_(logit)
    torch.testing.assert_close(layer.keep_probability, torch.full((3,), bound))
    outward = -math.copysign(1.0, logit) * layer.keep_probability.sum()
    outward.backward()
    assert layer.logit.grad.equal(torch.zeros(3))
    optimizer = torch.optim.SGD(layer.parameters(), lr=2.0)
    for _ in range(300):
        optimizer.zero_grad()
        # The divergence is least at a half.
        model_divergence(layer).backward()
        optimizer.step()
    torch.testing.assert_close(layer.keep_probability, torch.full((3,), 0.5))


def test_a_draw_of_gates_is_a_fixed_mask_that_is_not_rescaled():
    net = name_sites(nn.Sequential(_gates(64, 0.7), nn.Identity(), _gates(64, 0.7)))
    assert is_stochastic(net)
    x = torch.rand(2, 64, 3, 4, 5) + 0.5
    torch.testing.assert_close(realise(net, None)(x), 0.49 * x)
    masks = []
    for seed in range(200):
        network = realise(net, seed)
        first, second = (network[n](x) / x for n in (0, 2))
        assert not first.equal(second)
        for ratio in (first, second):
            assert ratio.equal(ratio[:1, :, :1, :1, :1].expand_as(ratio))
            masks.append(ratio[0, :, 0, 0, 0])
        # Another tile of the same volume: the same channels are off.
        assert network(x[:1, :, :2] * 3).equal(3 * (network(x)[:1, :, :2]))
    mask = torch.stack(masks)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    standard_error = math.sqrt(0.21 / mask.numel())
    assert mask.mean().item() == pytest.approx(0.7, abs=4 * standard_error)


def test_a_draw_reads_the_rates_anew():
    layer = nn.Sequential(_gates(8, 0.5))
    draws, x = Draws(layer), torch.ones(1, 8, 1, 1, 1)
    draws.set(None)
    with torch.no_grad():
        layer[0].logit.fill_(math.log(3))
    torch.testing.assert_close(draws.set(None).network(x), 0.75 * x)


@pytest.mark.parametrize("training", [True, False])
def test_gates_have_names_and_can_be_replayed(training):
    pyro.clear_param_store()
    net = name_sites(nn.Sequential(_gates(8, 0.5), _gates(8, 0.5))).train(training)
    x = torch.ones(2, 8, 1, 1, 1)
    trace = poutine.trace(net).get_trace(x)
    assert list(trace.stochastic_nodes) == ["0.gate", "1.gate"]
    shape = (2, 8) if training else (8,)
    assert trace.nodes["0.gate"]["value"].shape == shape
    assert poutine.replay(net, trace=trace)(x).equal(trace.nodes["_RETURN"]["value"])
    assert trace.log_prob_sum().isfinite()
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        ("spatial", 1.0),
        ("spatial", -0.1),
        ("spatial", "0.1"),
        ("concrete", 0.0),
        ("concrete", 0.04),
        ("concrete", 0.96),
        ("concrete", float("nan")),
        ("concrete", None),
    ],
)
def test_a_rate_out_of_its_range_is_refused(kind, rate):
    with pytest.raises(InputError, match="dropout_rate must lie in"):
        DROPOUTS[kind](4, rate)


@pytest.mark.parametrize(
    ("name", "value"),
    [("keep_probability", 1.0), ("temperature", 0.0), ("prior", 1.0)],
)
def test_gates_refuse_what_is_no_distribution(name, value):
    with pytest.raises(InputError, match=name):
        ConcreteDropout3d(4, **{name: value})


def test_an_unknown_dropout_names_the_near_miss():
    with pytest.raises(InputError, match="dropout_type 'concret': did you mean"):
        models.build("vnet", dropout_type="concret")


def test_learned_rates_move_apart_by_what_the_data_say():
    model = models.build(
        "meshnet",
        base_filters=4,
        dilations=[1],
        dropout_type="concrete",
        dropout_rate=0.5,
    )
    image, label = small_batch()
    elbo = Elbo(model, LOSSES["cross_entropy"](), n_voxels=label.numel())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(150):
            optimizer.zero_grad()
            loss = elbo(image, label)
            loss.total.backward()
            optimizer.step()
    torch.testing.assert_close(loss.total, loss.data + loss.kl / label.numel())
    # What carries the answer is kept; the bounds hold.
    (gates,) = (m for m in model.modules() if isinstance(m, ConcreteDropout3d))
    assert gates.keep_probability.max() > 0.8
    assert gates.keep_probability.min() >= 0.05
    assert gates.keep_probability.max() <= 0.95
