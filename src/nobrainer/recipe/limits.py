"""What the values of a recipe may be at most, and what numbers among them must be."""

import math
from typing import TypeGuard

from nobrainer.errors import InputError
from nobrainer.json_records import shorten

MOST_CLASSES = 4096
"""Classes of a model."""
MOST_VALUE = 2**31 - 1
"""The largest label value of a file."""
MOST_SIDE = 4096
"""Voxels of a patch along an axis."""
MOST_SEED = 2**63 - 1


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def check_positive(name: str, value: object) -> None:
    """Raise `InputError` unless a value is a finite number above 0."""
    if not is_number(value) or value <= 0:
        raise InputError(f"{name} must be > 0 and finite, got {shorten(value)}")


def check_finite(name: str, value: object) -> None:
    """Raise `InputError` for NaN or infinity, however deep."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name} must be finite, got {value}")
    inner = value.items() if isinstance(value, dict) else ()
    for key, held in [*inner, *(enumerate(value) if isinstance(value, list) else ())]:
        check_finite(f"{name}.{key}", held)
