"""Weight normalisation: each filter has a length and a direction, with noise or not.

Parameters. A filter's weights are g · v / ‖v‖, with the length g, one number a filter,
and the direction v, of the weight's shape. A bias, one number a filter, is its length
alone. `point` takes these as the weights. `weight_normalised` takes them as the means μ
of independent Gaussians, whose standard deviations are σ = |a|:

    point               q(w) = δ(w - g v / ‖v‖)
    weight_normalised   q(w) = Πᵢ N(wᵢ; (g v / ‖v‖)ᵢ, aᵢ²).

Draw. The point itself; or μ + σ ε with noise ε ~ N(0, 1).

KL. Of a point it is infinite; what is minimised is its finite part -ln p(w), and
training finds the maximum a posteriori. Of the Gaussians it is that of the mean field.

Gradient. By autograd: with h the loss's derivative by μ, that by g is h · v / ‖v‖, and
that by v is the part of g h / ‖v‖ at right angles to v.

Source: Salimans, Kingma 2016, Weight normalization, equations 2 and 3; McClure et al.
2019, doi 10.3389/fninf.2019.00067, for the Gaussians.
"""

import torch
from pyro.distributions import Delta
from torch import Tensor, nn
from torch.distributions import Distribution

from nobrainer.bayes.posteriors.mean_field import IndependentNormal
from nobrainer.bayes.posteriors.posterior import POSTERIORS, Posterior

TINY = 1e-12
"""Replaces a length or a standard deviation of 0, by which nothing can be divided."""


class WeightNormalised(Posterior):
    """Weights g · v / ‖v‖ without uncertainty.

    Args:
        mean: initial weights (filters, ...).
    """

    is_random = False
    g: nn.Parameter
    v: nn.Parameter | None

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.g, self.v = _split(mean)

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """The weights, of the weight's shape."""
        return _join(self.g, self.v)

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        """Standard deviations, all 0, of the weight's shape."""
        return torch.zeros_like(self.mean)

    @torch.no_grad()
    def assign(self, mean: Tensor, scale: Tensor) -> None:
        """Make `mean` (filters, ...) the weights; `scale` is not used by a point."""
        _copy(self.g, self.v, mean)

    def distribution(self) -> Delta:
        """q(w), with the weight's shape as its batch shape."""
        return Delta(self.mean, validate_args=False)

    @torch.no_grad()
    def draw(self, generator: torch.Generator | None) -> Tensor:
        """The weights, whatever the generator."""
        return self.mean.detach()

    def divergence(self, prior: Distribution) -> Tensor:
        """-ln p(w) summed over the weights, in nats: the finite part of the KL."""
        return -prior.log_prob(self.current().mean).sum()


POSTERIORS.register("point")(lambda mean, scale: WeightNormalised(mean))


@POSTERIORS.register("weight_normalised")
class WeightNormalisedNormal(IndependentNormal):
    """Independent Gaussians N(g · v / ‖v‖, a²).

    Args:
        mean: initial means (filters, ...).
        scale: initial standard deviation of every weight, > 0.
    """

    g: nn.Parameter
    v: nn.Parameter | None
    a: nn.Parameter

    def __init__(self, mean: Tensor, scale: float) -> None:
        super().__init__()
        self.g, self.v = _split(mean)
        self.a = nn.Parameter(torch.full_like(mean, scale))

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """The means, of the weight's shape."""
        return _join(self.g, self.v)

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        """Standard deviations, positive, of the weight's shape."""
        return self.a.abs().clamp_min(TINY)

    @torch.no_grad()
    def assign(self, mean: Tensor, scale: Tensor) -> None:
        """Set the means, and the standard deviations > 0, of the weight's shape."""
        _copy(self.g, self.v, mean)
        self.a.copy_(scale)


def _split(weight: Tensor) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Lengths g (filters, 1, ...) and directions v of a weight; a bias has no v."""
    weight = weight.detach().clone()
    if weight.ndim <= 1:
        return nn.Parameter(weight), None
    return nn.Parameter(_length(weight)), nn.Parameter(weight)


def _join(g: Tensor, v: Tensor | None) -> Tensor:
    """The weight (filters, ...) that has these lengths and directions."""
    return g if v is None else g * v / _length(v)


def _copy(g: Tensor, v: Tensor | None, weight: Tensor) -> None:
    """Overwrite lengths and directions with those of a weight."""
    g.copy_(weight if v is None else _length(weight))
    if v is not None:
        v.copy_(weight)


def _length(weight: Tensor) -> Tensor:
    """‖w‖ of each filter, (filters, 1, ...), so that it divides the weight."""
    axes = tuple(range(1, weight.ndim))
    return torch.linalg.vector_norm(weight, dim=axes, keepdim=True).clamp_min(TINY)
