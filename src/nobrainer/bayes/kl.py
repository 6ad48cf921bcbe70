"""KL(q‖p) of a model: a function of its parameters alone, valid before any forward."""

import torch
from torch import Tensor, nn

from nobrainer.bayes.layers import StochasticLayer


def model_divergence(model: nn.Module) -> Tensor:
    """KL(q‖p) summed over all weights and gates of a model, in nats; 0 without any."""
    terms = [term for layer in _stochastic(model) for term in layer.divergences()]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def n_stochastic_weights(model: nn.Module) -> int:
    """Number of weights and gates over which `model_divergence` is the sum."""
    return sum(layer.n_weights for layer in _stochastic(model))


def _stochastic(model: nn.Module) -> list[StochasticLayer]:
    return [layer for layer in model.modules() if isinstance(layer, StochasticLayer)]
