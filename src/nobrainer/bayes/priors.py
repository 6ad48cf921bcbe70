"""Prior distributions p(w) over one weight, by name.

Every entry takes its parameters by name and the device they shall live on, and
returns a scalar `torch.distributions.Distribution`.
"""

from typing import TypeGuard

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Laplace,
    MixtureSameFamily,
    Normal,
)

from nobrainer.checks import check_between, check_positive
from nobrainer.registry import Registry

PRIORS: Registry = Registry("prior")


def is_constant_normal(prior: Distribution) -> TypeGuard[Normal]:
    """Whether `prior` is one Gaussian for all weights, with nothing to be learned."""
    return (
        isinstance(prior, Normal)
        and not prior.batch_shape
        and not (prior.loc.requires_grad or prior.scale.requires_grad)
    )


@PRIORS.register("standard_normal")
def standard_normal(
    *, scale: float = 1.0, device: torch.device | None = None
) -> Distribution:
    """The Gaussian N(0, scale²).

    Args:
        scale: standard deviation, > 0.
        device: where the parameters live; None is torch's default device.

    Raises: InputError where `scale` is not positive.
    """
    check_positive("scale", scale)
    mean, spread = _numbers(0.0, scale, device=device)
    return Normal(mean, spread, validate_args=False)


@PRIORS.register("laplace")
def laplace(*, scale: float = 1.0, device: torch.device | None = None) -> Distribution:
    """The Laplace distribution, which favours weights near 0.

    Its density is exp(-|w| / scale) / (2 scale).

    Args:
        scale: mean absolute weight, > 0.
        device: where the parameters live; None is torch's default device.

    Raises: InputError where `scale` is not positive.
    """
    check_positive("scale", scale)
    mean, spread = _numbers(0.0, scale, device=device)
    return Laplace(mean, spread, validate_args=False)


@PRIORS.register("spike_and_slab")
def spike_and_slab(
    *,
    spike_scale: float = 0.01,
    slab_scale: float = 1.0,
    slab_probability: float = 0.5,
    device: torch.device | None = None,
) -> Distribution:
    """The mixture π N(0, slab²) + (1 - π) N(0, spike²) of two Gaussians.

    Args:
        spike_scale: standard deviation of the narrow Gaussian, > 0.
        slab_scale: standard deviation of the wide Gaussian, > 0.
        slab_probability: weight π of the wide Gaussian, between 0 and 1.
        device: where the parameters live; None is torch's default device.

    Raises: InputError where an argument is out of range.
    Source: Blundell et al. 2015, Weight Uncertainty in Neural Networks, eq. 7.
    """
    check_positive("spike_scale", spike_scale)
    check_positive("slab_scale", slab_scale)
    check_between("slab_probability", slab_probability)
    shares = _numbers(slab_probability, 1 - slab_probability, device=device)
    scales = torch.stack(_numbers(slab_scale, spike_scale, device=device))
    return MixtureSameFamily(
        Categorical(probs=torch.stack(shares), validate_args=False),
        Normal(torch.zeros_like(scales), scales, validate_args=False),
        validate_args=False,
    )


def _numbers(*values: float, device: torch.device | None) -> list[Tensor]:
    """Scalars on a device, which nobody waits for, as a copy to a GPU would make one.

    For the same reason none of the distributions checks its parameters.
    """
    return [torch.full((), value, device=device) for value in values]
