"""The registry of models and the checks that their constructors share.

An entry builds an `nn.Module` that maps images (B, in_channels, I, J, K) to logits
(B, n_classes, I, J, K) and carries three integers for prediction: `stride`, the
pooling grid in voxels; `halo`, how far beyond a stride-aligned core its output
looks, or None where an operation is global; `width`, its channels at full
resolution. `streams` is True where all its operations are known to
`nobrainer.inference.stream`, which is faster than windows with a halo. A model with a
divergence from a prior also carries `kl_weight`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from nobrainer.errors import InputError
from nobrainer.registry import Registry, check_arguments

MODELS: Registry[Callable[..., nn.Module]] = Registry("model")


def build(name: str, **args: Any) -> nn.Module:
    """Build a model; an unknown argument is an InputError with the near miss."""
    check_arguments(f"argument of model {name!r}", MODELS[name], args)
    return MODELS[name](**args)


def check_count(name: str, value: int, least: int, most: int | None = None) -> None:
    """Raise `InputError` unless `value` is a whole number from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be a whole number >= {least}, got {value!r}")
    if most is not None and value > most:
        raise InputError(f"{name} must be at most {most}, got {value!r}")


def check_dilations(dilations: Sequence[int]) -> None:
    """Raise `InputError` unless `dilations` lists whole numbers of at least 1."""
    if not isinstance(dilations, Sequence) or not dilations:
        raise InputError(f"dilations must list whole numbers, got {dilations!r}")
    for dilation in dilations:
        check_count("each of dilations", dilation, 1)


def check_kl_weight(value: float | str) -> None:
    """Raise `InputError` unless `value` is "elbo" or a number of at least 0."""
    number = isinstance(value, int | float) and 0 <= value < math.inf
    if value != "elbo" and not number:
        raise InputError(f"kl_weight must be 'elbo' or a number >= 0, got {value!r}")
