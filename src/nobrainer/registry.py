"""Named choices whose errors name the near miss; counts in bounds."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from inspect import Parameter, signature
from pkgutil import resolve_name
from typing import Any, Generic, TypeVar

from nobrainer.errors import InputError

T = TypeVar("T")


def near_miss(kind: str, given: object, known: Iterable[str]) -> InputError:
    """The error for an unknown name, suggesting the closest known one."""
    names = sorted(known)
    close = get_close_matches(str(given), names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return InputError(f"unknown {kind} {given!r}: {hint}known: {', '.join(names)}")


def check_arguments(
    kind: str, function: Callable[..., Any], args: Mapping[str, Any]
) -> None:
    """Raise `InputError` when `args` holds a name that `function` does not take.

    >>> check_arguments("model argument", lambda levels: levels, {"levels": 2})
    """
    for name in args:
        if not takes(function, name):
            raise near_miss(kind, name, _named(function))


def check_count(name: str, value: int, least: int, most: int | None = None) -> None:
    """Raise `InputError` unless `value` is a whole number from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be a whole number >= {least}, got {value!r}")
    if most is not None and value > most:
        raise InputError(f"{name} must be at most {most}, got {value!r}")


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether `function` takes an argument by this name."""
    kinds = {p.kind for p in signature(function).parameters.values()}
    return Parameter.VAR_KEYWORD in kinds or name in _named(function)


def _named(function: Callable[..., Any]) -> list[str]:
    return [
        p.name
        for p in signature(function).parameters.values()
        if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    ]


class Registry(Mapping[str, T], Generic[T]):
    """A read-only mapping from name to entry, filled by `register` and `locate`.

    >>> colours = Registry("colour")
    >>> @colours.register("red")
    ... def red(): ...
    >>> colours["rad"]
    Traceback (most recent call last):
    nobrainer.errors.InputError: unknown colour 'rad': did you mean 'red'? known: red
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Callable[[], T]] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds an entry under `name`."""

        def add(entry: T) -> T:
            self._entries[name] = lambda: entry
            return entry

        return add

    def locate(self, name: str, place: str) -> None:
        """Add an entry that loads on first use, from `place`, "package.module:name"."""
        self._entries[name] = partial(resolve_name, place)

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise near_miss(self.kind, name, self._entries)
        return self._entries[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
