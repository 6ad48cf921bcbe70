"""Segmentation networks by name.

>>> from nobrainer import models
>>> "bayesian_vnet" in models.available_models()
True
>>> models.build("vnet", n_classes=2, base_filters=4, levels=2).stride
2
"""

from collections.abc import Callable

from torch import nn

from nobrainer.compat import with_old_names
from nobrainer.models.bayesian import bayesian_meshnet, bayesian_vnet
from nobrainer.models.check import count_channels
from nobrainer.models.ensemble import ensemble
from nobrainer.models.kwyk import Kwyk
from nobrainer.models.listing import (
    GENERATORS,
    ModelLine,
    describe_models,
    print_models,
)
from nobrainer.models.meshnet import MeshNet
from nobrainer.models.registry import MODELS, Model, build, name_of
from nobrainer.models.vnet import VNet

__all__ = [
    "MODELS",
    "Model",
    "ModelLine",
    "available_models",
    "build",
    "count_channels",
    "describe_models",
    "get",
    "name_of",
    "print_models",
]

__getattr__ = with_old_names(__name__)

# MONAI, of which these are made, takes seconds to load.
MODELS.locate("unet", "nobrainer.models.unet:UNet")
MODELS.locate("attention_unet", "nobrainer.models.monai_nets:attention_unet")
MODELS.locate("segresnet", "nobrainer.models.monai_nets:segresnet")
MODELS.locate("unetr", "nobrainer.models.monai_nets:unetr")
MODELS.locate("swin_unetr", "nobrainer.models.monai_nets:swin_unetr")
MODELS.locate("highresnet", "nobrainer.models.monai_nets:highresnet")
MODELS.register("vnet")(VNet)
MODELS.register("meshnet")(MeshNet)
MODELS.register("bayesian_vnet")(bayesian_vnet)
MODELS.register("bayesian_meshnet")(bayesian_meshnet)
MODELS.register("kwyk")(Kwyk)
MODELS.register("ensemble")(ensemble)
for _name in GENERATORS:
    MODELS.refer(_name, f"makes images: Generation({_name!r}) trains it")


def available_models() -> list[str]:
    """The names that `get`, `build` and `Segmentation` take."""
    return sorted(MODELS)


def get(name: str) -> Callable[..., nn.Module]:
    """The class or function that builds a model.

    Args:
        name: one of `available_models`.

    Raises: InputError with the nearest name where `name` is unknown, or where it is
        that of a generator.
    """
    return MODELS[name]
