"""The network of "Knowing what you know in brain segmentation"."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from nobrainer.bayes.dropout import ConcreteDropout3d
from nobrainer.bayes.layers import BayesianConv3d, name_sites
from nobrainer.checks import check_choice, check_dilations, check_kl_weight, check_size
from nobrainer.types import Images, Logits

VARIANTS = ("spike_and_slab", "bernoulli", "map")
SCALE = 1e-4
"""Initial standard deviation of every weight."""
RATE = 0.1
"""Rate of the Bernoulli dropout; the learned rates start from it."""
TEMPERATURE = 0.02
"""Temperature of the relaxed gates; see `ConcreteDropout3d`."""


class Kwyk(nn.Module):
    """Dilated 3³ convolutions at full resolution, then a 1³ one that classifies.

    Each layer is a convolution, then dropout, then ReLU, without batch norm. A filter's
    weights have a length and a direction (weight normalisation). The weights have a
    Gaussian prior, from which training minimises their divergence.

    Args:
        in_channels: channels of the image.
        n_classes: classes of the output, background included.
        base_filters: filters of every layer.
        dilations: dilation of each 3³ convolution, in voxels.
        variant: what is random. "spike_and_slab": the weights, as Gaussians, and a
            gate for each filter that is open with a learned probability (concrete
            dropout). "bernoulli": a gate for each filter that is shut at the rate
            0.1; the weights are points. "map": nothing; the weights are points, at
            their maximum a posteriori.
        prior_type, prior_args, kl_weight, estimator: see `bayesian_vnet`; the
            estimator concerns Gaussian weights.

    Input (B, in_channels, I, J, K); output logits (B, n_classes, I, J, K).
    Source: McClure et al. 2019, Knowing what you know in brain segmentation using
    Bayesian deep neural networks, doi 10.3389/fninf.2019.00067.
    """

    stride: int
    halo: int
    width: int
    streams: bool
    kl_weight: float | str

    def __init__(
        self,
        in_channels: int = 1,
        n_classes: int = 50,
        base_filters: int = 96,
        dilations: Sequence[int] = (1, 1, 1, 2, 4, 8, 1),
        variant: str = "spike_and_slab",
        prior_type: str = "standard_normal",
        prior_args: dict[str, Any] | None = None,
        kl_weight: float | str = "elbo",
        estimator: str = "shared",
    ) -> None:
        super().__init__()
        check_size(in_channels, n_classes, base_filters)
        check_dilations(dilations)
        check_kl_weight(kl_weight)
        check_choice("variant", variant, VARIANTS)
        conv = partial(
            _convolution,
            posterior="weight_normalised" if variant == "spike_and_slab" else "point",
            prior_type=prior_type,
            prior_args=prior_args,
            estimator=estimator,
        )
        layers: list[nn.Module] = []
        channels = in_channels
        for dilation in dilations:
            layers += [
                conv(channels, base_filters, 3, padding=dilation, dilation=dilation),
                _dropout(variant, base_filters),
                nn.ReLU(inplace=True),
            ]
            channels = base_filters
        self.layers = nn.Sequential(*layers)
        self.head = conv(base_filters, n_classes, 1)
        self.stride = 1
        self.halo = sum(dilations)
        self.width = base_filters
        self.streams = True
        self.kl_weight = kl_weight
        name_sites(self)

    def forward(self, x: Images) -> Logits:
        """Logits (B, n_classes, I, J, K) of images (B, in_channels, I, J, K)."""
        return self.head(self.layers(x))


def _convolution(c_in: int, c_out: int, kernel: int, **options: Any) -> nn.Module:
    """A convolution whose weights all start with the standard deviation `SCALE`."""
    # The layer takes it as a fraction of the spread of its initial weights.
    fraction = SCALE * math.sqrt(3 * c_in * kernel**3)
    return BayesianConv3d(c_in, c_out, kernel, posterior_scale=fraction, **options)


def _dropout(variant: str, filters: int) -> nn.Module:
    """The gates of a layer's filters."""
    if variant == "spike_and_slab":
        return ConcreteDropout3d(filters, 1 - RATE, TEMPERATURE)
    return nn.Dropout3d(RATE) if variant == "bernoulli" else nn.Identity()
