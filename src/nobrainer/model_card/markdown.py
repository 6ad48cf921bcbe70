"""Tables and values as Markdown that shows them as they are."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ABSENT = "\N{EN DASH}"
"""Stands for a figure that was not measured or is not defined."""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a table in Markdown.

    Args:
        head: the heading of each column.
        rows: the values of each row, written as `show` writes them.
    """
    cells = [[mark(show(cell)) for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show(value: object) -> str:
    """A value as text: a fraction with four digits, a list without brackets."""
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else ABSENT
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple) and not any(
        isinstance(item, list | dict) for item in value
    ):
        return ", ".join(map(show, value))
    return value if isinstance(value, str) else json.dumps(value)


def mark(text: str) -> str:
    """Text as Markdown that shows it: a class called `a|b` breaks no table."""
    shown = re.sub(r"([\\`*\[\]<>|&~$])", r"\\\1", " ".join(text.split()))
    # Within a word an underscore is itself.
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", shown)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested values under dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
