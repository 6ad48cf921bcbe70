"""JSON and frozen records: text of any origin is read within bounds, and checked."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from types import UnionType
from typing import (
    Any,
    Literal,
    NamedTuple,
    TypeAlias,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from nobrainer.checks import check_choice, shorten
from nobrainer.errors import InputError

T = TypeVar("T")
Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
"""What `parse_json` gives."""

_MOST_DEPTH, _MOST_DIGITS = 64, 300
_TOO_DEEP = "{} is not ours: its lists and objects are nested too deep"


def since(version: int) -> dict[str, int]:
    """Metadata of a field that older formats did not have: it may be missing there.

    Args:
        version: the first format version of the file that has the field.
    """
    return {"since": version}


def to_json(value: object) -> str:
    """Indented JSON, in which a number that is not defined (NaN, infinity) is null."""
    return json.dumps(_defined(value), indent=2, allow_nan=False)


def _defined(value: object) -> object:
    if isinstance(value, dict):
        return {key: _defined(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parse_json(text: str | bytes, where: str) -> Json:
    """Read JSON of whatever origin: the one place that does.

    Args:
        text: text of one JSON value; bytes are UTF-8.
        where: name of the record or file, for messages.

    Raises:
        InputError: text that is not JSON, lists and objects that are nested deeper than
            64, or a whole number of more than 300 digits, which `float` cannot take.
    """
    try:
        value = json.loads(text, parse_int=_parse_int)
    except RecursionError as error:
        raise InputError(_TOO_DEEP.format(where)) from error
    except ValueError as error:  # not JSON, not UTF-8, too many digits
        raise InputError(f"{where} is not JSON: {error}") from error
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_MOST_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return value
    raise InputError(_TOO_DEEP.format(where))


def _parse_int(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(
            f"a number of {len(digits)} digits, {digits[:9]}..., is beyond all bounds"
        )
    return int(digits)


def check_history(rows: Iterable[object]) -> tuple[dict[str, Any], ...]:
    """The history of a training: a row for each epoch, numbers and text by name.

    Raises:
        InputError: a row is anything else.
    """
    plain = str | int | float | None
    checked = []
    for row in rows:
        if not isinstance(row, dict) or not all(
            isinstance(value, plain) for value in row.values()
        ):
            raise InputError(
                "a row of the history must be numbers and text by name, got "
                f"{shorten(row)}"
            )
        checked.append(row)
    return tuple(checked)


def build_record(kind: type[T], raw: object, where: str) -> T:
    """Rebuild a frozen record from parsed JSON, refusing what it does not know.

    A field that has come with a later format (`since`) takes its default where it is
    missing.

    Args:
        kind: the class of the record, a dataclass.
        raw: what `parse_json` gave.
        where: name of the record, for messages.

    Raises:
        InputError: a field is unknown, missing or of another type; it is named.
    """
    if not isinstance(raw, dict):
        raise InputError(f"{where} must be a JSON object, got {shorten(raw)}")
    of_kind: type = kind
    known = _fields(of_kind)
    for name in raw:
        check_choice(f"field of {where}", name, known)
    for name, field in known.items():
        if name not in raw and not field.may_be_missing:
            raise InputError(f"{where} lacks the field {name!r}")
    return kind(**{n: _convert(known[n].hint, raw[n], f"{where}.{n}") for n in raw})


class _Field(NamedTuple):
    hint: Any
    may_be_missing: bool


@cache
def _fields(kind: type) -> dict[str, _Field]:
    # Kept, because resolving type hints is the slowest part of reading a row.
    hints = get_type_hints(kind)
    return {f.name: _Field(hints[f.name], "since" in f.metadata) for f in fields(kind)}


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Turn a JSON value into what the type hint says, refusing every other type."""
    if type(value) is hint:  # The quick way: a journal has millions of values.
        return value
    if isinstance(hint, UnionType):
        if value is None:
            return None
        hint = next(a for a in get_args(hint) if a is not type(None))
    if hint is Any:
        return value
    if hasattr(hint, "__dataclass_fields__"):
        return build_record(hint, value, where)
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is Literal:
        if value not in inner:
            raise InputError(f"{where} must be one of {inner}, got {shorten(value)}")
        return value
    if kind is tuple:
        if not isinstance(value, list):
            raise InputError(f"{where} must be a list, got {shorten(value)}")
        if inner[-1] is not Ellipsis and len(value) != len(inner):
            raise InputError(
                f"{where} must have {len(inner)} values, got {shorten(value)}"
            )
        return tuple(_convert(inner[0], v, where) for v in value)
    if kind is float and type(value) is int:
        return float(value)
    # A bool is an int to Python, but true is not a number of epochs.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{where} must be {kind.__name__}, got {shorten(value)}")
    if kind is dict:
        return {k: _convert(inner[1], v, f"{where}.{k}") for k, v in value.items()}
    return value


def as_json_stores(args: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Arguments as JSON gives them back, so that a round trip is exact.

    Args:
        args: values by name; a tuple among them becomes a list.
        what: what they are called in a message.

    Raises:
        InputError: JSON cannot store one of the values.
    """
    try:
        stored: dict[str, Any] = json.loads(json.dumps(args))
    except TypeError as error:
        raise InputError(
            f"{what} must be numbers, text, lists or None to be stored: {error}"
        ) from error
    return stored
