"""What layers, draws and the training loss ask of every posterior q(w).

A family of posteriors is one class in one file, with its parts in this order:

1. parameters: `__init__`, `mean`, `scale` and `assign`;
2. q(w) as a distribution of Pyro: `distribution`;
3. one draw from a seed: `draw`;
4. KL(q‖p): `divergence`, where the family knows a closed form that PyTorch does not;
5. gradient: `hold`, where a draw and its divergence are cheaper together.

The first three are a family's own; the last two have a general form here. A class that
is registered in `POSTERIORS` can be named in every Bayesian layer.
"""

from collections.abc import Callable

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from nobrainer.registry import Registry


class Posterior(nn.Module):
    """A distribution over the weights of one tensor, independent of all other tensors.

    mean: expected value of every weight, of the weight's shape.
    scale: standard deviation of every weight, of the weight's shape.
    is_random: whether two draws can differ.
    """

    mean: Tensor
    scale: Tensor
    is_random: bool = True

    def __init__(self) -> None:
        super().__init__()
        self._held: TorchDistribution | None = None

    def assign(self, mean: Tensor, scale: Tensor) -> None:
        """Set the means and the standard deviations, both of the weight's shape."""
        raise NotImplementedError

    def distribution(self) -> TorchDistribution:
        """q(w), made of the parameters, with the weight's shape as its batch shape."""
        raise NotImplementedError

    def draw(self, generator: torch.Generator | None) -> Tensor:
        """One weight tensor, without a gradient.

        Args:
            generator: source of the noise, on the CPU, so that a seed gives the same
                weights on every device; None asks for the mean.
        """
        raise NotImplementedError

    def divergence(self, prior: Distribution) -> Tensor:
        """KL(q‖prior) summed over the weights, in nats.

        It is exact where `torch.distributions` knows a closed form. Otherwise it is
        estimated by one Monte-Carlo sample per weight from torch's global generator,
        log q(w) - log p(w), which has no bias and a gradient through the sample.

        Args:
            prior: p(w) of a single weight.
        """
        q = self.current()
        try:
            return kl_divergence(q, prior).sum()
        except NotImplementedError:
            w = q.rsample()
            return (q.log_prob(w) - prior.log_prob(w)).sum()

    def hold(self, prior: Distribution, *, draw: bool) -> None:
        """Make q(w) once, and keep it until `release`.

        Args:
            prior: p(w) of a single weight, from which the divergence will be taken.
            draw: whether one draw will serve the whole batch. A family may then make
                it here, together with its divergence.
        """
        self._held = self.distribution()

    def release(self) -> None:
        """Forget the q(w) of `hold`, so that changed parameters count again."""
        self._held = None

    def current(self) -> TorchDistribution:
        """The q(w) that `hold` made, or a new one."""
        return self.distribution() if self._held is None else self._held


POSTERIORS: Registry[Callable[[Tensor, float], Posterior]] = Registry("posterior")
"""Every entry takes the initial means, a tensor of the weight's shape, and the initial
standard deviation of all weights."""
