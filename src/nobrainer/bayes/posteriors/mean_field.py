"""Mean field: a Gaussian for every weight, independent of all other weights.

Parameters. Means μ and ρ, one of each for every weight; the standard deviation is
σ = softplus(ρ) = ln(1 + exp ρ), which is positive for every ρ. So

    q(w) = Πᵢ N(wᵢ; μᵢ, σᵢ²).

Draw. w = μ + σ ε with noise ε ~ N(0, 1): the noise does not depend on the parameters,
so that a gradient goes through the draw.

KL. From a Gaussian prior N(m, s²) that is the same for all weights and not learned,

    KL(q‖p) = Σᵢ ln(s / σᵢ) + (σᵢ² + (μᵢ - m)²) / (2 s²) - 1/2,

and from a Laplace prior by a closed form of `torch.distributions`. From a mixture there
is none, and one sample a weight stands in for it.

Gradient. Where k is the loss's derivative by the KL, and hᵢ that by the weight wᵢ,

    ∂loss/∂μᵢ = k (μᵢ - m) / s² + hᵢ
    ∂loss/∂σᵢ = k (σᵢ / s² - 1 / σᵢ) + hᵢ εᵢ,

and from σ to ρ by the chain rule, dσ/dρ = sigmoid(ρ).

Source: Graves 2011, Practical variational inference for neural networks; Blundell et
al. 2015, Weight uncertainty in neural networks, section 3.2.
"""

from typing import Any, NamedTuple

import torch
from pyro.distributions import Normal
from torch import Tensor, distributions, nn
from torch.distributions import Distribution

from nobrainer.bayes.posteriors.posterior import POSTERIORS, Posterior
from nobrainer.bayes.priors import is_constant_normal
from nobrainer.checks import check_positive


class IndependentNormal(Posterior):
    """Independent Gaussians N(mean, scale²).

    A subclass says which parameters give the mean and the scale; the rest is here.
    """

    def distribution(self) -> "WeightNormal":
        """q(w), with the weight's shape as its batch shape."""
        # No validation: training reports weights that are not finite, with the batch.
        return WeightNormal(self.mean, self.scale, validate_args=False)

    @torch.no_grad()
    def draw(self, generator: torch.Generator | None) -> Tensor:
        """mean + scale · noise; see `Posterior.draw`."""
        if generator is None:
            return self.mean.detach()
        noise = torch.randn(self.mean.shape, generator=generator)
        return self.mean + self.scale * noise.to(self.mean)

    def divergence(self, prior: Distribution) -> Tensor:
        """KL(q‖prior) summed over the weights, in nats."""
        q = self.current()
        if isinstance(q, WeightNormal) and is_constant_normal(prior):
            return q.divergence(prior)
        return super().divergence(prior)

    def hold(self, prior: Distribution, *, draw: bool) -> None:
        """Make q(w), and with a Gaussian prior the batch's draw and its divergence.

        Args: see `Posterior.hold`.
        """
        q = self.distribution()
        if draw and is_constant_normal(prior):
            q.prepare(prior)
        self._held = q


@POSTERIORS.register("mean_field")
class MeanFieldNormal(IndependentNormal):
    """Independent Gaussians N(mean, scale²), scale = softplus(rho).

    Args:
        mean: initial means; their shape is the shape of the weight.
        scale: initial standard deviation of every weight, > 0.
    """

    mean: nn.Parameter
    rho: nn.Parameter

    def __init__(self, mean: Tensor, scale: float) -> None:
        super().__init__()
        check_positive("posterior scale", scale)
        self.mean = nn.Parameter(mean.detach().clone())
        rho = float(_inverse_softplus(torch.tensor(scale, dtype=torch.float64)))
        self.rho = nn.Parameter(torch.full_like(self.mean, rho))

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        """Standard deviations, positive, of the weight's shape."""
        return nn.functional.softplus(self.rho)

    @torch.no_grad()
    def assign(self, mean: Tensor, scale: Tensor) -> None:
        """Set the means, and the standard deviations > 0, of the weight's shape."""
        self.mean.copy_(mean)
        self.rho.copy_(_inverse_softplus(scale))


def _inverse_softplus(value: Tensor) -> Tensor:
    """The rho with softplus(rho) = value > 0; expm1 keeps the digits of small ones."""
    # In float64, which not every device has.
    wide = value.detach().cpu().double()
    return (wide + torch.log(-torch.expm1(-wide))).to(value)


class Prepared(NamedTuple):
    """A draw that was made ahead of the pass, together with its divergence.

    prior: the prior p(w) of the divergence.
    weight: the drawn weight, of the weight's shape.
    divergence: KL(q‖prior) summed over the weights, in nats.
    """

    prior: distributions.Normal
    weight: Tensor
    divergence: Tensor


class WeightNormal(Normal):
    """Pyro's Normal, whose samples have their noise in the means' order in memory.

    Adding tensors of two memory orders was measured to take twice as long.
    """

    prepared: Prepared | None = None

    def prepare(self, prior: distributions.Normal) -> None:
        """Make the sample and the divergence that are returned from now on."""
        weight, divergence = _DrawAndDivergence.apply(
            self.loc, self.scale, prior.loc, prior.scale, True
        )
        self.prepared = Prepared(prior, weight, divergence)

    def divergence(self, prior: distributions.Normal) -> Tensor:
        """KL(q‖prior) in nats, summed, from a Gaussian prior that is not learned."""
        if self.prepared is not None and self.prepared.prior is prior:
            return self.prepared.divergence
        return _DrawAndDivergence.apply(
            self.loc, self.scale, prior.loc, prior.scale, False
        )[1]

    def rsample(
        self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()
    ) -> Tensor:
        """loc + scale · noise of torch's global generator, differentiable.

        Args:
            sample_shape: axes of further samples, before those of the weight.
        """
        if self.prepared is not None and not sample_shape:
            return self.prepared.weight
        shape = self._extended_shape(sample_shape)
        loc, scale = self.loc.expand(shape), self.scale.expand(shape)
        return torch.addcmul(loc, scale, _fill_normal(torch.empty_like(loc)))


class _DrawAndDivergence(torch.autograd.Function):
    """KL(N(mean, scale²)‖N(loc, spread²)) summed, and a draw where one is asked for.

    `kl_divergence` gives the same number, but for its gradient keeps a dozen tensors of
    the weights' size, where the closed form needs two: this was measured five times
    faster. A draw made together with its divergence finds its numbers in the cache, and
    needs one gradient where two would have to be added.

    Returns: the draw, mean + scale · noise, or None; and the divergence, in nats.
    """

    @staticmethod
    def forward(
        ctx: Any,
        mean: Tensor,
        scale: Tensor,
        loc: Tensor,
        spread: Tensor,
        draw: bool,
    ) -> tuple[Tensor | None, Tensor]:
        ratio = scale / spread
        terms = (mean - loc).div_(spread).square_().addcmul_(ratio, ratio)
        divergence = terms.sub_(1).sub_(ratio.log_(), alpha=2).sum().mul_(0.5)
        noise, weight = None, None
        if draw:
            noise = _fill_normal(terms)
            weight = torch.addcmul(mean, scale, noise, out=ratio)
        ctx.save_for_backward(mean, scale, loc, spread, noise)
        return weight, divergence

    @staticmethod
    def backward(
        ctx: Any, by_weight: Tensor | None, by_divergence: Tensor
    ) -> tuple[Tensor, Tensor, None, None, None]:
        mean, scale, loc, spread, noise = ctx.saved_tensors
        factor = by_divergence / spread.square()
        by_mean = (mean - loc).mul_(factor)
        by_scale = scale.square().mul_(factor).sub_(by_divergence).div_(scale)
        if noise is not None:
            by_mean.add_(by_weight)
            by_scale.addcmul_(by_weight, noise)
        return by_mean, by_scale, None, None, None


def _fill_normal(values: Tensor) -> Tensor:
    """Fill a tensor without gaps in memory with N(0, 1) noise, in memory order."""
    # `randn_like` fills channels-last orders eight times slower.
    values.as_strided((values.numel(),), (1,)).normal_()
    return values
