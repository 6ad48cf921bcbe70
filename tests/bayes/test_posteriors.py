"""Posteriors q(w): scale, divergence, gradient and samples, against closed forms."""

import math

import numpy as np
import pytest
import torch

from bayesian_cases import PRIOR_ARGS, log_prior, normal_log_prob, small_conv
from nobrainer.bayes.kl import model_divergence
from nobrainer.bayes.posteriors import (
    MeanFieldNormal,
    WeightNormal,
    WeightNormalisedNormal,
)
from nobrainer.bayes.priors import PRIORS

POSTERIORS = [MeanFieldNormal, WeightNormalisedNormal]


SCALES = [(0.0, 0.05), (0.4, 0.3), (-1.5, 1.2)]


CLOSED = [p for p in PRIOR_ARGS if p[0] != "spike_and_slab"]


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


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize(("name", "args"), CLOSED)
@pytest.mark.parametrize(("mean", "scale"), SCALES)
def test_closed_form_kl_equals_monte_carlo(posterior, name, args, mean, scale):
    q = posterior(torch.tensor(mean), scale)
    kl = q.divergence(PRIORS[name](**args)).item()
    w = mean + scale * np.random.default_rng(0).standard_normal(1_000_000)
    terms = normal_log_prob(w, mean, scale) - log_prior(name, args, w)
    standard_error = terms.std() / 1000
    assert kl == pytest.approx(terms.mean(), abs=4 * standard_error + 1e-5)
    assert standard_error < 0.002 * max(kl, 1)


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize(("name", "args"), PRIOR_ARGS)
@pytest.mark.parametrize(("mean", "scale"), SCALES)
def test_kl_equals_quadrature(posterior, name, args, mean, scale):
    w = np.linspace(mean - 10 * scale, mean + 10 * scale, 400_001)
    log_q = normal_log_prob(w, mean, scale)
    integrand = np.exp(log_q) * (log_q - log_prior(name, args, w))
    exact = np.trapezoid(integrand, w)
    # Many weights of one posterior: their mean KL estimates the integral.
    n = 200_000
    q = posterior(torch.full((n,), mean), scale)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        kl = q.divergence(PRIORS[name](**args)).item() / n
    spread = np.trapezoid(np.exp(log_q) * (log_q - log_prior(name, args, w)) ** 2, w)
    standard_error = math.sqrt(max(spread - exact**2, 0) / n)
    assert kl == pytest.approx(exact, abs=4 * standard_error + 1e-4)


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_kl_is_zero_where_posterior_is_the_normal_prior(scale):
    q = MeanFieldNormal(torch.zeros(100), scale)
    kl = q.divergence(PRIORS["standard_normal"](scale=scale))
    assert kl.item() == pytest.approx(0, abs=1e-4)
    assert q.divergence(PRIORS["laplace"](scale=scale)).item() > 1


def test_gradient_of_kl_is_the_closed_form():
    layer = small_conv(prior_args={"scale": 0.4})
    model_divergence(layer).backward()
    q = layer.posteriors()["weight"]
    torch.testing.assert_close(q.mean.grad, q.mean.detach() / 0.16)
    with torch.no_grad():
        by_scale = q.scale / 0.16 - 1 / q.scale
        torch.testing.assert_close(q.rho.grad, by_scale * torch.sigmoid(q.rho))


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
        log_q = normal_log_prob(w, mean, scale)
        return np.trapezoid(np.exp(log_q) * (log_q - log_prior(name, args, w)), w)

    by_mean = (exact(mean + 1e-3, scale) - exact(mean - 1e-3, scale)) / 2e-3
    by_scale = (exact(mean, scale + 1e-3) - exact(mean, scale - 1e-3)) / 2e-3
    by_rho = by_scale * (1 - math.exp(-scale))
    for found, expected in ((q.mean.grad, by_mean), (q.rho.grad, by_rho)):
        standard_error = found.std().item() / math.sqrt(n)
        assert found.mean().item() == pytest.approx(expected, abs=4 * standard_error)


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
