"""Priors p(w), against their definitions."""

import math

import numpy as np
import pytest
import torch

from bayesian_cases import PRIOR_ARGS, log_prior
from nobrainer.bayes.layers import (
    BayesianLinear,
)
from nobrainer.bayes.priors import PRIORS
from nobrainer.errors import InputError


def test_every_prior_is_tested():
    assert {name for name, _ in PRIOR_ARGS} == set(PRIORS)


@pytest.mark.parametrize(("name", "args"), PRIOR_ARGS)
def test_log_density_is_the_one_of_the_definition(name, args):
    w = np.array([-2.0, -0.5, -0.01, 0.0, 0.02, 0.7, 3.0])
    found = PRIORS[name](**args).log_prob(torch.from_numpy(w).float())
    np.testing.assert_allclose(found, log_prior(name, args, w), rtol=1e-5, atol=1e-5)


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
