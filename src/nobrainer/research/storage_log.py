"""Optuna's storage in a file of whole lines; an error names a line that is damaged."""

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
"""What Optuna raises, besides its own errors, for entries that it did not write."""


def open_log(path: Path) -> JournalStorage:
    """Open the storage in a file, which is made if missing.

    Args:
        path: path of the file; its lock is the file beside it that ends in ".lock".

    Raises:
        InputError: a line is damaged; the message names the line and says what to do.
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

    Optuna's own backend would append to a line that was cut short, and nothing could
    read the file afterwards.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # The system frees this lock when its holder dies, however that happens.
        self._lock = FileLock(f"{path}.lock")
        self.n_read, self._end = 0, 0

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the entries from a number on, up to the first line without an end."""
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
        """Append entries: all of them, or none where the disk is full."""
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        with self._lock:
            append_lines(self.path, lines)

    def damaged(self, reason: str) -> InputError:
        """The error that names the line that was read last as damaged."""
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
