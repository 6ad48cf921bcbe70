"""The registry of models and the checks that their constructors share.

An entry builds an `nn.Module` that maps images (B, in_channels, I, J, K) to logits
(B, n_classes, I, J, K) and carries three integers for prediction: `stride`, the
pooling grid in voxels; `halo`, how far beyond a stride-aligned core its output
looks, or None where an operation is global; `width`, its channels at full
resolution. Where it does not say, it is taken to be global. `streams` is True where
all its operations are known to `nobrainer.inference.stream`, which is faster than
windows with a halo. A model with a divergence from a prior also carries `kl_weight`.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from inspect import signature
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from nobrainer.errors import InputError
from nobrainer.recipe import MOST_CLASSES
from nobrainer.registry import Registry, check_arguments, check_count

MODELS: Registry[Callable[..., nn.Module]] = Registry("model")
Model = str | nn.Module | Callable[..., nn.Module]
"""A model of the registry by name, or a network of one's own: the network itself, a
class, or a function that builds it."""
OWN = "callable:"
"""Begins the name of a network of one's own in a recipe."""
MOST_PARAMETERS = 2_000_000_000
MOST_FILTERS, MOST_LEVELS = 65_536, 12
MOST_LAYERS, MOST_DILATION = 100, 1024
FAILURES = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(MemoryError, RuntimeError, TypeError, ValueError),
)
"""What PyTorch and a network raise where arguments or shapes do not work."""


def build(model: Model, **args: Any) -> nn.Module:
    """Build a model, or a copy of a network that is given.

    Raises `InputError` for an unknown argument, with the near miss, for a network that
    cannot be built with these arguments, and for one of more than `MOST_PARAMETERS`.
    """
    make, name = builder_of(model), name_of(model)
    check_arguments(f"argument of model {name!r}", make, args)
    try:
        with at_most(MOST_PARAMETERS):
            network = make(**args)
    except InputError:
        raise
    except FAILURES as error:
        given = ", ".join(f"{key}={value!r}" for key, value in args.items())
        raise InputError(
            f"model {name!r} cannot be built with {given or 'no arguments'}: "
            f"{first_line(error)}"
        ) from error
    if not isinstance(network, nn.Module):
        raise InputError(
            f"model {name!r} must be a torch.nn.Module, got {type(network).__name__}"
        )
    _complete(name, network)
    return network


def builder_of(model: Model) -> Callable[..., nn.Module]:
    """The function or class that builds a model."""
    if isinstance(model, str):
        return MODELS[model]
    if isinstance(model, nn.Module):
        return lambda: copy.deepcopy(model)
    if callable(model):
        # Some of Python's own types do not say what they take.
        with suppress(ValueError):
            signature(model)
            return model
    raise InputError(
        "base_model must be the name of a model, a network, or what builds one, got "
        f"{model!r}"
    )


def name_of(model: Model) -> str:
    """What a recipe calls a model: its name or, without one, the place of its code."""
    if isinstance(model, str):
        return model
    code = type(model) if isinstance(model, nn.Module) else model
    name = getattr(code, "__qualname__", type(code).__qualname__)
    return f"{OWN}{code.__module__}.{name}"


def first_line(error: Exception) -> str:
    """What an exception says in its first line, or else its type."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


@contextmanager
def at_most(n_numbers: int) -> Iterator[None]:
    """Stop the building of a network inside once it has more weights than that."""
    count = 0

    def add(_module: nn.Module, _name: str, parameter: Tensor | None) -> None:
        nonlocal count
        if parameter is not None and not is_lazy(parameter):
            count += parameter.numel()
        if count > n_numbers:
            raise InputError(
                f"the network would have more than {n_numbers} weights: give fewer "
                "filters, levels or members"
            )

    handle = register_module_parameter_registration_hook(add)
    try:
        yield
    finally:
        handle.remove()


def _complete(name: str, network: nn.Module) -> None:
    """Fill in what a network does not say, and check what it says."""
    widths = [p.shape[0] for p in network.parameters() if p.ndim]
    usual = {"stride": 1, "halo": None, "width": max(widths, default=1)}
    for attribute, value in usual.items():
        if not hasattr(network, attribute):
            setattr(network, attribute, value)
    stride: Any = network.stride
    halo: Any = network.halo
    check_count(f"stride of model {name!r}", stride, 1)
    check_count(f"width of model {name!r}", network.width, 1)  # type: ignore[arg-type]
    if halo is not None:
        check_count(f"halo of model {name!r}", halo, 0)
        # Windows begin on the pooling grid.
        network.halo = -(-halo // stride) * stride


def check_size(in_channels: int, n_classes: int, base_filters: int) -> None:
    """Raise `InputError` unless channels and classes are whole numbers in bounds."""
    check_count("in_channels", in_channels, 1, MOST_FILTERS)
    check_count("n_classes", n_classes, 2, MOST_CLASSES)
    check_count("base_filters", base_filters, 1, MOST_FILTERS)


def check_dilations(dilations: Sequence[int]) -> None:
    """Raise `InputError` unless `dilations` lists whole numbers of at least 1."""
    if not isinstance(dilations, Sequence) or not dilations:
        raise InputError(f"dilations must list whole numbers, got {dilations!r}")
    check_count("number of dilations", len(dilations), 1, MOST_LAYERS)
    for dilation in dilations:
        check_count("each of dilations", dilation, 1, MOST_DILATION)


def check_kl_weight(value: float | str) -> None:
    """Raise `InputError` unless `value` is "elbo" or a number of at least 0."""
    number = isinstance(value, int | float) and 0 <= value < math.inf
    if value != "elbo" and not number:
        raise InputError(f"kl_weight must be 'elbo' or a number >= 0, got {value!r}")
