"""Variational posteriors q(w): modules that hold the parameters of a distribution."""

import math

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from nobrainer.errors import InputError


class MeanFieldNormal(nn.Module):
    """Independent Gaussians N(mean, scale²), scale = softplus(rho).

    Args:
        mean: initial means; its shape is the shape of the weight.
        scale: initial standard deviation, the same for every weight.

    Source: Graves 2011; Blundell et al. 2015 (the softplus form).
    """

    def __init__(self, mean: Tensor, scale: float) -> None:
        super().__init__()
        if not scale > 0:
            raise InputError(f"posterior scale must be a positive number, got {scale}")
        self.mean = nn.Parameter(mean.detach().clone())
        # softplus(rho) = scale; expm1 keeps the digits of a small scale.
        rho = math.log(math.expm1(scale)) if scale < 20 else scale
        self.rho = nn.Parameter(torch.full_like(self.mean, rho))

    @property
    def scale(self) -> Tensor:
        """Standard deviations, positive, of the weight's shape."""
        return nn.functional.softplus(self.rho)

    def distribution(self) -> Normal:
        """q(w) as a distribution with batch shape = the weight's shape."""
        return Normal(self.mean, self.scale)

    @torch.no_grad()
    def draw(self, generator: torch.Generator | None) -> Tensor:
        """One weight tensor from q, or the mean where `generator` is None.

        The noise is made on the CPU, so that a seed gives the same weight on
        every device.
        """
        if generator is None:
            return self.mean.detach()
        noise = torch.randn(self.mean.shape, generator=generator)
        return self.mean + self.scale * noise.to(self.mean)
