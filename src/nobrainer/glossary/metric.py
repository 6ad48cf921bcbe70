"""A figure, and how it is presented."""

from dataclasses import dataclass
from typing import Literal

_BIDS_UNITS = {
    "": "1",
    "SD": "1",
    "nats": "nat",
    "mm³": "mm^3",
    "mm³/year": "mm^3/year",
}
"""Units as BIDS writes them, where that differs from how people do."""


@dataclass(frozen=True)
class Metric:
    """A figure, and how it is presented.

    name: its full name, without the unit.
    meaning: what it says, for the readers of a page; empty for a figure that only
        tables hold.
    unit: its unit as people write it; empty for shares, ratios and counts.
    bounds: the values that it can have, if the unit does not say it all.
    digits: number of decimals that people are shown.
    better: which way is better; empty if that depends.
    short: its name at the head of a narrow column, without the unit; empty if `name` is
        short enough.
    line: its name on a terminal, with the unit, where no other text explains it; empty
        for a figure that the terminal leaves out.
    definition: how it is computed, for the file that describes the columns of a table;
        empty if `meaning` says it.
    is_signed: whether values of both signs would cancel each other in a mean, so that
        structures are summed up by the median of the absolute values.
    source: for a figure of a search, its name in the result of `summarise`.
    """

    name: str
    meaning: str = ""
    unit: str = ""
    bounds: str = ""
    digits: int = 3
    better: Literal["higher", "lower", ""] = ""
    short: str = ""
    line: str = ""
    definition: str = ""
    is_signed: bool = False
    source: str = ""

    @property
    def title(self) -> str:
        """The full name with the unit."""
        return self._with_unit(self.name)

    @property
    def heading(self) -> str:
        """The short name with the unit, for the head of a column."""
        return self._with_unit(self.brief)

    @property
    def summary(self) -> str:
        """The full name for what sums up the structures."""
        return (
            f"{self.title}, median of absolute values" if self.is_signed else self.title
        )

    @property
    def brief(self) -> str:
        """The short name."""
        return self.short or self.name

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """What an optimiser does with it, if it has a `better` direction."""
        return "maximize" if self.better == "higher" else "minimize"

    @property
    def sign(self) -> int:
        """1 if higher is better, else -1: the factor that makes a gain positive."""
        return 1 if self.better == "higher" else -1

    def describe_column(self) -> dict[str, str]:
        """Describe a column of a table as BIDS does: Description and Units."""
        return {
            "Description": self.definition or self.meaning,
            "Units": _BIDS_UNITS.get(self.unit, self.unit),
        }

    def _with_unit(self, text: str) -> str:
        return f"{text} ({self.unit})" if self.unit else text
