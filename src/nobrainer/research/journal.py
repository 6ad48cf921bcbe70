"""The journal of a study: a row for each run, in a file that is only appended to."""

import json
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Any

from nobrainer.errors import InputError
from nobrainer.json_records import build_record, parse_json

ROLES = ("baseline", "proposal", "repeat")
STATES = {
    "running": "under way",
    "done": "trained and judged",
    "pruned": "ended early: its validation curve was hopeless",
    "memory": "ended: it used more memory than it may",
    "diverged": "ended: its loss was not finite",
    "timeout": "ended: it took longer than it may",
    "crash": "ended by an error",
    "refused": "its recipe is not valid",
    "skipped": "not started: it was predicted not to fit memory or time",
    "lost": "its worker was interrupted or killed",
}
INFEASIBLE = ("memory", "diverged", "timeout", "crash", "refused", "skipped")
"""States of values that cannot be trained here: proposers avoid similar ones."""
_MOST_RUNS = 10**6


@dataclass(frozen=True)
class Size:
    """How large a network and its work are, counted and not measured.

    parameters: how many numbers training adapts.
    activations: how many numbers are held at once, for a training batch or to predict
        the largest scan, whichever are more.
    step_flop: floating-point operations of the forward pass of one training batch; for
        an ensemble, those of its largest member.
    judge_flop: floating-point operations of judging, over all scans and draws.
    """

    parameters: int
    activations: int
    step_flop: float
    judge_flop: float


@dataclass(frozen=True)
class Row:
    """One run of a study: values of the space, trained and judged once.

    number: number of the run, from 0, unique in the study.
    role: "baseline", the unchanged recipe; "proposal"; or "repeat" of a run with
        another seed.
    of: the number of the run that a repeat repeats; else its own number.
    values: value of each parameter, by its name in the space; for the baseline, the
        default values that lie in the space.
    seed: seed of the training.
    proposer: name of who proposed the values.
    note: what the proposer says about them, in one line; "" for nothing.
    state: a key of `STATES`.
    reason: why the state is not "done", in one line.
    figures: means over the validation subjects, if "done": "dice", "nll", "aurc" and
        more.
    curve: points of the validation curve, each (share of the training that is over,
        0 to 1; validation Dice), in the order of time.
    size: size of the network and its work; None where it could not be counted.
    peak_memory_bytes: most main memory that its process used; 0 if it never started.
    started: time of its start, ISO 8601 in UTC.
    seconds: time from its start to its end.
    worker: name of the worker that ran it.
    """

    number: int
    role: str
    of: int
    values: dict[str, Any]
    seed: int
    proposer: str
    note: str = field(default="", metadata={"since": 1})
    state: str = field(default="running", metadata={"since": 1})
    reason: str = field(default="", metadata={"since": 1})
    figures: dict[str, float] = field(default_factory=dict, metadata={"since": 1})
    curve: tuple[tuple[float, ...], ...] = field(default=(), metadata={"since": 1})
    size: Size | None = field(default=None, metadata={"since": 1})
    peak_memory_bytes: int = field(default=0, metadata={"since": 1})
    started: str = field(default="", metadata={"since": 1})
    seconds: float = field(default=0.0, metadata={"since": 1})
    worker: str = field(default="", metadata={"since": 1})

    def to_json(self) -> str:
        """The row as one line of JSON, without the line's end."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Row":
        """Read a row that `to_json` wrote.

        Args:
            text: one line of JSON.

        Raises:
            InputError: the text is no such row.
        """
        where = "journal row"
        row: Row = build_record(cls, parse_json(text, where), where)
        if row.state not in STATES or row.role not in ROLES:
            raise InputError(
                f"journal row {row.number}: unknown state {row.state!r} or role "
                f"{row.role!r}"
            )
        if not (0 <= row.number < _MOST_RUNS and 0 <= row.of < _MOST_RUNS):
            raise InputError(f"journal row {row.number}: no study has so many runs")
        figures = (*row.figures.values(), row.seconds, *chain(*row.curve))
        if not all(map(math.isfinite, figures)) or any(len(p) != 2 for p in row.curve):
            raise InputError(
                f"journal row {row.number}: figures must be finite, and a curve pairs "
                "of share and Dice"
            )
        with suppress(ValueError):
            if row.started:
                datetime.fromisoformat(row.started)
            return row
        raise InputError(f"journal row {row.number}: {row.started!r} is no time")


class Journal:
    """The rows of a file that other processes add to; each line is read once.

    Args:
        path: path of the file; need not be there yet.

    Attributes:
        is_torn: whether the last line had no end when the file was read. A killed
            process or a full disk leaves such a line, which does not count as a row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_torn = False
        self._rows: list[Row] = []
        self._numbers: set[int] = set()
        self._end = 0

    def read(self) -> list[Row]:
        """Read what was added, and return all rows; none where there is no file.

        Raises:
            InputError: a line is no row, which the message names, or the file cannot be
                read.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self._end)
                *lines, rest = file.read().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be read: {error.strerror}"
            ) from error
        self.is_torn = bool(rest)
        for line in lines:
            self._add(line)
            self._end += len(line) + 1
        return [*self._rows]

    def _add(self, line: bytes) -> None:
        try:
            row = Row.from_json(line)
            if row.number in self._numbers:
                raise InputError(f"run {row.number} stands there twice")
        except InputError as error:
            raise InputError(
                f"{self.path} line {len(self._rows) + 1}: {error}: remove the line, "
                "and `research run` goes on without it"
            ) from error
        self._rows.append(row)
        self._numbers.add(row.number)


def read_journal(path: Path) -> list[Row]:
    """Read the rows of a journal; a warning tells of a last line without an end.

    Args:
        path: path of the journal; need not be there.

    Raises:
        InputError: a line is no row, or the file cannot be read.
    """
    journal = Journal(path)
    rows = journal.read()
    if journal.is_torn:
        warnings.warn(
            f"{path}: its last line is cut short and does not count", stacklevel=2
        )
    return rows


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Append rows to a journal; the caller holds the study's lock.

    Args:
        path: path of the journal; made if missing.
        rows: rows of the runs that have ended.

    Raises:
        InputError: the file cannot be written.
    """
    append_lines(path, [row.to_json() for row in rows])


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Append lines to a file: all of them, or none; the caller holds its lock.

    A last line without an end is cut off first, and a warning says so. Whole lines are
    never lost.

    Args:
        path: path of the file; made if missing.
        lines: lines without their ends.

    Raises:
        InputError: the file cannot be written.
    """
    rest = "".join(f"{line}\n" for line in lines).encode()
    if not rest:
        return
    try:
        with path.open("a+b", buffering=0) as file:
            end = _cut_torn_line(file)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror}: free some space or mend the "
            "permissions, and the same command goes on"
        ) from error


def _cut_torn_line(file: FileIO) -> int:
    """Cut off what follows the last whole line of a file; return the new length."""
    end = file.seek(0, os.SEEK_END)
    if not end or os.pread(file.fileno(), 1, end - 1) == b"\n":
        return end
    file.seek(0)
    whole = file.readall().rfind(b"\n") + 1
    file.truncate(whole)
    warnings.warn(
        f"{file.name!s}: its last line was cut short, by a full disk or a kill, and "
        "has been dropped",
        stacklevel=2,
    )
    return whole


def experiments(rows: Sequence[Row]) -> list[Row]:
    """Rows of the distinct recipes that were tried.

    Repeats, lost runs and runs that did not start are left out.

    Args:
        rows: rows of a study.

    Returns: the last row of the baseline, if any, and those of the proposals.
    """
    tried = [r for r in rows if r.state not in ("lost", "skipped")]
    baselines = [r for r in tried if r.role == "baseline"]
    return baselines[-1:] + [r for r in tried if r.role == "proposal"]
