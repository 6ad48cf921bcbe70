"""The registry of models and the checks that their constructors share.

An entry builds an `nn.Module` that maps images (B, in_channels, I, J, K) to logits
(B, n_classes, I, J, K) and carries three integers for prediction: `stride`, the
pooling grid in voxels; `halo`, how far beyond a stride-aligned core its output
looks, or None where an operation is global; `width`, its channels at full
resolution. A Bayesian model also carries `kl_weight`.
"""

from collections.abc import Callable

from torch import nn

from nobrainer.errors import InputError
from nobrainer.registry import Registry

MODELS: Registry[Callable[..., nn.Module]] = Registry("model")


def check_count(name: str, value: int, least: int) -> None:
    """Raise `InputError` unless `value` is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be a whole number >= {least}, got {value!r}")


def check_rate(name: str, value: float) -> None:
    """Raise `InputError` unless `value` lies in [0, 1)."""
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise InputError(f"{name} must lie in [0, 1), got {value!r}")
