"""What the tables of a data set say of those who were scanned, and when."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from nobrainer.bids.layout import Source
from nobrainer.bids.tables import MISSING, Row, read_tsv, to_number
from nobrainer.errors import InputError

AGE, TIME = "age", "acq_time"
"""Columns for the age in years, and for the time of a scan."""
_DAYS_A_YEAR = 365.25


class Moment(NamedTuple):
    """When a scan was made.

    time: date and time; None where not known. All times of a person may be shifted.
    age: age of the person in years; NaN where not known.
    """

    time: datetime | None
    age: float

    def years_since(self, earlier: "Moment") -> float | None:
        """Years from an earlier scan to this one; None where not known, or not above 0.

        The times count before the ages, which are often rounded.
        """
        years = self.age - earlier.age
        if self.time is not None and earlier.time is not None:
            seconds = (self.time - earlier.time).total_seconds()
            years = seconds / (86400 * _DAYS_A_YEAR)
        return years if years > 0 else None


class People:
    """The tables `participants.tsv`, `sessions.tsv` and `scans.tsv` of a data set.

    A table that is not there is as one without columns.

    Args:
        root: folder of the data set.

    Attributes:
        columns: names of the columns of all tables read so far but the ids, in order.
        about: what the sidecars of the tables say of some of the columns.
        problems: a line for each table that cannot be used.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.columns: dict[str, None] = {}
        self.about: dict[str, Mapping[str, Any]] = {}
        self.problems: list[str] = []
        self._participants = self._read(root / "participants.tsv", "participant_id")
        self._read_about(root / "participants.json")
        self._read_about(root / "sessions.json")
        self._known: dict[Path, dict[str, Row]] = {}

    def of(self, source: Source) -> Row:
        """What the tables say of a scan: of its person, its session, and itself.

        A table that says it more closely counts before the others.

        Args:
            source: the scan.
        """
        found = self.of_session(source.subject, source.session)
        subject = f"sub-{source.subject}"
        folder = self._root / subject
        if source.session is not None:
            subject += f"_ses-{source.session}"
            folder /= f"ses-{source.session}"
        name = source.path.relative_to(folder).as_posix()
        of_scan = self._rows(folder / f"{subject}_scans.tsv", "filename")
        time = _known(of_scan.get(name, {})).get(TIME)
        return found if time is None else found | {TIME: time}

    def of_session(self, subject: str, session: str | None) -> Row:
        """What the tables say of a person and a session.

        Args:
            subject: label of the participant, without "sub-".
            session: label of the session, without "ses-"; None where there is none.
        """
        found = dict(self._participants.get(subject, {}))
        if session is None:
            return found
        table = self._root / f"sub-{subject}" / f"sub-{subject}_sessions.tsv"
        of_session = self._rows(table, "session_id").get(session, {})
        # What the closer table does not know is left to the other one.
        return of_session | found | _known(of_session)

    def without_folder(self) -> list[str]:
        """The participants, without "sub-", that only `participants.tsv` has."""
        return [
            label
            for label in self._participants
            if not (self._root / f"sub-{label}").is_dir()
        ]

    def moment(self, source: Source) -> Moment:
        """When a scan was made."""
        row = self.of(source)
        return Moment(_to_time(row.get(TIME, "")), to_number(row.get(AGE)))

    def _rows(self, path: Path, key: str) -> dict[str, Row]:
        """A table of one person, which is kept."""
        if path not in self._known:
            self._known[path] = self._read(path, key)
        return self._known[path]

    def _read(self, path: Path, key: str) -> dict[str, Row]:
        """The rows of a table by the label in its first column."""
        if not path.is_file():
            return {}
        try:
            columns, rows = read_tsv(path)
            if key not in columns:
                raise InputError(f"{path}: lacks the column {key}: correct the table")
        except InputError as error:
            self.problems.append(f"{error}; its columns are left out")
            return {}
        found: dict[str, Row] = {}
        for row in rows:
            label = row.pop(key).removeprefix("sub-").removeprefix("ses-")
            if label in found:
                self.problems.append(
                    f"{path}: has {label} twice: the first row is taken"
                )
            found.setdefault(label, row)
        kept = columns if key != "filename" else [TIME] * (TIME in columns)
        self.columns |= dict.fromkeys(name for name in kept if name != key)
        return found

    def _read_about(self, path: Path) -> None:
        """The descriptions of columns in a sidecar; a damaged one says nothing."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if isinstance(found, dict):
            self.about |= {k: v for k, v in found.items() if isinstance(v, dict)}


def _known(row: Row) -> Row:
    return {column: cell for column, cell in row.items() if cell != MISSING}


def _to_time(text: str) -> datetime | None:
    """The time in a cell; times of one person are compared as the clock shows them."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        return None
