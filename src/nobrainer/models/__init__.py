"""Segmentation networks by name.

>>> from nobrainer import models
>>> "bayesian_vnet" in models.available_models()
True
>>> models.build("vnet", n_classes=2, base_filters=4, levels=2).stride
2
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from nobrainer.models.bayesian import bayesian_meshnet, bayesian_vnet
from nobrainer.models.meshnet import MeshNet
from nobrainer.models.registry import MODELS
from nobrainer.models.unet import UNet
from nobrainer.models.vnet import VNet
from nobrainer.registry import check_arguments

__all__ = ["MODELS", "available_models", "build", "get"]

MODELS.register("unet")(UNet)
MODELS.register("vnet")(VNet)
MODELS.register("meshnet")(MeshNet)
MODELS.register("bayesian_vnet")(bayesian_vnet)
MODELS.register("bayesian_meshnet")(bayesian_meshnet)


def available_models() -> list[str]:
    """The names that `get`, `build` and `Segmentation` take."""
    return sorted(MODELS)


def get(name: str) -> Callable[..., nn.Module]:
    """What builds the model `name`; InputError with the near miss if unknown."""
    return MODELS[name]


def build(name: str, **args: Any) -> nn.Module:
    """Build a model; an unknown argument is an InputError with the near miss."""
    check_arguments(f"argument of model {name!r}", MODELS[name], args)
    return MODELS[name](**args)
