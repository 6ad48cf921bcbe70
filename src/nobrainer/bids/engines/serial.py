"""The engine that does one unit after the other, in this process."""

from collections.abc import Iterator, Sequence

from nobrainer.bids.engines.engine import Act
from nobrainer.bids.scan import Outcome, Unit


class Serial:
    """Does one unit after the other."""

    def run(self, act: Act, units: Sequence[Unit]) -> Iterator[tuple[Unit, Outcome]]:
        """Do all units in order.

        Args:
            act: what is done with a unit.
            units: the units.
        """
        for unit in units:
            yield unit, act(unit)
