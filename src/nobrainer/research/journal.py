"""What a study has tried: a row for each run, in a file that is only appended to."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nobrainer.errors import InputError
from nobrainer.recipe import build_record, parse_json

JOURNAL = "journal.jsonl"
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
"""States of values that cannot be trained here: proposers avoid their like."""


@dataclass(frozen=True)
class Size:
    """How large a network and its work are, counted and not measured.

    parameters: numbers that training adapts.
    activations: numbers that are held at once, for a training batch or in prediction of
        the largest scan, whichever are more.
    step_flop: floating-point operations of the forward pass of one training batch; of
        an ensemble, of its largest member.
    judge_flop: the same for all the scans and draws that it is judged on.
    """

    parameters: int
    activations: int
    step_flop: float
    judge_flop: float


@dataclass(frozen=True)
class Row:
    """One run of a study: values of the space, trained and judged once.

    number: of the run, from 0, unique in the study.
    role: "baseline", the unchanged recipe; "proposal"; or "repeat" of a run with
        another seed.
    of: the number of the run that a repeat repeats; else its own number.
    values: by the names of the space; of the baseline those that the space can say.
    seed: of the training.
    proposer, note: who proposed it, and what they said of it.
    state: a key of `STATES`; `reason`, why it is not "done".
    figures: on the validation scans: "dice", "nll", "aurc" and more; where "done".
    curve: (share of the training that is over, 0 to 1; validation Dice), rising.
    size: counted before the start, where that was possible.
    peak_memory_bytes: of its process, 0 where it never started.
    started: ISO 8601 in UTC; `seconds` until its end; `worker`, who ran it.
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
    def from_json(cls, text: str) -> "Row":
        """Read what `to_json` wrote; raises `InputError` for anything else."""
        where = "journal row"
        row: Row = build_record(cls, parse_json(text, where), where)
        if row.state not in STATES or row.role not in ROLES:
            raise InputError(
                f"journal row {row.number}: unknown state {row.state!r} or role "
                f"{row.role!r}"
            )
        return row


def read_journal(path: Path) -> list[Row]:
    """The rows of a journal in their order; no rows where there is no file.

    A last line without an end, which a killed process leaves, is not a row.

    Raises:
        InputError: a line that is no row; names it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            rows.append(Row.from_json(line))
        except InputError as error:
            raise InputError(
                f"{path} line {number}: {error}: mend or remove the line"
            ) from error
    return rows


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Add rows to the end of a journal; hold the study's lock.

    A last line without an end is cut off first: nothing that was whole is lost.

    Raises:
        InputError: the file cannot be written.
    """
    text = "".join(f"{row.to_json()}\n" for row in rows)
    if not text:
        return
    try:
        with path.open("a+b") as file:
            file.seek(0)
            whole = file.read().rfind(b"\n") + 1
            file.truncate(whole)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror}: free some space"
        ) from error


def experiments(rows: Sequence[Row]) -> list[Row]:
    """The distinct recipes that were tried: no repeats, nothing lost or not started."""
    tried = [r for r in rows if r.state not in ("lost", "skipped")]
    baselines = [r for r in tried if r.role == "baseline"]
    return baselines[-1:] + [r for r in tried if r.role == "proposal"]
