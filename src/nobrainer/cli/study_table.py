"""The runs of a study as a table, and the formats in which it is written."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nobrainer.cli.outputs import to_json
from nobrainer.cli.study_view import verdict_of
from nobrainer.errors import InputError, in_one_line, printable
from nobrainer.research.records import Snapshot

Writer = Callable[[Sequence[Mapping[str, Any]]], str]
"""Writes rows that have the same columns as text."""


def choose_format(output: Path | None) -> Writer:
    """Choose the writer for the suffix of a file.

    Args:
        output: path of the file; None chooses TSV.

    Raises:
        InputError: the suffix is none of those that can be written.
    """
    suffix = ".tsv" if output is None else output.suffix.lower()
    if suffix not in _FORMATS:
        raise InputError(
            f"{output}: unknown suffix {suffix!r}: give a name that ends in "
            f"{', '.join(_FORMATS)}"
        )
    return _FORMATS[suffix]


def tabulate_runs(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Make a row for each run, all with the same columns; None for a missing value.

    Args:
        snapshot: the study as it stands.
    """
    rows = snapshot.rows
    values = dict.fromkeys(name for row in rows for name in row.values)
    figures = dict.fromkeys(name for row in rows for name in row.figures)
    return [
        {
            "run": row.number,
            "role": row.role,
            "of": row.of,
            "state": row.state,
            "verdict": verdict_of(row, snapshot.standing),
            "reason": printable(in_one_line(row.reason)),
            "proposer": row.proposer,
            "note": printable(in_one_line(row.note)),
            "seed": row.seed,
            "started": row.started,
            "seconds": row.seconds,
            "peak_memory_bytes": row.peak_memory_bytes,
            "worker": row.worker,
        }
        | {f"value.{name}": row.values.get(name) for name in values}
        | {f"figure.{name}": row.figures.get(name) for name in figures}
        for row in rows
    ]


def _separate(delimiter: str) -> Writer:
    """Make a writer of delimited text, in which None becomes an empty field."""

    def write(rows: Sequence[Mapping[str, Any]]) -> str:
        text = io.StringIO()
        columns = list(rows[0]) if rows else []
        writer = csv.DictWriter(text, columns, delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    return write


_FORMATS: dict[str, Writer] = {
    ".csv": _separate(","),
    ".tsv": _separate("\t"),
    ".json": lambda rows: f"{to_json(rows)}\n",
}
