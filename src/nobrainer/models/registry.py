"""The registry of models: what an entry is, and how one is built.

An entry builds an `nn.Module` that maps images (B, in_channels, I, J, K) to logits
(B, n_classes, I, J, K). It carries attributes for prediction:

- `stride`: step of its pooling grid, in voxels;
- `halo`: how far beyond a core on that grid its output looks, in voxels, or None where
  an operation is global; a network without this attribute is taken to be global;
- `width`: number of its channels at full resolution;
- `window`: the one shape of images that it takes, in voxels, where it takes no other;
- `streams`: True where `nobrainer.inference.operations` knows all its operations, which
  is faster than windows with a halo.

A model with a divergence from a prior also carries `kl_weight`.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from inspect import signature
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from nobrainer.checks import check_arguments, check_count
from nobrainer.errors import InputError
from nobrainer.registry import Registry

MODELS: Registry[Callable[..., nn.Module]] = Registry("model")
Model = str | nn.Module | Callable[..., nn.Module]
"""The name of a registered model, or a user's own network: the network itself, its
class, or a function that builds it."""
OWN = "callable:"
"""Prefix of the name that a recipe gives to a user's own network."""
MOST_PARAMETERS = 2_000_000_000
FAILURES = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(MemoryError, RuntimeError, TypeError, ValueError),
)
"""What PyTorch and a network raise where arguments or shapes do not work."""


def build(model: Model, **args: object) -> nn.Module:
    """Build a model, or copy a network that is given.

    Args:
        model: name of a registered model, a class or function that builds one, or a
            network.
        args: arguments of the model.

    Raises: InputError for an unknown argument, with the nearest name; for a network
        that cannot be built; and for one of more than `MOST_PARAMETERS` weights.
    """
    name = name_of(model)
    network = build_named("model", name, builder_of(model), args)
    if not isinstance(network, nn.Module):
        raise InputError(
            f"model {name!r} must be a torch.nn.Module, got {type(network).__name__}"
        )
    _complete(name, network)
    return network


def build_named(
    kind: str, name: str, make: Callable[..., nn.Module], args: Mapping[str, Any]
) -> nn.Module:
    """Call what builds an entry of a registry.

    Args:
        kind: what the messages call the entry, such as "model".
        name: its name.
        make: what builds it.
        args: its arguments.

    Raises: InputError for an unknown argument, with the nearest name; for arguments
        that do not work; and for more than `MOST_PARAMETERS` weights.
    """
    check_arguments(f"argument of {kind} {name!r}", make, args)
    try:
        with at_most(MOST_PARAMETERS):
            return make(**args)
    except InputError:
        raise
    except FAILURES as error:
        given = ", ".join(f"{key}={value!r}" for key, value in args.items())
        raise InputError(
            f"{kind} {name!r} cannot be built with {given or 'no arguments'}: "
            f"{first_line(error)}"
        ) from error


def builder_of(model: Model) -> Callable[..., nn.Module]:
    """The function or class that builds a model.

    Raises: InputError where `model` is none, or its name is unknown.
    """
    if isinstance(model, str):
        return MODELS[model]
    if isinstance(model, nn.Module):
        return lambda: copy.deepcopy(model)
    if callable(model):
        # Some built-in types of Python have no signature.
        with suppress(ValueError):
            signature(model)
            return model
    raise InputError(
        "base_model must be the name of a model, a network, or what builds one, got "
        f"{model!r}"
    )


def name_of(model: Model) -> str:
    """The name of a model in a recipe: its own, or the place of a user's code."""
    if isinstance(model, str):
        return model
    code = type(model) if isinstance(model, nn.Module) else model
    name = getattr(code, "__qualname__", type(code).__qualname__)
    return f"{OWN}{code.__module__}.{name}"


def first_line(error: Exception) -> str:
    """The first line of an exception's message, or its type where it has none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


@contextmanager
def at_most(n_numbers: int) -> Iterator[None]:
    """Stop the building of a network inside once it has too many weights.

    Args:
        n_numbers: how many weights it may have.

    Raises: InputError as soon as it has more.
    """
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
    """Check a network's attributes for prediction, and add those that are missing."""
    widths = [p.shape[0] for p in network.parameters() if p.ndim]
    usual = {"stride": 1, "halo": None, "width": max(widths, default=1)}
    for attribute, value in usual.items():
        if not hasattr(network, attribute):
            setattr(network, attribute, value)
    stride: Any = network.stride
    halo: Any = network.halo
    check_count(f"stride of model {name!r}", stride, 1)
    check_count(f"width of model {name!r}", network.width, 1)
    if halo is not None:
        check_count(f"halo of model {name!r}", halo, 0)
        # Windows begin on the pooling grid.
        network.halo = -(-halo // stride) * stride
