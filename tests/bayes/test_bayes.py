"""Priors, posteriors, KL, Bayesian layers, draws and the ELBO, against closed forms."""

import copy
import inspect
import math
from contextlib import nullcontext

import numpy as np
import pyro
import pyro.poutine as poutine
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nobrainer import models
from nobrainer.bayes.draws import ChannelMask, Draws, is_stochastic, mix_seed, realise
from nobrainer.bayes.dropout import DROPOUTS, ConcreteDropout3d
from nobrainer.bayes.kl import model_divergence, n_stochastic_weights
from nobrainer.bayes.layers import (
    ESTIMATORS,
    BayesianConv3d,
    BayesianLayer,
    BayesianLinear,
    name_sites,
    one_draw,
)
from nobrainer.bayes.posteriors import (
    MeanFieldNormal,
    WeightNormal,
    WeightNormalisedNormal,
)
from nobrainer.bayes.priors import PRIORS
from nobrainer.bayes.warm_start import warm_start
from nobrainer.errors import InputError
from nobrainer.losses import LOSSES
from nobrainer.training.objective import Elbo, Supervised

PRIOR_ARGS = [
    ("standard_normal", {}),
    ("standard_normal", {"scale": 0.3}),
    ("laplace", {}),
    ("laplace", {"scale": 0.3}),
    ("spike_and_slab", {}),
    (
        "spike_and_slab",
        {"spike_scale": 0.1, "slab_scale": 2.0, "slab_probability": 0.2},
    ),
]
POSTERIORS = [MeanFieldNormal, WeightNormalisedNormal]
SCALES = [(0.0, 0.05), (0.4, 0.3), (-1.5, 1.2)]
CLOSED = [p for p in PRIOR_ARGS if p[0] != "spike_and_slab"]


def _normal_log_prob(w, mean, scale):
    z = (w - mean) / scale
    return -0.5 * z**2 - math.log(scale) - 0.5 * math.log(2 * math.pi)


def _log_prior(name, args, w):
    """log p(w) of each prior, written from its definition."""
    if name == "standard_normal":
        return _normal_log_prob(w, 0, args.get("scale", 1.0))
    if name == "laplace":
        scale = args.get("scale", 1.0)
        return -np.abs(w) / scale - math.log(2 * scale)
    slab = args.get("slab_probability", 0.5)
    return np.logaddexp(
        math.log(slab) + _normal_log_prob(w, 0, args.get("slab_scale", 1.0)),
        math.log(1 - slab) + _normal_log_prob(w, 0, args.get("spike_scale", 0.01)),
    )


def _conv(**args) -> BayesianConv3d:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BayesianConv3d(2, 3, 3, posterior_scale=1.0, **args)


def test_every_prior_is_tested():
    assert {name for name, _ in PRIOR_ARGS} == set(PRIORS)


@pytest.mark.parametrize(("name", "args"), PRIOR_ARGS)
def test_log_density_is_the_one_of_the_definition(name, args):
    w = np.array([-2.0, -0.5, -0.01, 0.0, 0.02, 0.7, 3.0])
    found = PRIORS[name](**args).log_prob(torch.from_numpy(w).float())
    np.testing.assert_allclose(found, _log_prior(name, args, w), rtol=1e-5, atol=1e-5)


def test_laplace_at_points_worked_out_by_hand():
    prior = PRIORS["laplace"](scale=0.5)
    # exp(-|w| / 0.5) / 1: the density is 1 at 0, e⁻² at ±1, e⁻⁴ at ±2.
    found = prior.log_prob(torch.tensor([0.0, 1.0, -1.0, -2.0])).tolist()
    assert found == pytest.approx([0.0, -2.0, -2.0, -4.0])


def test_spike_and_slab_is_a_mixture_of_two_widths():
    prior = PRIORS["spike_and_slab"](slab_probability=0.3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        w = prior.sample((100_000,))
    # All but 0.3 % of the spike lies within 0.03; of the slab, 2.4 % does.
    inside = 0.7 * 0.9973 + 0.3 * math.erf(0.03 / math.sqrt(2))
    assert (w.abs() < 0.03).float().mean().item() == pytest.approx(inside, abs=0.006)
    # Its kurtosis is far from the 3 of any Gaussian: 3 E[s⁴] / E[s²]² = 10.
    assert ((w**4).mean() / (w**2).mean() ** 2).item() == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("standard_normal", {"scale": 0}),
        ("laplace", {"scale": -1.0}),
        ("laplace", {"scale": float("nan")}),
        ("spike_and_slab", {"spike_scale": 0.0}),
        ("spike_and_slab", {"slab_scale": -0.1}),
        ("spike_and_slab", {"slab_probability": 0.0}),
        ("spike_and_slab", {"slab_probability": 1.0}),
    ],
)
def test_a_prior_refuses_what_is_no_distribution(name, args):
    with pytest.raises(InputError, match=next(iter(args))):
        BayesianLinear(2, 2, prior_type=name, prior_args=args)


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


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize(("name", "args"), PRIOR_ARGS)
@pytest.mark.parametrize("mean", [0.0, 1e-4, -3.0, 50.0])
@pytest.mark.parametrize("scale", [1e-5, 0.1, 5.0, 30.0])
def test_kl_is_finite(posterior, name, args, mean, scale):
    q = posterior(torch.full((50,), mean), scale)
    kl = q.divergence(PRIORS[name](**args))
    kl.backward()
    assert kl.isfinite()
    assert all(p.grad.isfinite().all() for p in q.parameters())


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("scale", [1e-5, 1e-3, 0.1, 5.0, 30.0])
def test_the_posterior_starts_at_the_scale_asked_for(posterior, scale):
    q = posterior(torch.ones(3, 2), scale)
    expected = torch.full((3, 2), scale)
    torch.testing.assert_close(q.scale, expected, rtol=1e-4, atol=0.0)
    q.assign(torch.tensor([[3.0, 4.0]]).expand(3, 2), 2 * expected)
    torch.testing.assert_close(q.scale, 2 * expected, rtol=1e-4, atol=0.0)
    torch.testing.assert_close(q.mean[0], torch.tensor([3.0, 4.0]))


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


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize(("name", "args"), CLOSED)
@pytest.mark.parametrize(("mean", "scale"), SCALES)
def test_closed_form_kl_equals_monte_carlo(posterior, name, args, mean, scale):
    q = posterior(torch.tensor(mean), scale)
    kl = q.divergence(PRIORS[name](**args)).item()
    w = mean + scale * np.random.default_rng(0).standard_normal(1_000_000)
    terms = _normal_log_prob(w, mean, scale) - _log_prior(name, args, w)
    standard_error = terms.std() / 1000
    assert kl == pytest.approx(terms.mean(), abs=4 * standard_error + 1e-5)
    assert standard_error < 0.002 * max(kl, 1)


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize(("name", "args"), PRIOR_ARGS)
@pytest.mark.parametrize(("mean", "scale"), SCALES)
def test_kl_equals_quadrature(posterior, name, args, mean, scale):
    w = np.linspace(mean - 10 * scale, mean + 10 * scale, 400_001)
    log_q = _normal_log_prob(w, mean, scale)
    integrand = np.exp(log_q) * (log_q - _log_prior(name, args, w))
    exact = np.trapezoid(integrand, w)
    # Many weights of one posterior: their mean KL estimates the integral.
    n = 200_000
    q = posterior(torch.full((n,), mean), scale)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        kl = q.divergence(PRIORS[name](**args)).item() / n
    spread = np.trapezoid(np.exp(log_q) * (log_q - _log_prior(name, args, w)) ** 2, w)
    standard_error = math.sqrt(max(spread - exact**2, 0) / n)
    assert kl == pytest.approx(exact, abs=4 * standard_error + 1e-4)


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_kl_is_zero_where_posterior_is_the_normal_prior(scale):
    q = MeanFieldNormal(torch.zeros(100), scale)
    kl = q.divergence(PRIORS["standard_normal"](scale=scale))
    assert kl.item() == pytest.approx(0, abs=1e-4)
    assert q.divergence(PRIORS["laplace"](scale=scale)).item() > 1


@pytest.mark.parametrize(("name", "args"), PRIOR_ARGS)
@pytest.mark.parametrize("bias", [True, False])
def test_gradient_of_kl_reaches_every_mean_and_scale(name, args, bias):
    layer = _conv(bias=bias, prior_type=name, prior_args=args)
    model_divergence(layer).backward()
    parameters = dict(layer.named_parameters())
    assert len(parameters) == (4 if bias else 2)
    assert all((p.grad != 0).all() for p in parameters.values())


def test_gradient_of_kl_is_the_closed_form():
    layer = _conv(prior_args={"scale": 0.4})
    model_divergence(layer).backward()
    q = layer.posteriors()["weight"]
    torch.testing.assert_close(q.mean.grad, q.mean.detach() / 0.16)
    with torch.no_grad():
        by_scale = q.scale / 0.16 - 1 / q.scale
        torch.testing.assert_close(q.rho.grad, by_scale * torch.sigmoid(q.rho))


def test_each_layer_of_a_model_has_the_divergence_from_its_own_prior():
    priors = [("standard_normal", {"scale": 0.4}), ("laplace", {}), PRIOR_ARGS[0]]
    layers = [_conv(prior_type=name, prior_args=args) for name, args in priors]
    (model_divergence(nn.Sequential(*layers)) * 3).backward()
    total = 0.0
    for layer in layers:
        for q in layer.posteriors().values():
            kl = torch.distributions.kl_divergence(q.distribution(), layer.prior())
            kl = kl.sum()
            total += kl.item()
            wanted = torch.autograd.grad(kl, [*layer.parameters()], allow_unused=True)
            for parameter, gradient in zip(layer.parameters(), wanted, strict=True):
                if gradient is not None:
                    torch.testing.assert_close(parameter.grad, 3 * gradient)
    kl = model_divergence(nn.Sequential(*layers)).item()
    assert kl == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("scale", [0.03, 0.3, 0.495])
def test_the_divergence_of_a_large_layer_keeps_its_digits(scale):
    q = MeanFieldNormal(torch.linspace(-1e-3, 1e-3, 10**6), scale)
    wide = torch.distributions.Normal(q.mean.double(), q.scale.double())
    exact = torch.distributions.kl_divergence(wide, torch.distributions.Normal(0, 0.5))
    kl = q.divergence(PRIORS["standard_normal"](scale=0.5))
    # Close to the prior float32 keeps the scale itself to 7 digits, their gap to 5.
    assert kl.item() == pytest.approx(
        exact.sum().item(), rel=1e-6 if scale < 0.4 else 1e-4
    )


def test_monte_carlo_gradient_of_kl_is_unbiased():
    name, args, mean, scale = *PRIOR_ARGS[-1], 0.3, 0.4
    n = 400_000
    q = MeanFieldNormal(torch.full((n,), mean), scale)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        q.divergence(PRIORS[name](**args)).backward()

    def exact(mean, scale):
        w = np.linspace(-6, 6, 200_001)
        log_q = _normal_log_prob(w, mean, scale)
        return np.trapezoid(np.exp(log_q) * (log_q - _log_prior(name, args, w)), w)

    by_mean = (exact(mean + 1e-3, scale) - exact(mean - 1e-3, scale)) / 2e-3
    by_scale = (exact(mean, scale + 1e-3) - exact(mean, scale - 1e-3)) / 2e-3
    by_rho = by_scale * (1 - math.exp(-scale))
    for found, expected in ((q.mean.grad, by_mean), (q.rho.grad, by_rho)):
        standard_error = found.std().item() / math.sqrt(n)
        assert found.mean().item() == pytest.approx(expected, abs=4 * standard_error)


def test_the_number_of_stochastic_weights_counts_weights_and_biases():
    layers = nn.Sequential(_conv(), nn.BatchNorm3d(3), _conv(bias=False))
    assert n_stochastic_weights(layers) == 2 * (3 * 2 * 27) + 3
    assert n_stochastic_weights(nn.Linear(3, 3)) == 0
    assert model_divergence(nn.Linear(3, 3)).item() == 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("training", [True, False])
def test_forward_leaves_no_residue_and_kl_needs_no_forward(estimator, training):
    layer = _conv(estimator=estimator).train(training)
    kl = model_divergence(layer).item()
    closed = sum(
        (q.scale.square() + q.mean.square() - 1 - 2 * q.scale.log()).sum().item() / 2
        for q in layer.posteriors().values()
    )
    assert kl == pytest.approx(closed, rel=1e-5)

    def residue() -> list[tuple[str, list[str]]]:
        return [(n, sorted(vars(m))) for n, m in layer.named_modules()]

    before, state = residue(), {k: v.clone() for k, v in layer.state_dict().items()}
    layer(torch.ones(2, 2, 4, 4, 4))
    assert residue() == before
    assert list(layer.state_dict()) == list(state)
    assert all(layer.state_dict()[k].equal(v) for k, v in state.items())
    assert model_divergence(layer).item() == kl
    with torch.no_grad():
        layer(torch.ones(2, 2, 4, 4, 4))
    assert model_divergence(layer).requires_grad


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
    "conv": lambda e: _conv(padding=1, estimator=e),
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
    layer = _conv(estimator=estimator)
    layer(torch.rand(2, 2, 4, 4, 4)).square().sum().backward()
    assert len(list(layer.parameters())) == 4
    assert all((p.grad != 0).any() for p in layer.parameters())


def test_outside_training_one_weight_serves_the_whole_batch():
    x = torch.rand(1, 2, 5, 5, 5).expand(3, 2, 5, 5, 5)
    for estimator in ESTIMATORS:
        y = _conv(estimator=estimator).eval()(x)
        torch.testing.assert_close(y[0], y[1])
        trace = poutine.trace(_conv(estimator=estimator).eval()).get_trace(x)
        assert set(trace.stochastic_nodes) == {"weight", "bias"}


class _Net(nn.Module):
    """Two convolutions, one with a batch norm behind it, dropout and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            BayesianConv3d(1, 4, 3, padding=1, posterior_scale=1.0),
            nn.BatchNorm3d(4),
            nn.ReLU(),
            nn.Dropout3d(0.5),
            BayesianConv3d(4, 4, 3, padding="same", posterior_scale=1.0),
        )
        self.head = BayesianLinear(4, 2, posterior_scale=1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).movedim(1, -1)).movedim(-1, 1)


def _net() -> nn.Module:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        net = name_sites(_Net())
        norm = net.body[1]
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.copy_(torch.randn(4))
        norm.running_var.copy_(torch.rand(4) + 0.2)
        return net


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in network.state_dict().items()}


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(a[k].equal(b[k]) for k in a)


def test_a_seed_alone_decides_the_draw():
    net = _net()
    first = _weights(realise(net, 3))
    torch.manual_seed(99)
    torch.randn(10)
    assert _equal(_weights(realise(net.eval(), 3)), first)
    assert _equal(_weights(realise(net.train(), 3)), first)
    draws = Draws(net)
    for seed in (8, None, 3):
        network = draws.set(seed).network
    assert _equal(_weights(network), first)
    assert not _equal(_weights(realise(net, 4)), first)
    x = torch.rand(1, 1, 6, 6, 6)
    assert realise(net, 3)(x).equal(network(x))


def test_a_draw_leaves_the_model_and_the_random_state_alone():
    net = _net().train()
    net.body[4].requires_grad_(False)
    before = _weights(net)
    flags = [p.requires_grad for p in net.parameters()]
    x = torch.rand(1, 1, 6, 6, 6)
    state = torch.get_rng_state()
    network = realise(net, 0)
    network(x)
    assert torch.get_rng_state().equal(state)
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(7.0)
    assert _equal(_weights(net), before)
    assert [p.requires_grad for p in net.parameters()] == flags
    assert net.training and not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_a_draw_is_a_plain_network():
    network = realise(_net(), 0)
    assert not any(isinstance(m, BayesianLayer) for m in network.modules())
    assert not any(isinstance(m, nn.BatchNorm3d) for m in network.modules())
    assert not is_stochastic(network)
    trace = poutine.trace(network).get_trace(torch.rand(1, 1, 4, 4, 4))
    assert not trace.stochastic_nodes


def test_a_draw_follows_the_posterior_with_independent_noise():
    layers = name_sites(
        nn.Sequential(*(BayesianLinear(40, 50, posterior_scale=1.0) for _ in range(2)))
    )
    noises = []
    for seed in (0, 1):
        network = realise(layers, seed)
        for layer, plain in zip(layers, network, strict=True):
            q = layer.posteriors()["weight"]
            noises.append(((plain.weight - q.mean) / q.scale).detach().flatten())
    noise = torch.stack(noises)
    assert noise.mean(1).abs().max() < 4 / math.sqrt(2000)
    assert (noise.std(1) - 1).abs().max() < 4 / math.sqrt(4000)
    correlation = torch.corrcoef(noise) - torch.eye(4)
    assert correlation.abs().max() < 4 / math.sqrt(2000)


def test_a_draw_gives_what_the_conditioned_model_gives():
    net = _net().eval()
    net.body[3].p = 0.0
    plain = copy.deepcopy(net)
    # Without the norm, what the draw holds is what was drawn.
    plain.body[1] = nn.Identity()
    values = realise(plain, 5).state_dict()
    x = torch.rand(2, 1, 7, 6, 5)
    sites = poutine.trace(net).get_trace(x).stochastic_nodes
    conditioned = poutine.condition(net, {k: values[k] for k in sites})
    with torch.no_grad():
        torch.testing.assert_close(
            realise(net, 5)(x), conditioned(x), rtol=1e-5, atol=1e-5
        )


def test_the_posterior_mean_is_the_model_with_its_means():
    net = _net().eval()
    means = {
        f"{name}.{weight}": q.mean
        for name, layer in net.named_modules()
        if isinstance(layer, BayesianLayer)
        for weight, q in layer.posteriors().items()
    }
    x = torch.rand(2, 1, 7, 6, 5)
    with torch.no_grad():
        expected = poutine.condition(net, means)(x)
        torch.testing.assert_close(
            realise(net, None)(x), expected, rtol=1e-5, atol=1e-5
        )


def test_batch_norm_folds_into_a_plain_convolution():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(2, 5, 3, bias=False), nn.BatchNorm3d(5))
    net(3 * torch.randn(4, 2, 6, 6, 6) + 1)
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([-2.0, 0.0, 0.5, 1.0, 3.0]))
        net[1].bias.copy_(torch.randn(5))
    x = torch.randn(1, 2, 6, 6, 6)
    network = realise(net.eval(), None)
    torch.testing.assert_close(network(x), net(x), rtol=1e-5, atol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm3d) for m in network.modules())


@pytest.mark.parametrize(
    "args",
    [
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": 1, "padding_mode": "circular", "stride": 2},
        {"padding": "same", "dilation": 2},
        {"groups": 2, "stride": (1, 2, 3), "padding": (0, 1, 2), "bias": False},
    ],
    ids=str,
)
def test_a_plain_convolution_keeps_its_options_in_a_draw(args):
    conv = nn.Conv3d(4, 6, 3, **args)
    x = torch.rand(1, 4, 8, 9, 7)
    torch.testing.assert_close(realise(conv, 0)(x), conv(x), rtol=1e-5, atol=1e-5)


def test_dropout_is_a_fixed_mask_of_whole_channels():
    net = nn.Sequential(nn.Dropout3d(0.3))
    x = torch.rand(2, 64, 3, 4, 5) + 0.5
    assert is_stochastic(net)
    assert not is_stochastic(nn.Sequential(nn.Dropout3d(0.0)))
    assert realise(net, None)(x).equal(x)
    masks = []
    for seed in range(300):
        network = realise(net, seed)
        ratio = network(x) / x
        channels = ratio[0, :, 0, 0, 0]
        torch.testing.assert_close(
            ratio, channels[None, :, None, None, None].expand_as(ratio)
        )
        # Another tile of the same volume: the same channels are off.
        assert (network(x[:1, :, :2] * 3) == 0).equal(
            (channels == 0)[None, :, None, None, None].expand(1, 64, 2, 4, 5)
        )
        masks.append(channels)
    mask = torch.stack(masks)
    n = mask.numel()
    off = (mask == 0).float().mean().item()
    assert off == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / n))
    on = mask[mask > 0]
    torch.testing.assert_close(on, torch.full_like(on, 1 / 0.7))
    standard_error = mask.std().item() / math.sqrt(n)
    assert mask.mean().item() == pytest.approx(1.0, abs=4 * standard_error)


def test_dropout_layers_have_masks_of_their_own():
    net = nn.Sequential(nn.Dropout3d(0.5), nn.Identity(), nn.Dropout3d(0.5))
    first, second = (m for m in realise(net, 0).modules() if isinstance(m, ChannelMask))
    x = torch.ones(1, 64, 1, 1, 1)
    assert not first(x).equal(second(x))


# --- learned dropout


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
    image, label = _batch()
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


# --- warm start


@pytest.mark.parametrize("family", ["vnet", "meshnet"])
@pytest.mark.parametrize(
    "dropout",
    [
        {"dropout_rate": 0.3},
        {"dropout_rate": 0.3, "dropout_type": "concrete"},
    ],
)
def test_a_warm_start_moves_the_posterior_to_the_trained_weights(family, dropout):
    args = {"base_filters": 4, "n_classes": 3} | dropout
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trained = models.build(family, **args)
        bayesian = models.build(f"bayesian_{family}", **args)
        trained(3 * torch.randn(2, 1, 16, 16, 16) + 1)
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
            trained.head.weight[0, 0] = 0.0
    x = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    before = {k: v.clone() for k, v in trained.state_dict().items()}
    warm_start(bayesian, trained, delta=0.1)
    assert realise(bayesian, None)(x).equal(realise(trained, None)(x))
    assert _equal(trained.state_dict(), before)
    for name, layer in bayesian.named_modules():
        if isinstance(layer, BayesianLayer):
            for kind, q in layer.posteriors().items():
                scale = (0.1 * before[f"{name}.{kind}"].abs()).clamp_min(1e-6)
                torch.testing.assert_close(q.scale, scale, rtol=1e-4, atol=0.0)
    assert model_divergence(bayesian).isfinite()
    # The prior is still the one of the arguments.
    assert bayesian.head.prior().loc == 0
    assert bayesian.head.prior().scale == 1


def test_a_warm_start_is_near_to_the_trained_network():
    trained = models.build("meshnet", base_filters=4, dilations=[1, 2]).eval()
    bayesian = models.build("bayesian_meshnet", base_filters=4, dilations=[1, 2])
    x = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    distance, expected = {}, realise(trained, None)(x)
    for delta in (0.01, 0.3):
        warm_start(bayesian, trained, delta)
        off = [(realise(bayesian, s)(x) - expected).abs().mean() for s in range(8)]
        distance[delta] = sum(float(o) for o in off) / 8
    assert 0 < 10 * distance[0.01] < distance[0.3]


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        (
            ("meshnet", {"base_filters": 5}),
            r"'layers.0.weight' it has \(5, 1, 3, 3, 3\) where bayesian has "
            r"\(4, 1, 3, 3, 3\)",
        ),
        (("vnet", {"base_filters": 4}), "'layers.0.weight' it has nothing where"),
        (
            ("meshnet", {"dilations": [1, 2, 3]}),
            r"'layers.8.weight' it has \(4, 4, 3, 3, 3\) where bayesian has nothing",
        ),
        (
            ("meshnet", {"dropout_type": "concrete", "dropout_rate": 0.5}),
            r"'layers.3.logit' it has \(4,\) where bayesian has nothing",
        ),
    ],
)
def test_a_warm_start_names_the_first_place_that_does_not_match(trained, message):
    small = {"base_filters": 4, "dilations": [1, 2]}
    bayesian = models.build("bayesian_meshnet", **small)
    before = _weights(bayesian)
    name, args = trained
    other = models.build(name, **(args if name == "vnet" else small | args))
    with pytest.raises(InputError, match=message):
        warm_start(bayesian, other)
    assert _equal(bayesian.state_dict(), before)


@pytest.mark.parametrize("delta", [0, -0.1, float("nan"), "0.1"])
def test_a_warm_start_refuses_a_scale_that_is_not_positive(delta):
    model = models.build("bayesian_meshnet", base_filters=4)
    with pytest.raises(InputError, match="delta"):
        warm_start(model, models.build("meshnet", base_filters=4), delta)


def test_a_warm_start_is_of_a_bayesian_network():
    model = models.build("meshnet", base_filters=4)
    with pytest.raises(InputError, match="Bayesian layers"):
        warm_start(model, model)


def test_mixed_seeds_depend_on_every_part():
    seeds = [mix_seed(s, a, b) for s in (0, 1) for a in ("a", "b") for b in ("a", "c")]
    assert len(set(seeds)) == 8
    assert all(0 <= s < 2**63 for s in seeds)
    # Fixed for ever, so that a seed gives the same draw in every release.
    assert mix_seed(0, "layers.0", "weight") == 4428837848728619520


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 1, 8, 8, 8, generator=generator)
    return image, (image[:, 0] > 0).long()


def _tiny(**args) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.build("bayesian_meshnet", base_filters=2, dilations=[1], **args)


@pytest.mark.parametrize("kl_weight", [0.0, 1e-3, 2.0, "elbo"])
@pytest.mark.parametrize("prior_type", ["standard_normal", "laplace"])
def test_elbo_is_the_data_term_plus_weighted_kl(kl_weight, prior_type):
    model = _tiny(kl_weight=kl_weight, prior_type=prior_type).eval()
    image, label = _batch()
    elbo = Elbo(model, LOSSES["cross_entropy"](), n_voxels=5000)
    loss = elbo(image, label)
    # 2 filters of 27 weights, then 2 x 2 weights and 2 biases.
    n_weights = 2 * 27 + 4 + 2
    weight = n_weights / 5000 if kl_weight == "elbo" else kl_weight
    kl = model_divergence(model)
    data = F.cross_entropy(loss.logits, label)
    torch.testing.assert_close(loss.kl, kl)
    torch.testing.assert_close(loss.data, data)
    torch.testing.assert_close(loss.total, data + weight * kl / n_weights)
    assert elbo.kl_weight == pytest.approx(weight)


def test_exact_weight_makes_the_loss_the_elbo_per_voxel():
    model = _tiny().eval()
    image, label = _batch()
    loss = Elbo(model, LOSSES["cross_entropy"](), n_voxels=label.numel())(image, label)
    negative_elbo = F.cross_entropy(
        loss.logits, label, reduction="sum"
    ) + model_divergence(model)
    torch.testing.assert_close(loss.total * label.numel(), negative_elbo)


def test_supervised_has_no_divergence():
    model = models.build("meshnet", base_filters=2, dilations=[1])
    image, label = _batch()
    loss = Supervised(model, LOSSES["dice_ce"]())(image, label)
    assert loss.kl.item() == 0
    assert loss.total.equal(loss.data)
    torch.testing.assert_close(loss.data, LOSSES["dice_ce"]()(loss.logits, label))


@pytest.mark.parametrize(
    ("prior_type", "scale", "sd"),
    [
        ("standard_normal", 0.5, 0.5),
        ("standard_normal", 1.0, 1.0),
        # KL(N(0, σ²) ‖ Laplace(b)) is least at σ = b √(π/2).
        ("laplace", 0.4, 0.4 * math.sqrt(math.pi / 2)),
    ],
)
def test_a_large_kl_weight_drives_the_posterior_to_the_prior(prior_type, scale, sd):
    model = _tiny(kl_weight=1e4, prior_type=prior_type, prior_args={"scale": scale})
    elbo = Elbo(model, LOSSES["cross_entropy"](), n_voxels=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, total_iters=300)
    image, label = _batch()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(300):
            optimizer.zero_grad()
            elbo(image, label).total.backward()
            optimizer.step()
            schedule.step()
    for layer in model.modules():
        if isinstance(layer, BayesianLayer):
            for q in layer.posteriors().values():
                assert q.mean.abs().max() < 0.03
                assert (q.scale - sd).abs().max() < 0.03


def test_a_zero_kl_weight_lets_the_posterior_shrink():
    image, label = _batch()
    spread = {}
    for kl_weight in (0.0, 1.0):
        model = _tiny(kl_weight=kl_weight, posterior_scale=0.5)
        elbo = Elbo(model, LOSSES["cross_entropy"](), n_voxels=1)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for _ in range(150):
                optimizer.zero_grad()
                elbo(image, label).total.backward()
                optimizer.step()
        layers = (m for m in model.modules() if isinstance(m, BayesianLayer))
        scales = [q.scale.flatten() for m in layers for q in m.posteriors().values()]
        spread[kl_weight] = torch.cat(scales).mean().item()
    assert spread[0.0] < 0.5 * spread[1.0]


def test_nothing_enters_the_global_parameter_store():
    pyro.clear_param_store()
    net = _net()
    poutine.trace(net).get_trace(torch.rand(1, 1, 4, 4, 4))
    model_divergence(net).backward()
    realise(net, 0)
    assert len(pyro.get_param_store()) == 0


# --- samples of weights


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last_3d])
def test_a_sample_is_mean_plus_scale_times_noise_in_the_order_of_the_mean(order):
    mean = torch.randn(4, 6, 3, 3, 3).to(memory_format=order)
    scale = torch.rand(4, 6, 3, 3, 3).to(memory_format=order).requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        sample = WeightNormal(mean, scale).rsample()
        torch.manual_seed(3)
        noise = torch.randn(mean.numel())
    assert sample.stride() == mean.stride()
    axes = (0, 2, 3, 4, 1) if order is torch.channels_last_3d else (0, 1, 2, 3, 4)
    noise = noise.reshape([mean.shape[axis] for axis in axes])
    noise = noise.permute([axes.index(axis) for axis in range(5)])
    assert torch.equal(sample, torch.addcmul(mean, scale, noise))
    sample.sum().backward()
    assert torch.equal(scale.grad, noise)


@pytest.mark.parametrize("shape", [(), (1,), (5,)])
def test_samples_of_a_weight_are_independent_gaussians(shape):
    mean = torch.linspace(-1, 1, 3000).reshape(30, 10, 10, 1, 1)
    mean = mean.to(memory_format=torch.channels_last_3d)
    q = WeightNormal(mean, torch.full_like(mean, 0.5), validate_args=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = q.expand((*shape, *mean.shape)).rsample((200,))
    assert drawn.shape == (200, *shape, *mean.shape)
    noise = (drawn - mean) / 0.5
    n = noise.numel()
    assert abs(float(noise.mean())) < 5 / n**0.5
    assert float(noise.var()) == pytest.approx(1, abs=10 / n**0.5)
    assert float(noise.pow(4).mean()) == pytest.approx(3, abs=50 / n**0.5)
    rows = noise.reshape(-1, mean.numel())
    assert abs(float((rows[0] * rows[-1]).mean())) < 5 / mean.numel() ** 0.5


# --- draws made ahead, with their divergence


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("prior", ["standard_normal", "laplace"])
@pytest.mark.parametrize("posterior", ["mean_field", "weight_normalised"])
def test_one_draw_has_the_gradient_of_draw_and_divergence_apart(
    posterior, prior, order
):
    args = {"scale": 0.3}
    layer = _conv(
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
    layer, x = _conv(), torch.randn(1, 2, 4, 4, 4)
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
    layer, x = _conv(), torch.ones(1, 2, 3, 3, 3)
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
    layer, x = _conv(), torch.ones(1, 2, 3, 3, 3)
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
    layer, x = _conv(), torch.randn(1, 2, 4, 4, 4)
    with one_draw(layer):
        before = layer(x)
        with one_draw(layer):
            assert layer(x).equal(before)
        assert layer(x).equal(before)
    assert not layer(x).equal(before)


def test_a_prepared_draw_serves_its_own_shape_and_prior_alone():
    mean = torch.linspace(-1, 1, 60).reshape(3, 20)
    q = WeightNormal(mean, torch.full_like(mean, 0.5))
    priors = [PRIORS["standard_normal"](scale=scale) for scale in (1.0, 0.3)]
    q.prepare(priors[0])
    assert q.rsample().equal(q.rsample())
    several = q.rsample((2,))
    assert several.shape == (2, 3, 20)
    assert not several[0].equal(several[1])
    for prior in priors:
        kl = torch.distributions.kl_divergence(q, prior).sum()
        torch.testing.assert_close(q.divergence(prior), kl)


def test_the_loss_of_a_batch_comes_of_one_draw():
    class Twice(nn.Module):
        kl_weight = 1.0

        def __init__(self) -> None:
            super().__init__()
            self.layer = BayesianConv3d(1, 2, 1, posterior_scale=1.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) - self.layer(x)

    image, label = _batch()
    model = Twice()
    loss = Elbo(model, LOSSES["cross_entropy"](), n_voxels=512)(image, label)
    assert loss.logits.abs().max() == 0
    assert model(image).abs().max() > 0
