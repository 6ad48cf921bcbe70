"""Small Bayesian layers and networks, and densities written from their definitions."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from nobrainer import models
from nobrainer.bayes.layers import (
    BayesianConv3d,
    BayesianLinear,
    name_sites,
)

PRIOR_ARGS = [
    ("standard_normal", {}),
    ("standard_normal", {"scale": 0.3}),
    ("laplace", {}),
    ("laplace", {"scale": 0.3}),
    ("spike_and_slab", {}),
    (
        "spike_and_slab",
        {"spike_scale": 0.1, "slab_scale": 2.0, "slab_probability": 0.2},
    ),
]


def normal_log_prob(w, mean, scale):
    z = (w - mean) / scale
    return -0.5 * z**2 - math.log(scale) - 0.5 * math.log(2 * math.pi)


def log_prior(name, args, w):
    """log p(w) of each prior, written from its definition."""
    if name == "standard_normal":
        return normal_log_prob(w, 0, args.get("scale", 1.0))
    if name == "laplace":
        scale = args.get("scale", 1.0)
        return -np.abs(w) / scale - math.log(2 * scale)
    slab = args.get("slab_probability", 0.5)
    return np.logaddexp(
        math.log(slab) + normal_log_prob(w, 0, args.get("slab_scale", 1.0)),
        math.log(1 - slab) + normal_log_prob(w, 0, args.get("spike_scale", 0.01)),
    )


def small_conv(**args) -> BayesianConv3d:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BayesianConv3d(2, 3, 3, posterior_scale=1.0, **args)


class _Net(nn.Module):
    """Two convolutions, one with a batch norm behind it, dropout and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            BayesianConv3d(1, 4, 3, padding=1, posterior_scale=1.0),
            nn.BatchNorm3d(4),
            nn.ReLU(),
            nn.Dropout3d(0.5),
            BayesianConv3d(4, 4, 3, padding="same", posterior_scale=1.0),
        )
        self.head = BayesianLinear(4, 2, posterior_scale=1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).movedim(1, -1)).movedim(-1, 1)


def small_net() -> nn.Module:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        net = name_sites(_Net())
        norm = net.body[1]
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.copy_(torch.randn(4))
        norm.running_var.copy_(torch.rand(4) + 0.2)
        return net


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in network.state_dict().items()}


def same_weights(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(a[k].equal(b[k]) for k in a)


def small_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 1, 8, 8, 8, generator=generator)
    return image, (image[:, 0] > 0).long()


def tiny(**args) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.build("bayesian_meshnet", base_filters=2, dilations=[1], **args)
