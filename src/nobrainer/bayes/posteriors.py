"""Variational posteriors q(w): modules that hold the parameters of a distribution.

Every entry of `POSTERIORS` takes the initial means, a tensor of the weight's shape,
and the initial standard deviation of all of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro.distributions import Delta, Normal
from torch import Tensor, distributions, nn

from nobrainer.checks import check_positive
from nobrainer.registry import Registry

TINY = 1e-12
"""Stands in for a length or a standard deviation of 0, which nothing divides by."""


class Prepared(NamedTuple):
    """A draw made ahead, with the divergence from a prior that was made with it.

    weight: a sample of the weights' own shape.
    divergence: KL(q‖prior) summed, in nats.
    """

    prior: distributions.Normal
    weight: Tensor
    divergence: Tensor


class WeightNormal(Normal):
    """Pyro's Normal, with the noise of a sample in the order in memory of the means.

    Tensors in two orders were measured to take twice as long to add up.
    """

    prepared: Prepared | None = None

    def prepare(self, prior: distributions.Normal) -> None:
        """Make now what `rsample()` and `divergence(prior)` give from then on."""
        weight, divergence = _DrawAndDivergence.apply(
            self.loc, self.scale, prior.loc, prior.scale, True
        )
        self.prepared = Prepared(prior, weight, divergence)

    def divergence(self, prior: distributions.Normal) -> Tensor:
        """KL(q‖prior) summed, in nats, from one Gaussian that is held fixed."""
        if self.prepared is not None and self.prepared.prior is prior:
            return self.prepared.divergence
        return _DrawAndDivergence.apply(
            self.loc, self.scale, prior.loc, prior.scale, False
        )[1]

    def rsample(
        self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()
    ) -> Tensor:
        """loc + scale · noise of torch's global generator, differentiable."""
        if self.prepared is not None and not sample_shape:
            return self.prepared.weight
        shape = self._extended_shape(sample_shape)
        loc, scale = self.loc.expand(shape), self.scale.expand(shape)
        return torch.addcmul(loc, scale, _fill_normal(torch.empty_like(loc)))


class _DrawAndDivergence(torch.autograd.Function):
    """KL(N(mean, scale²)‖p) summed, for p = N(loc, spread²) fixed; and a sample.

    What `kl_divergence` gives, which keeps a dozen tensors of the weights' size for its
    gradient where the closed form needs two: measured five times faster. A sample made
    with its divergence shares memory that is in the cache, and has one gradient where
    two would have to be added.

    Returns: mean + scale · noise, or None; and the divergence, in nats.
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


class MeanFieldNormal(nn.Module):
    """Independent Gaussians N(mean, scale²), scale = softplus(rho).

    Args:
        mean: initial means; its shape is the shape of the weight.
        scale: initial standard deviation, the same for every weight.

    Source: Graves 2011; Blundell et al. 2015 (the softplus form).
    """

    is_random = True

    def __init__(self, mean: Tensor, scale: float) -> None:
        super().__init__()
        check_positive("posterior scale", scale)
        self.mean = nn.Parameter(mean.detach().clone())
        rho = float(_inverse_softplus(torch.tensor(scale, dtype=torch.float64)))
        self.rho = nn.Parameter(torch.full_like(self.mean, rho))

    @property
    def scale(self) -> Tensor:
        """Standard deviations, positive, of the weight's shape."""
        return nn.functional.softplus(self.rho)

    def distribution(self) -> WeightNormal:
        """q(w) as a distribution with batch shape = the weight's shape."""
        # Weights that are not finite are training's to report, which names the batch.
        return WeightNormal(self.mean, self.scale, validate_args=False)

    @torch.no_grad()
    def draw(self, generator: torch.Generator | None) -> Tensor:
        """One weight tensor from q, or the mean where `generator` is None."""
        return _draw_normal(self.mean, self.scale, generator)

    @torch.no_grad()
    def assign(self, mean: Tensor, scale: Tensor) -> None:
        """Make q these Gaussians: means, and standard deviations > 0."""
        self.mean.copy_(mean)
        self.rho.copy_(_inverse_softplus(scale))


class WeightNormalised(nn.Module):
    """Exactly known weights g · v / ‖v‖: a length g and a direction v for each filter.

    A bias, one number for each filter, is its length alone.

    Args:
        mean: initial weights (filters, ...).

    Source: Salimans, Kingma 2016, Weight normalization, eq. 2.
    """

    is_random = False

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        mean = mean.detach().clone()
        directed = mean.ndim > 1
        self.g = nn.Parameter(_length(mean) if directed else mean)
        self.v = nn.Parameter(mean) if directed else None

    @property
    def mean(self) -> Tensor:
        """The weights, of the weight's shape."""
        return self.g if self.v is None else self.g * self.v / _length(self.v)

    @property
    def scale(self) -> Tensor:
        """Standard deviations, of the weight's shape."""
        return torch.zeros_like(self.mean)

    def distribution(self) -> Delta | Normal:
        """q(w) as a distribution with batch shape = the weight's shape."""
        return Delta(self.mean)

    @torch.no_grad()
    def draw(self, generator: torch.Generator | None) -> Tensor:
        """One weight tensor from q, or the mean where `generator` is None."""
        return _draw_normal(self.mean, self.scale, generator)

    @torch.no_grad()
    def assign(self, mean: Tensor, scale: Tensor) -> None:
        """Make `mean` the weights; only what is random has a `scale`."""
        self.g.copy_(mean if self.v is None else _length(mean))
        if self.v is not None:
            self.v.copy_(mean)


class WeightNormalisedNormal(WeightNormalised):
    """Independent Gaussians N(g · v / ‖v‖, scale²), scale = |a|.

    Args:
        mean: initial means (filters, ...).
        scale: initial standard deviation, the same for every weight.

    Source: McClure et al. 2019, doi 10.3389/fninf.2019.00067.
    """

    is_random = True

    def __init__(self, mean: Tensor, scale: float) -> None:
        super().__init__(mean)
        self.a = nn.Parameter(torch.full_like(mean, scale))

    @property
    def scale(self) -> Tensor:
        """Standard deviations, positive, of the weight's shape."""
        return self.a.abs().clamp_min(TINY)

    def distribution(self) -> WeightNormal:
        """q(w) as a distribution with batch shape = the weight's shape."""
        # Weights that are not finite are training's to report, which names the batch.
        return WeightNormal(self.mean, self.scale, validate_args=False)

    @torch.no_grad()
    def assign(self, mean: Tensor, scale: Tensor) -> None:
        """Make q these Gaussians: means, and standard deviations > 0."""
        super().assign(mean, scale)
        self.a.copy_(scale)


Posterior = MeanFieldNormal | WeightNormalised

POSTERIORS: Registry[Callable[[Tensor, float], Posterior]] = Registry("posterior")
POSTERIORS.register("mean_field")(MeanFieldNormal)
POSTERIORS.register("weight_normalised")(WeightNormalisedNormal)
POSTERIORS.register("point")(lambda mean, scale: WeightNormalised(mean))


def _fill_normal(values: Tensor) -> Tensor:
    """Fill a tensor that has no gaps in memory with N(0, 1) noise, in that order."""
    # `randn_like` fills channels-last orders eight times slower.
    values.as_strided((values.numel(),), (1,)).normal_()
    return values


def _length(weight: Tensor) -> Tensor:
    """‖w‖ of each filter, (filters, 1, ...), so that it divides the weight."""
    axes = tuple(range(1, weight.ndim))
    return torch.linalg.vector_norm(weight, dim=axes, keepdim=True).clamp_min(TINY)


def _draw_normal(
    mean: Tensor, scale: Tensor, generator: torch.Generator | None
) -> Tensor:
    """mean + scale · noise; the noise is made on the CPU.

    So a seed gives the same weight on every device.
    """
    if generator is None:
        return mean.detach()
    noise = torch.randn(mean.shape, generator=generator)
    return mean + scale * noise.to(mean)


def _inverse_softplus(value: Tensor) -> Tensor:
    """rho with softplus(rho) = value > 0; expm1 keeps the digits of a small value."""
    # In float64, which not every device has.
    wide = value.detach().cpu().double()
    return (wide + torch.log(-torch.expm1(-wide))).to(value)
