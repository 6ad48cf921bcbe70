"""Optuna's storage in a file of whole lines, of which a damaged line is named."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.exceptions import OptunaError
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from nobrainer.errors import InputError
from nobrainer.json_records import parse_json
from nobrainer.research.journal import append_lines

_NONSENSE = (
    *(LookupError, TypeError, ValueError),
    *(AttributeError, AssertionError, RuntimeError),
)
"""What Optuna raises for entries that it cannot have written, beside its own errors."""


def open_log(path: Path) -> JournalStorage:
    """The storage in a file, which is made if missing.

    Raises:
        InputError: a line is damaged; names it and the way on.
    """
    log = _LineLog(path)
    try:
        return JournalStorage(log)
    except InputError:
        raise
    except (*_NONSENSE, OptunaError) as error:
        raise log.damaged(f"{type(error).__name__} {error}") from error


class _LineLog(BaseJournalBackend):
    """Optuna's log in a file of whole lines.

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

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            entry = parse_json(line, "it")
        except InputError as error:
            raise self.damaged(str(error)) from error
        if not isinstance(entry, dict):
            raise self.damaged("it is no entry")
        return entry
