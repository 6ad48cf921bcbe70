"""Weights averaged over the steps of a training."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a network's weights over its training's steps.

    After n steps it is Σ d^(n-k) w_k / Σ d^(n-k), where w_k are the weights after step
    k and d is the decay; the initial weights have no part in it. Everything that the
    network keeps is averaged, including a posterior's standard deviations and the
    running figures of batch norm. Integers are kept as after the last step.

    Args:
        network: the network whose weights are averaged.
        decay: decay d, in [0, 1); 0.999 averages over about the last thousand steps.

    Source: Polyak and Juditsky 1992 (averaging); Kingma and Ba 2015, section 3 (the
    division that takes the start out).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.n_steps = 0
        self.weights = _copy(network)

    def restore(self, weights: Mapping[str, Tensor], n_steps: int) -> None:
        """Go on from an average that was kept in a checkpoint.

        Args:
            weights: the averaged weights by name.
            n_steps: number of steps that they average over.
        """
        for name, mean in self.weights.items():
            mean.copy_(weights[name])
        self.n_steps = n_steps

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Add the network's weights after a step."""
        self.n_steps += 1
        share = (1 - self.decay) / (1 - self.decay**self.n_steps)
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, share)
            else:
                self.weights[name].copy_(value)

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """Give the network the averaged weights inside, and its own ones back after."""
        own = _copy(network)
        network.load_state_dict(self.weights)
        try:
            yield
        finally:
            network.load_state_dict(own)


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: value.detach().clone() for name, value in network.state_dict().items()
    }
