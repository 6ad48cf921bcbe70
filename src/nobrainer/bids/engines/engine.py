"""What every engine is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from nobrainer.bids.scan import Outcome, Unit

Act = Callable[[Unit], Outcome]


@dataclass(frozen=True)
class SetAside:
    """A unit that could not be done, for a reason that no process of it could note.

    reason: what is known of it, as a sentence: its process has died twice, say.
    """

    reason: str


class Engine(Protocol):
    """Does units of work."""

    def run(
        self, act: Act, units: Sequence[Unit]
    ) -> Iterator[tuple[Unit, Outcome | SetAside]]:
        """Do all units; yield each with its outcome, as they end.

        Args:
            act: what is done with a unit; it lets no exception out.
            units: the units, in the order in which to begin them.
        """
        ...
