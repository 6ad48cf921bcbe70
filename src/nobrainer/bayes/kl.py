"""KL(q‖p) of a model: a function of its parameters alone, valid before any forward."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from nobrainer.bayes.layers import StochasticLayer
from nobrainer.bayes.posteriors import WeightNormal
from nobrainer.bayes.priors import is_constant_normal


def divergence(q: Distribution, p: Distribution) -> Tensor:
    """KL(q‖p) summed over all weights, in nats.

    Exact where `torch.distributions` has a closed form (gates; Normal and Laplace
    priors). Where q is a point w it is -log p(w), the KL up to a constant that is
    infinite: minimising it gives the maximum a posteriori. Else one Monte-Carlo
    sample per weight, unbiased and differentiable through the reparameterised sample
    (torch's global generator).
    """
    if isinstance(q, WeightNormal) and is_constant_normal(p):
        return q.divergence(p)
    try:
        return kl_divergence(q, p).sum()
    except NotImplementedError:
        w = q.rsample()
        return (q.log_prob(w) - p.log_prob(w)).sum()


def model_divergence(model: nn.Module) -> Tensor:
    """`divergence` summed over the stochastic layers of `model`; 0 without any."""
    terms = [divergence(q, p) for q, p in _factors(model)]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def n_stochastic_weights(model: nn.Module) -> int:
    """Of how many weights and gates `model_divergence` is the sum."""
    return sum(q.batch_shape.numel() for q, _ in _factors(model))


def _factors(model: nn.Module) -> Iterator[tuple[Distribution, Distribution]]:
    for layer in model.modules():
        if isinstance(layer, StochasticLayer):
            yield from layer.factors()
