"""Named choices, whose errors name the near miss."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pkgutil import resolve_name
from typing import Generic, TypeVar

from nobrainer.checks import check_choice
from nobrainer.errors import InputError

T = TypeVar("T")


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
        self._elsewhere: dict[str, str] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds an entry under `name`."""

        def add(entry: T) -> T:
            self._entries[name] = lambda: entry
            return entry

        return add

    def locate(self, name: str, place: str) -> None:
        """Add an entry that loads on first use.

        Args:
            name: the name of the entry.
            place: where the entry is defined, as "package.module:name".
        """
        self._entries[name] = partial(resolve_name, place)

    def refer(self, name: str, advice: str) -> None:
        """Say where to go with a name that belongs elsewhere.

        Args:
            name: a name that has no entry here.
            advice: what `name` is and what takes it, as the end of a message.
        """
        self._elsewhere[name] = advice

    def check(self, name: str) -> None:
        """Raise `InputError`, with the near miss, unless there is such an entry."""
        if name in self._elsewhere:
            raise InputError(f"{self.kind} {name!r} {self._elsewhere[name]}")
        check_choice(self.kind, name, self._entries)

    def __getitem__(self, name: str) -> T:
        self.check(name)
        return self._entries[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
