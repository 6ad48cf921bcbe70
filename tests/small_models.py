"""Every registry entry at a small size."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nobrainer import models
from nobrainer.bayes.draws import is_stochastic
from nobrainer.bayes.dropout import ConcreteDropout3d
from nobrainer.bayes.layers import BayesianLayer
from nobrainer.models import MODELS
from nobrainer.types import Shape3

SMALL = {"base_filters": 4, "levels": 2, "dilations": [1, 2]}


MEMBERS = [
    ["vnet", {"base_filters": 4, "levels": 2}],
    ["meshnet", {"base_filters": 4, "dilations": [1, 2]}],
]


CONCRETE = {"dropout_type": "concrete", "dropout_rate": 0.2}


# Networks of MONAI in MONAI's arguments, and the shape of images that they take, where
# that is not any.
LAYERS = [
    {"name": "conv_0", "n_features": 4, "kernel_size": 3},
    {"name": "res_1", "n_features": 4, "kernels": [3], "repeat": 1},
    {"name": "conv_1", "n_features": 8, "kernel_size": 1},
    {"name": "conv_2", "kernel_size": 1},
]
MONAI: dict[str, dict[str, Any]] = {
    "attention_unet": {"channels": [4, 8], "strides": [2]},
    "highresnet": {"layer_params": LAYERS},
    "segresnet": {"blocks_down": [1, 1], "blocks_up": [1]},
    "swin_unetr": {
        "feature_size": 12,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 1, 1],
        "window_size": 2,
    },
    "unetr": {
        "img_size": [16, 16, 32],
        "feature_size": 4,
        "hidden_size": 8,
        "mlp_dim": 8,
        "num_heads": 2,
    },
}
SHAPES: dict[str, Shape3] = {"swin_unetr": (32, 32, 64), "unetr": (16, 16, 32)}


FAMILIES = ["unet", "vnet", "meshnet", "bayesian_vnet", "bayesian_meshnet"]


# What is tested: a name and the arguments that make it what it is.
CASES: dict[str, tuple[str, dict[str, Any]]] = (
    {name: (name, {}) for name in FAMILIES}
    | {f"{name}_concrete": (name, CONCRETE) for name in FAMILIES}
    | {name: (name, args) for name, args in MONAI.items()}
    | {
        "kwyk": ("kwyk", {"n_classes": 2}),
        "kwyk_bernoulli": ("kwyk", {"n_classes": 2, "variant": "bernoulli"}),
        "kwyk_map": ("kwyk", {"n_classes": 2, "variant": "map"}),
        "ensemble": ("ensemble", {"members": MEMBERS}),
    }
)


def arguments_of(case: str) -> set[str]:
    """The arguments that a user gives to the model of `case`."""
    return set(inspect.signature(MODELS[CASES[case][0]]).parameters) - {"conv"}


def small_args(case: str) -> dict[str, Any]:
    known = arguments_of(case)
    return {k: v for k, v in SMALL.items() if k in known} | CASES[case][1]


def small(case: str, **args: Any) -> nn.Module:
    """The model of `case` at a small size, initialised with a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.build(CASES[case][0], **small_args(case) | args)


def lived(model: nn.Module) -> nn.Module:
    """Give batch norms statistics, and filters lengths and scales, as of training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("posterior.a"):
                parameter.fill_(0.05)
            elif name.endswith("weight_posterior.g"):
                parameter.mul_(3)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm3d):
            n = norm.num_features
            with torch.no_grad():
                norm.running_mean.copy_(torch.randn(n, generator=generator) / 3)
                norm.running_var.copy_(0.3 + torch.rand(n, generator=generator))
                norm.weight.copy_(0.5 + torch.rand(n, generator=generator))
                norm.bias.copy_(torch.randn(n, generator=generator) / 3)
    return model


def noise(
    case: str = "", channels: int = 1, batch: int = 2, shape: Shape3 = (8, 8, 8)
) -> Tensor:
    """Images of a shape that the model of `case` takes."""
    generator = torch.Generator().manual_seed(2)
    shape = SHAPES.get(case, shape)
    batch = 1 if case == "swin_unetr" else batch
    return torch.randn(batch, channels, *shape, generator=generator)


def means_of(model: nn.Module) -> dict[str, Tensor]:
    """Site name -> posterior mean, of weights and of gates."""
    means: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, ConcreteDropout3d):
            means[f"{name}.gate"] = layer.keep_probability.detach()
        elif isinstance(layer, BayesianLayer):
            means |= {f"{name}.{w}": q.mean for w, q in layer.posteriors().items()}
    return means


BAYESIAN = [c for c in CASES if c.startswith("bayesian") or c == "kwyk"]


DETERMINISTIC = [c for c in CASES if not is_stochastic(small(c))]


every_model = pytest.mark.parametrize("name", CASES)


every_bayesian = pytest.mark.parametrize("name", BAYESIAN)
