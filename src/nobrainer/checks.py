"""Checks of one value that a user gives: its type, its range, or the choice it names.

Every check returns nothing, or raises `InputError` with the name of the value, the rule
that it breaks, and what was given. A check that needs more than one value, a file or a
network stands in the module about that thing.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from inspect import Parameter, signature
from typing import Any, TypeGuard

from nobrainer.errors import InputError

MOST_CLASSES, MOST_FILTERS, MOST_LEVELS = 4096, 65_536, 12
"""The most classes, filters of a layer, and resolutions that a network may have."""
MOST_LAYERS, MOST_DILATION = 100, 1024
"""The most layers of a network with dilations, and the widest dilation in voxels."""
MOST_VALUE, MOST_SIDE, MOST_SEED = 2**31 - 1, 4096, 2**63 - 1
"""The largest label value of a file, the longest side of a patch in voxels, and the
largest seed."""
_LONGEST = 80


def shorten(value: object) -> str:
    """A value as Python writes it, for a message; a long text is cut."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number; True and False are none."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def check_count(name: str, value: object, least: int, most: int | None = None) -> None:
    """Check that a value is a whole number from `least` to `most`.

    Args:
        name: what the message calls the value, here and in all checks below.
        value: what the user gave.
        least: the smallest allowed number.
        most: the largest allowed number; None allows any.

    Raises:
        InputError: the value is anything else; True and False are no numbers.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(
            f"{name} must be a whole number >= {least}, got {shorten(value)}"
        )
    if most is not None and value > most:
        raise InputError(f"{name} must be at most {most}, got {shorten(value)}")


def check_positive(name: str, value: object) -> None:
    """Check that a value is a finite number above 0.

    Args:
        name: what the message calls the value.
        value: what the user gave.

    Raises:
        InputError: the value is anything else.
    """
    if not is_number(value) or value <= 0:
        raise InputError(
            f"{name} must be a number > 0 and finite, got {shorten(value)}"
        )


def check_share(name: str, value: object) -> None:
    """Check that a value is a number from 0 to 1, both allowed.

    Args:
        name: what the message calls the value.
        value: what the user gave.

    Raises:
        InputError: the value is anything else.
    """
    if not is_number(value) or not 0 <= value <= 1:
        raise InputError(f"{name} must be a number from 0 to 1, got {shorten(value)}")


def check_between(name: str, value: object) -> None:
    """Check that a value is a number between 0 and 1, neither allowed.

    Args:
        name: what the message calls the value.
        value: what the user gave.

    Raises:
        InputError: the value is anything else.
    """
    if not is_number(value) or not 0 < value < 1:
        raise InputError(f"{name} must be between 0 and 1, got {shorten(value)}")


def check_finite(name: str, value: object) -> None:
    """Check that a value holds neither NaN nor infinity, however deep inside.

    Args:
        name: what the message calls the value.
        value: a number, or dictionaries and lists of numbers; all else passes.

    Raises:
        InputError: a number is not finite; its place in the value is named.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name} must be finite, got {value}")
    inner = value.items() if isinstance(value, dict) else ()
    for key, held in [*inner, *(enumerate(value) if isinstance(value, list) else ())]:
        check_finite(f"{name}.{key}", held)


def check_choice(kind: str, given: object, known: Iterable[str]) -> None:
    """Check that a name is one of the known names.

    Args:
        kind: what the names are names of, for the message.
        given: the name that the user gave.
        known: all names that are allowed.

    Raises:
        InputError: the name is not among them; the closest one is suggested.

    >>> check_choice("estimator", "local", ("shared", "local"))
    """
    names = tuple(known)
    if given not in names:
        raise near_miss(kind, given, names)


def near_miss(kind: str, given: object, known: Iterable[str]) -> InputError:
    """The error for an unknown name, which suggests the closest known one.

    Args:
        kind: what the names are names of.
        given: the name that the user gave.
        known: all names that are allowed.
    """
    names = sorted(known)
    close = get_close_matches(str(given), names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return InputError(f"unknown {kind} {given!r}: {hint}known: {', '.join(names)}")


def check_arguments(
    kind: str, function: Callable[..., Any], args: Mapping[str, Any]
) -> None:
    """Check that a function takes every argument that the user gave.

    Args:
        kind: what the arguments are called in the message.
        function: the function or class to be called.
        args: the arguments, by name.

    Raises:
        InputError: the function takes no argument by one of the names.

    >>> check_arguments("model argument", lambda levels: levels, {"levels": 2})
    """
    for name in args:
        if not takes(function, name):
            raise near_miss(kind, name, _named(function))


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function takes an argument by this name, also by way of `**kwargs`.

    Args:
        function: a function or a class.
        name: the name of the argument.
    """
    kinds = {p.kind for p in signature(function).parameters.values()}
    return Parameter.VAR_KEYWORD in kinds or name in _named(function)


def _named(function: Callable[..., Any]) -> list[str]:
    return [
        p.name
        for p in signature(function).parameters.values()
        if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    ]


def check_size(in_channels: object, n_classes: object, base_filters: object) -> None:
    """Check that a network's channels and classes are in bounds.

    Args:
        in_channels: number of channels of the image, 1 to `MOST_FILTERS`.
        n_classes: number of classes with background, 2 to `MOST_CLASSES`.
        base_filters: number of filters of the first layer, 1 to `MOST_FILTERS`.

    Raises:
        InputError: one of them is no whole number in its range.
    """
    check_count("in_channels", in_channels, 1, MOST_FILTERS)
    check_count("n_classes", n_classes, 2, MOST_CLASSES)
    check_count("base_filters", base_filters, 1, MOST_FILTERS)


def check_dilations(dilations: object) -> None:
    """Check the dilations of a network's layers.

    Args:
        dilations: the dilation of each layer in voxels, 1 to `MOST_DILATION`.

    Raises:
        InputError: this is no list of such numbers, or one for too many layers.
    """
    if not isinstance(dilations, Sequence) or not dilations:
        raise InputError(f"dilations must list whole numbers, got {shorten(dilations)}")
    check_count("number of dilations", len(dilations), 1, MOST_LAYERS)
    for dilation in dilations:
        check_count("each of dilations", dilation, 1, MOST_DILATION)


def check_kl_weight(value: object) -> None:
    """Check that a weight of the KL divergence can be used.

    Args:
        value: "elbo", or a finite number of at least 0.

    Raises:
        InputError: the value is anything else.
    """
    if value != "elbo" and not (is_number(value) and value >= 0):
        raise InputError(
            f"kl_weight must be 'elbo' or a number >= 0, got {shorten(value)}"
        )
