"""Bayesian layers: what torch does, and how each estimator draws."""

import inspect
import math
from contextlib import nullcontext

import pyro
import pyro.poutine as poutine
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bayesian_cases import small_conv, small_net
from nobrainer import models
from nobrainer.bayes.draws import realise
from nobrainer.bayes.kl import model_divergence
from nobrainer.bayes.layers import (
    ESTIMATORS,
    BayesianConv3d,
    BayesianLinear,
    one_draw,
)
from nobrainer.errors import InputError


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        ({"prior_type": "laplac"}, "laplace"),
        ({"prior_args": {"scal": 1.0}}, "scale"),
        ({"estimator": "flip_out"}, "flipout"),
        ({"posterior": "weight_normalized"}, "weight_normalised"),
    ],
)
def test_a_layer_names_the_near_miss(args, hint):
    with pytest.raises(InputError, match=f"did you mean {hint!r}"):
        BayesianLinear(2, 2, **args)


def test_the_names_of_the_parameters_are_those_of_saved_models():
    model = models.build("bayesian_meshnet", base_filters=2, dilations=[1])
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert list(model.state_dict()) == [
        "layers.0.weight_posterior.mean",
        "layers.0.weight_posterior.rho",
        *(f"layers.1.{name}" for name in norm),
        "head.weight_posterior.mean",
        "head.weight_posterior.rho",
        "head.bias_posterior.mean",
        "head.bias_posterior.rho",
    ]


@pytest.mark.parametrize(
    ("plain", "bayesian"), [(nn.Conv3d, BayesianConv3d), (nn.Linear, BayesianLinear)]
)
def test_the_signature_starts_with_the_one_of_torch(plain, bayesian):
    ours = list(inspect.signature(bayesian).parameters.values())
    for mine, theirs in zip(
        ours, inspect.signature(plain).parameters.values(), strict=False
    ):
        assert (mine.name, mine.default) == (theirs.name, theirs.default)
    n = len(inspect.signature(plain).parameters)
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[n:])


CONVOLUTIONS = [
    {},
    {"padding": 1},
    {"padding": "same"},
    {"padding": "valid"},
    {"padding": "same", "dilation": 2},
    {"stride": 2, "padding": (1, 0, 2)},
    {"dilation": (1, 2, 1), "padding": 2},
    {"groups": 2, "bias": False},
    {"groups": 2, "stride": (2, 1, 2), "padding": 1, "dilation": 2},
]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("args", CONVOLUTIONS, ids=str)
def test_convolution_does_what_torch_does(args, estimator):
    plain = nn.Conv3d(4, 6, 3, **args)
    layer = BayesianConv3d(4, 6, 3, **args, posterior_scale=1e-6, estimator=estimator)
    for name, q in layer.posteriors().items():
        q.load_state_dict({"mean": getattr(plain, name), "rho": q.rho})
    x = torch.rand(3, 4, 8, 7, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-4, atol=1e-4)
    assert list(layer.posteriors()) == ["weight", "bias"][: 1 + args.get("bias", True)]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("shape", [(5, 4), (5, 3, 4), (5, 2, 3, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_does_what_torch_does(shape, bias, estimator):
    plain = nn.Linear(4, 6, bias)
    layer = BayesianLinear(4, 6, bias, posterior_scale=1e-6, estimator=estimator)
    for name, q in layer.posteriors().items():
        q.load_state_dict({"mean": getattr(plain, name), "rho": q.rho})
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-4, atol=1e-4)


def test_initial_scale_is_a_fraction_of_the_initial_weights():
    layer = BayesianConv3d(20, 30, 3, posterior_scale=0.1)
    q = layer.posteriors()["weight"]
    assert (q.scale.mean() / q.mean.std()).item() == pytest.approx(0.1, rel=0.03)


def test_padding_other_than_zeros_is_refused():
    with pytest.raises(InputError, match="padding_mode"):
        BayesianConv3d(1, 1, 3, padding_mode="reflect")


MOMENT_LAYERS = {
    "conv": lambda e: small_conv(padding=1, estimator=e),
    "conv_groups": lambda e: BayesianConv3d(
        2, 4, 3, stride=2, groups=2, bias=False, posterior_scale=1.0, estimator=e
    ),
    "linear": lambda e: BayesianLinear(4, 5, posterior_scale=1.0, estimator=e),
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kind", MOMENT_LAYERS)
@pytest.mark.parametrize("context", [nullcontext, one_draw])
def test_outputs_have_the_moments_of_the_closed_form(kind, estimator, context):
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        layer = MOMENT_LAYERS[kind](estimator)
        for q in layer.posteriors().values():
            # Scales that differ from weight to weight.
            q.rho += torch.randn_like(q.rho)
        x = torch.randn((1, 4) if kind == "linear" else (1, 2, 4, 4, 4))
        both = x.expand(2, *x.shape[1:])
        n = 2000
        drawn = []
        for _ in range(n):
            with context(layer):
                drawn.append(layer(both))
        y = torch.stack(drawn)
        means = {k: q.mean for k, q in layer.posteriors().items()}
        variances = {k: q.scale.square() for k, q in layer.posteriors().items()}
        mean = layer.operate(x, means["weight"], means.get("bias"))
        variance = layer.operate(x.square(), variances["weight"], variances.get("bias"))
    standard = (y.mean(0) - mean) / (variance / n).sqrt()
    assert standard.abs().max() < 5
    ratio = y.var(0) / variance
    # Six standard errors of the variance of a Gaussian.
    assert (ratio - 1).abs().max() < 6 * math.sqrt(2 / n)
    centred = (y - mean) / variance.sqrt()
    correlation = (centred[:, 0] * centred[:, 1]).mean(0)
    bias_share = variances["bias"] if "bias" in variances else torch.zeros(1)
    if estimator == "shared":
        assert y[:, 0].equal(y[:, 1])
    elif estimator == "flipout":
        # Flipout decorrelates what the weights do; the bias is one draw for all.
        by_bias = bias_share.reshape(-1, *(1,) * (x.ndim - 2)) / variance[0]
        assert (correlation - by_bias).abs().max() < 6 / math.sqrt(n)
    else:
        assert correlation.abs().max() < 6 / math.sqrt(n)


def test_flipout_flips_each_output_channel_by_itself():
    layer = BayesianLinear(1, 64, False, posterior_scale=1.0, estimator="flipout")
    y = layer(torch.ones(2, 1)) - layer.posteriors()["weight"].mean.flatten()
    torch.testing.assert_close(y[0].abs(), y[1].abs(), rtol=1e-3, atol=1e-5)
    assert {-1.0, 1.0} == set((y[0] * y[1]).sign().tolist())


@pytest.mark.parametrize("args", [{}, {"groups": 2, "padding": "same"}], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_per_example_equals_a_loop_over_the_traced_weights(args, bias):
    layer = BayesianConv3d(
        4, 6, 3, **args, bias=bias, posterior_scale=1.0, estimator="per_example"
    )
    x = torch.rand(3, 4, 6, 5, 7)
    trace = poutine.trace(layer).get_trace(x)
    weight = trace.nodes["weight"]["value"]
    biases = trace.nodes["bias"]["value"] if bias else [None] * 3
    assert weight.shape == (3, 6, 4 // args.get("groups", 1), 3, 3, 3)
    assert not weight[0].equal(weight[1])
    loop = [F.conv3d(x[n : n + 1], weight[n], biases[n], **args) for n in range(3)]
    torch.testing.assert_close(
        trace.nodes["_RETURN"]["value"], torch.cat(loop), rtol=1e-4, atol=1e-5
    )


def test_per_example_linear_equals_a_loop_over_the_traced_weights():
    layer = BayesianLinear(4, 6, posterior_scale=1.0, estimator="per_example")
    x = torch.rand(3, 2, 4)
    trace = poutine.trace(layer).get_trace(x)
    pairs = zip(*(trace.nodes[k]["value"] for k in ("weight", "bias")), strict=True)
    loop = [F.linear(row, w, b) for row, (w, b) in zip(x, pairs, strict=True)]
    torch.testing.assert_close(trace.nodes["_RETURN"]["value"], torch.stack(loop))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_through_the_sample_are_unbiased(estimator):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = BayesianLinear(16, 64, False, posterior_scale=1.0, estimator=estimator)
        x = torch.randn(1, 16)
        q = layer.posteriors()["weight"]
        means, scales = [], []
        for _ in range(200):
            layer.zero_grad()
            layer(x).square().sum().backward()
            means.append((q.mean.grad * q.mean.detach()).sum())
            scales.append(q.rho.grad.sum())
    # E[y²] = (μ·x)² + σ²·x², for each of the outputs.
    with torch.no_grad():
        by_mean = 2 * F.linear(x, q.mean).square().sum()
        by_rho = (2 * q.scale * x.square() * torch.sigmoid(q.rho)).sum()
    for found, expected in ((means, by_mean), (scales, by_rho)):
        values = torch.stack(found)
        standard_error = values.std() / math.sqrt(len(values))
        assert (values.mean() - expected).abs() < 4 * standard_error
        assert standard_error < 0.15 * expected


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_reach_every_parameter_of_a_layer(estimator):
    layer = small_conv(estimator=estimator)
    layer(torch.rand(2, 2, 4, 4, 4)).square().sum().backward()
    assert len(list(layer.parameters())) == 4
    assert all((p.grad != 0).any() for p in layer.parameters())


def test_outside_training_one_weight_serves_the_whole_batch():
    x = torch.rand(1, 2, 5, 5, 5).expand(3, 2, 5, 5, 5)
    for estimator in ESTIMATORS:
        y = small_conv(estimator=estimator).eval()(x)
        torch.testing.assert_close(y[0], y[1])
        trace = poutine.trace(small_conv(estimator=estimator).eval()).get_trace(x)
        assert set(trace.stochastic_nodes) == {"weight", "bias"}


def test_nothing_enters_the_global_parameter_store():
    pyro.clear_param_store()
    net = small_net()
    poutine.trace(net).get_trace(torch.rand(1, 1, 4, 4, 4))
    model_divergence(net).backward()
    realise(net, 0)
    assert len(pyro.get_param_store()) == 0
