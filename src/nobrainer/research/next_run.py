"""Which run is due before anything new is proposed, as a function of the rows."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nobrainer.research.journal import Row
from nobrainer.research.judge import Standing

MOST_LOST = 3
"""How often a run may be lost with its worker before it is not started again."""
DEFAULT = "default"
"""Name of the proposer of the baseline, and so of its repeats."""


@dataclass(frozen=True)
class NextRun:
    """A run that has no number yet.

    role: "baseline", "proposal", or "repeat" of a run with another seed.
    values: value of each parameter, by its name in the space.
    proposer: name of who proposed them.
    note: what the proposer says about them, in one line.
    of: number of the run that it repeats; None where it is no repeat.
    """

    role: str
    values: dict[str, Any]
    proposer: str
    note: str = ""
    of: int | None = None


def find_due(
    rows: Sequence[Row],
    running: Sequence[Row],
    standing: Standing,
    defaults: dict[str, Any],
) -> NextRun | None:
    """Find the run that is due; None where something new may be proposed.

    The baseline comes first, then a repeat that the judge waits for, then a proposal
    that was lost with its worker.

    Args:
        rows: rows of the runs that have ended.
        running: rows of the runs that are under way.
        standing: what the judge makes of the rows.
        defaults: values of the unchanged recipe.
    """
    lost = Counter(_key(row) for row in rows if row.state == "lost")
    under_way = {_key(row) for row in running}

    def is_free(key: str) -> bool:
        return key not in under_way and lost[key] < MOST_LOST

    has_baseline = any(row.role == "baseline" for row in running)
    if standing.baseline is None and not has_baseline:
        return NextRun("baseline", defaults, DEFAULT)
    by_number = {row.number: row for row in rows}
    for number in standing.waiting:
        first = by_number[number]
        if is_free(f"repeat {number}"):
            return NextRun("repeat", first.values, first.proposer, of=number)
    tried = {_key(r) for r in rows if r.role == "proposal" and r.state != "lost"}
    for row in rows:
        key = _key(row)
        again = row.role == "proposal" and row.state == "lost" and key not in tried
        if again and row.values and is_free(key):
            note = f"again: run {row.number} was lost"
            return NextRun("proposal", row.values, row.proposer, note)
    return None


def values_told(values: dict[str, Any], proposer: str) -> dict[str, Any]:
    """The values that training gets: none for the unchanged recipe.

    The row of the baseline lists its default values where they lie in the space.
    Training must not get these, or the recipe would no longer be the unchanged one.

    Args:
        values: values of the run's row.
        proposer: proposer of the run's row.
    """
    return {} if proposer == DEFAULT else values


def _key(row: Row) -> str:
    """Identify what a run does, so that a lost run and its second try have one key."""
    if row.role == "repeat":
        return f"repeat {row.of}"
    return row.role + json.dumps(row.values, sort_keys=True)
