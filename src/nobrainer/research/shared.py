"""The runs of a study, which its workers share through the storage and the journal."""

from collections.abc import Sequence
from dataclasses import replace

from filelock import FileLock, Timeout

from nobrainer.errors import InputError
from nobrainer.research.budget import Budget
from nobrainer.research.folder import JOURNAL, StudyFolder
from nobrainer.research.journal import Journal, Row, append_rows
from nobrainer.research.judge import Standing, judge
from nobrainer.research.records import Settings, Snapshot
from nobrainer.research.trial_storage import TrialStorage
from nobrainer.research.worker import Watch, forget


class SharedRuns:
    """The runs of a study, as one of its workers sees them.

    Runs are claimed and closed in the storage; what has ended is a row of the journal.

    Args:
        folder: folder of the study.
        settings: settings of the study.
        storage: the runs of the study in Optuna's storage.
    """

    def __init__(
        self, folder: StudyFolder, settings: Settings, storage: TrialStorage
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.storage = storage
        self.lock = FileLock(folder.lock)
        self._watch = Watch(folder.workers)
        self._journal = Journal(folder.journal)
        self._judged: tuple[int, Standing] | None = None

    def restore(self) -> int:
        """Bring runs that only the journal knows back to the storage.

        The caller holds the study's lock.

        Returns: the number of runs that the storage had lost.

        Raises:
            InputError: the database is not the one that the journal was written from.
        """
        rows = self.rows()
        missing = {row.number for row in rows}
        missing -= {row.number for row in self.storage.ended()}
        if missing and not self.storage.is_file:
            raise InputError(
                f"{self.folder.root}: {JOURNAL} has {len(missing)} runs that the "
                "storage does not know: give the --storage that the study was begun "
                "with, or another --working-dir"
            )
        if missing:
            self.storage.restore(rows)
        return len(missing)

    def rows(self) -> list[Row]:
        """Rows of the runs that have ended, in the order in which they ended."""
        return self._journal.read()

    def running(self) -> list[Row]:
        """Rows of the runs that are under way."""
        return self.storage.running()

    def settle(self) -> list[Row]:
        """Close the runs of workers that died, and bring the journal up to date.

        The caller holds the study's lock.

        Returns: rows of all runs that have ended.
        """
        for row in self.running():
            if row.state != "running":
                self.storage.close(row)
            elif not row.worker or not self._watch.is_alive(row.worker):
                reason = "its worker is gone"
                self.storage.close(replace(row, state="lost", reason=reason))
                forget(self.folder.workers, row.worker)
        known = {row.number for row in self.rows()}
        new = [row for row in self.storage.ended() if row.number not in known]
        append_rows(self.folder.journal, new)
        return self.rows()

    def judge(self, rows: Sequence[Row]) -> Standing:
        """Judge the runs that have ended; the result for as many rows is kept.

        Args:
            rows: rows of all runs that have ended, to which rows are only ever added.
        """
        if self._judged is None or self._judged[0] != len(rows):
            self._judged = len(rows), judge_journal(self.folder, rows, self.settings)
        return self._judged[1]

    def snapshot(
        self, budget: Budget | None = None, now: float = 0.0, own: Row | None = None
    ) -> Snapshot:
        """The study as it stands.

        Args:
            budget: what this worker may spend; None leaves it out.
            now: the time, in seconds of `time.monotonic`.
            own: this worker's run as it stands, where one is under way.
        """
        rows = self.rows()
        found = {row.number: row for row in (*self.running(), *rows)}
        if own is not None:
            found[own.number] = own
        return Snapshot(
            self.settings,
            tuple(found[number] for number in sorted(found)),
            self.judge(rows),
            remaining_s=None if budget is None else max(0.0, budget.deadline - now),
            max_experiments=None if budget is None else budget.max_experiments,
            test=self.folder.read_test(),
        )


def judge_journal(
    folder: StudyFolder, rows: Sequence[Row], settings: Settings
) -> Standing:
    """Judge the rows of a journal.

    Args:
        folder: folder of the study; an error names its journal.
        rows: rows of the runs that have ended, in the order in which they ended.
        settings: settings of the study, which say by what runs are judged.

    Raises:
        InputError: a run is done but lacks a figure to judge it by.
    """
    try:
        return judge(rows, settings.objectives)
    except InputError as error:
        raise InputError(f"{folder.journal}: {error}") from error


def is_held(lock: FileLock) -> bool:
    """Whether another worker holds a lock."""
    try:
        with lock.acquire(blocking=False):
            return False
    except Timeout:
        return True
