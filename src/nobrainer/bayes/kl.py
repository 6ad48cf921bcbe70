"""KL(q‖p) of a model: a function of its parameters alone, known before any forward."""

import torch
from torch import Tensor, nn

from nobrainer.bayes.layers import StochasticLayer


def model_divergence(model: nn.Module) -> Tensor:
    """KL(q‖p) summed over all weights and gates of a model, in nats.

    A model without random weights or gates has a divergence of 0.
    """
    terms = [term for layer in _stochastic(model) for term in layer.divergences()]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def n_stochastic_weights(model: nn.Module) -> int:
    """Number of weights and gates that `model_divergence` sums over."""
    return sum(layer.n_weights for layer in _stochastic(model))


def _stochastic(model: nn.Module) -> list[StochasticLayer]:
    return [layer for layer in model.modules() if isinstance(layer, StochasticLayer)]
