"""Who does what: the rows of a study in Optuna's storage, which workers share."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import optuna
from filelock import FileLock
from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from nobrainer.errors import InputError
from nobrainer.json_records import parse_json
from nobrainer.research.journal import Row, append_lines
from nobrainer.research.proposers import to_directions, to_distribution
from nobrainer.research.records import Settings
from nobrainer.research.space import Space

STORAGE = "optuna.log"
"""The storage of a study that is given none, in its folder."""
_FEWEST = 4
"""Runs that must have come as far before one is given up."""
_ALL_BUT_DONE = 0.9
"""Share of the training after which there is little left to save by giving up."""
_NONSENSE = (
    *(LookupError, TypeError, ValueError),
    *(AttributeError, AssertionError, RuntimeError),
)
_ROW = "row"
"""Attribute of Optuna's trials that holds the row."""
_NAMED_SECRET = re.compile(r"[?&][^=&]*(?:pass|pwd|secret|token|key)[^=&]*=([^&]+)")
PRUNERS = {
    # At a quarter and at half of the training, the better half goes on: a night has
    # few runs, and curves of a training that is not over cross.
    "asha": optuna.pruners.SuccessiveHalvingPruner(min_resource=25, reduction_factor=2),
    "hyperband": optuna.pruners.HyperbandPruner(
        min_resource=10, max_resource=100, reduction_factor=3
    ),
    "none": optuna.pruners.NopPruner(),
}


class Book:
    """The rows in Optuna's storage, where workers agree on who does what."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        url: str | None,
        *,
        is_reader: bool = False,
    ) -> None:
        digest = sha256(json.dumps(asdict(settings), sort_keys=True).encode())
        name = f"{settings.family}-{digest.hexdigest()[:12]}"
        self.is_file = url is None
        self._where = f"storage {public_url(url) or folder / STORAGE}"
        with _refusing(self._where, url):
            self._storage: BaseStorage = (
                _open_log(folder / STORAGE) if url is None else RDBStorage(url)
            )
            self._study = (
                # Asking for one that may be there writes to the storage.
                optuna.load_study(study_name=name, storage=self._storage)
                if is_reader
                else optuna.create_study(
                    study_name=name,
                    storage=self._storage,
                    directions=to_directions(settings.objectives),
                    pruner=PRUNERS[settings.pruner],
                    load_if_exists=True,
                )
            )
        self._objectives = settings.objectives

    def open(self) -> int:
        """A new run's number."""
        return self._study.ask().number

    def note(self, row: Row, space: Space) -> None:
        """Write down a run that starts, its values also as Optuna's parameters."""
        self._set(row)
        for name, value in row.values.items():
            kind = to_distribution(space.ranges[name])
            self._storage.set_trial_param(
                self._id(row.number), name, kind.to_internal_repr(value), kind
            )

    def restore(self, rows: Sequence[Row]) -> None:
        """Make anew what a storage has lost of a study, from the rows of its journal.

        Numbers that the journal has no row of were never ended: they are "lost".
        """
        found = {row.number: row for row in rows}
        n_there = len(self._study.get_trials(deepcopy=False))
        for number in range(max(found, default=-1) + 1):
            row = found.get(number) or _nameless(number, "lost")
            if number < n_there:
                if number in found:
                    self.close(row)
                continue
            values, state = self._told(row)
            self._study.add_trial(
                create_trial(
                    state=state,
                    values=values,
                    user_attrs={_ROW: row.to_json()},
                    intermediate_values={_step(s): dice for s, dice in row.curve},
                )
            )

    def running(self) -> list[Row]:
        """Runs that nobody has closed; a row that is not "running" ended just now."""
        return [self._row_of(trial) for trial in self._trials(TrialState.RUNNING)]

    def ended(self) -> list[Row]:
        """Closed runs in the order in which they ended."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        trials = [trial for state in states for trial in self._trials(state)]
        trials.sort(key=lambda trial: (trial.datetime_complete, trial.number))
        return [self._row_of(trial) for trial in trials]

    def close(self, row: Row) -> None:
        """Write down how a run ended; a run that is closed stays as it is."""
        if self._storage.get_trial(self._id(row.number)).state.is_finished():
            return
        # The row first: should we die in between, who comes next finds it.
        self._set(row)
        values, state = self._told(row)
        self._study.tell(row.number, values, state, skip_if_finished=True)

    def hopeless(self, number: int, point: tuple[float, float]) -> bool:
        """Whether the pruner gives a run up, (share, Dice) being its latest."""
        if len(self._objectives) > 1:
            # Optuna prunes by one curve, which says nothing of the other objectives.
            return False
        trial = optuna.trial.Trial(self._study, self._id(number))
        step = _step(point[0])
        trial.report(point[1], step)
        # Always asked, because it notes who has come how far.
        is_behind = trial.should_prune()
        as_far = [
            other.number
            for other in self._study.get_trials(deepcopy=False)
            if other.number != number
            and max(other.intermediate_values, default=0) >= step
        ]
        return is_behind and len(as_far) >= _FEWEST and point[0] < _ALL_BUT_DONE

    def _told(self, row: Row) -> tuple[list[float] | None, TrialState]:
        """What Optuna is told of how a run ended."""
        if row.state == "done":
            return [row.figures[name] for name in self._objectives], TrialState.COMPLETE
        return None, TrialState.PRUNED if row.state == "pruned" else TrialState.FAIL

    def _row_of(self, trial: FrozenTrial) -> Row:
        text = trial.user_attrs.get(_ROW)
        if text is None:
            # Its worker was killed between asking for a number and saying what for.
            return _nameless(trial.number, "running")
        try:
            return Row.from_json(text)
        except InputError as error:
            raise InputError(f"{self._where}: run {trial.number}: {error}") from error

    def _trials(self, state: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(state,))

    def _id(self, number: int) -> int:
        study = self._storage.get_study_id_from_name(self._study.study_name)
        return self._storage.get_trial_id_from_study_id_trial_number(study, number)

    def _set(self, row: Row) -> None:
        self._storage.set_trial_user_attr(self._id(row.number), _ROW, row.to_json())


class _Log(BaseJournalBackend):
    """Optuna's log in a file of whole lines; a damaged one is named.

    Optuna's own backend adds to a half line, after which nothing can read the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # The system frees it when its holder dies, of whatever.
        self._lock = FileLock(f"{path}.lock")
        self.n_read, self._end = 0, 0

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The entries from a number on, as far as their lines are whole."""
        if log_number_from != self.n_read:
            self.n_read, self._end = 0, 0
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.n_read += 1
                self._end += len(line)
                if self.n_read > log_number_from:
                    yield self._parse(line)

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            entry = parse_json(line, "it")
        except InputError as error:
            raise self.damaged(str(error)) from error
        if not isinstance(entry, dict):
            raise self.damaged("it is no entry")
        return entry

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add entries, all of them or none."""
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        with self._lock:
            append_lines(self.path, lines)

    def damaged(self, reason: str) -> InputError:
        """The error for the line that was read last."""
        return InputError(
            f"{self.path} line {self.n_read}: is damaged: {reason}: end all workers of "
            "the study, remove this file and start `research run` again, which makes "
            "it anew from the journal"
        )


def check_database(url: str) -> None:
    """Raise `InputError` for a database that cannot be used as a storage."""
    with _refusing(f"storage {public_url(url)}", url):
        RDBStorage(url)


@contextmanager
def _refusing(where: str, url: str | None) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, ImportError, OSError) as error:
        reason = hide_password(str(error).splitlines()[0], url)
        raise InputError(
            f"{where}: cannot be used: {reason}: check the URL, its driver and the "
            "permissions"
        ) from error


def _open_log(path: Path) -> JournalStorage:
    log = _Log(path)
    try:
        return JournalStorage(log)
    except InputError:
        raise
    # What Optuna makes of entries that it cannot have written.
    except (*_NONSENSE, OptunaError) as error:
        raise log.damaged(f"{type(error).__name__} {error}") from error


def public_url(url: str | None) -> str:
    """A database's URL without its password.

    Raises:
        InputError: text that is no such URL, which the message does not repeat: a
            mistake may be in the password.
    """
    if url is None:
        return ""
    try:
        return hide_password(make_url(url).render_as_string(hide_password=True), url)
    except (ArgumentError, ValueError) as error:
        raise InputError(
            "storage must be a database's URL, such as postgresql://user@host/name, or "
            "nothing for a file in the study's folder: what was given cannot be read "
            "as one (it is not shown, for it may hold a password)"
        ) from error


def hide_password(text: str, url: str | None) -> str:
    """A text in which no part of a database's URL stands that may be a password."""
    _, _, place = (url or "").partition("://")
    # Up to the last "@", for one in a password is often not written as "%40".
    _, _, secret = place.rpartition("@")[0].partition(":")
    secrets = [secret, *_NAMED_SECRET.findall(place)]
    forms = {form for found in secrets for form in (found, unquote_plus(found))}
    # A driver may have parted it, and name a part.
    parts = {part for form in forms for part in re.split("[@/:?#]", form)}
    parts = {part for part in parts if len(part) > 2}
    for form in sorted(filter(None, forms | parts), key=len, reverse=True):
        text = text.replace(form, "***")
    return text


def _step(share: float) -> int:
    """Optuna's step of a point of a curve: the per cent of the training."""
    return max(1, math.floor(100 * share))


def _nameless(number: int, state: str) -> Row:
    """A run of which nothing but its number is known."""
    return Row(number, "proposal", number, {}, 0, "", state=state)
