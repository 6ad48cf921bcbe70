"""The typed range of one parameter, and the TOML table that describes it."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nobrainer.checks import check_choice, is_number
from nobrainer.errors import InputError

Scalar = str | int | float | bool


@dataclass(frozen=True)
class Choice:
    """One of several values; where one of the numbers is a float, all become floats.

    Args:
        values: the choices: texts, finite numbers or booleans, no two of them equal.

    Raises:
        InputError: a value is of another kind or not finite, there are none, or one is
            there twice.

    >>> print(Choice((0, 0.1)))
    one of 0.0, 0.1
    """

    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        values = tuple(self.values)
        for value in values:
            finite = not isinstance(value, float) or math.isfinite(value)
            if not isinstance(value, Scalar) or not finite:
                raise InputError(
                    f"choices must be texts, numbers or booleans, got {value!r}"
                )
        if any(isinstance(value, float) for value in values):
            values = tuple(float(v) if is_number(v) else v for v in values)
        if not values:
            raise InputError("choices must list a value or more, got none: add some")
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise InputError(
                f"choices must be different, got {twice[0]!r} twice: leave one out"
            )
        object.__setattr__(self, "values", values)

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.values))}"

    def find(self, value: object) -> Scalar | None:
        """The choice that equals a value; None where there is none."""
        same = isinstance(value, bool)
        return next(
            (v for v in self.values if v == value and isinstance(v, bool) == same), None
        )


@dataclass(frozen=True)
class Integer:
    """A whole number within two ends.

    Args:
        low, high: the ends, both of them included.
        log: whether to draw uniformly in the logarithm; `low` is then above 0.

    Raises:
        InputError: an end is no whole number, or the ends are in the wrong order.
    """

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise InputError(f"{name} must be a whole number, got {value!r}")
        _check_bounds(self.low, self.high, log=self.log)

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}"

    def find(self, value: object) -> int | None:
        """The value itself where it is in the range, else None."""
        if not isinstance(value, int) or isinstance(value, bool):
            return None
        return value if self.low <= value <= self.high else None


@dataclass(frozen=True)
class Float:
    """A number within two ends.

    Args:
        low, high: the ends, both of them included.
        log: whether to draw uniformly in the logarithm; `low` is then above 0.

    Raises:
        InputError: an end is no number, or the ends are in the wrong order.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            value = getattr(self, name)
            if not is_number(value):
                raise InputError(f"{name} must be a number, got {value!r}")
            object.__setattr__(self, name, float(value))
        _check_bounds(self.low, self.high, log=self.log)

    def __str__(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"

    def find(self, value: object) -> float | None:
        """The value as a float where it is in the range, else None."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        return float(value) if self.low <= value <= self.high else None


Range = Choice | Integer | Float


def read_range(table: object) -> Range:
    """Read a range from its TOML table.

    Args:
        table: a table with "choices", or with "low", "high" and the optional flags
            "log" and "integer".

    Raises:
        InputError: it is no such table; the message says why.
    """
    if not isinstance(table, dict):
        raise InputError(
            f"must be a table with choices, or with low and high, got {table!r}"
        )
    if "choices" in table:
        _check_keys(table, ("choices",))
        if not isinstance(table["choices"], list):
            raise InputError(f"choices must be a list, got {table['choices']!r}")
        return Choice(tuple(table["choices"]))
    _check_keys(table, ("low", "high", "log", "integer"))
    for key in ("low", "high"):
        if key not in table:
            raise InputError(f"{key} is missing: give low and high, or choices")
    flags = {key: table.get(key, False) for key in ("log", "integer")}
    for key, flag in flags.items():
        if not isinstance(flag, bool):
            raise InputError(f"{key} must be true or false, got {flag!r}")
    kind = Integer if flags["integer"] else Float
    return kind(table["low"], table["high"], flags["log"])


def write_range(span: Range) -> str:
    """Write a range as lines of TOML, from which `read_range` makes an equal one."""
    lines: dict[str, Any]
    if isinstance(span, Choice):
        lines = {"choices": span.values}
    else:
        lines = {"low": span.low, "high": span.high}
        lines |= {"log": True} if span.log else {}
        lines |= {"integer": True} if isinstance(span, Integer) else {}
    # For values of these types JSON and TOML have the same syntax.
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())


def list_corners(span: Range) -> tuple[Scalar, ...]:
    """List the extreme values of a range: all choices, or the two ends."""
    if isinstance(span, Choice):
        return span.values
    return span.low, span.high


def _check_keys(table: Mapping[str, Any], known: Iterable[str]) -> None:
    for key in table:
        check_choice("key", key, known)


def _check_bounds(low: float, high: float, *, log: bool) -> None:
    if not low < high:
        raise InputError(f"low must be below high, got {low} and {high}")
    if log and low <= 0:
        raise InputError(f"low must be > 0 with log = true, got {low}")
