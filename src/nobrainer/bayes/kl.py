"""KL(q‖p) of a model: a function of its parameters alone, valid before any forward."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from nobrainer.bayes.layers import BayesianLayer


def divergence(q: Distribution, p: Distribution) -> Tensor:
    """KL(q‖p) summed over all weights, in nats.

    Exact where `torch.distributions` has a closed form (Normal and Laplace
    priors); else one Monte-Carlo sample per weight, unbiased and differentiable
    through the reparameterised sample (torch's global generator).
    """
    try:
        return kl_divergence(q, p).sum()
    except NotImplementedError:
        w = q.rsample()
        return (q.log_prob(w) - p.log_prob(w)).sum()


def model_divergence(model: nn.Module) -> Tensor:
    """KL(q‖p) summed over the Bayesian layers of `model`, in nats; 0 without any."""
    terms = [
        divergence(posterior.distribution(), layer.prior())
        for layer in model.modules()
        if isinstance(layer, BayesianLayer)
        for posterior in layer.posteriors().values()
    ]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def n_stochastic_weights(model: nn.Module) -> int:
    """How many weights of `model` have a distribution."""
    return sum(
        posterior.mean.numel()
        for layer in model.modules()
        if isinstance(layer, BayesianLayer)
        for posterior in layer.posteriors().values()
    )
