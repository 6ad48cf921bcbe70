"""The results of a study: best model, page, and weights that may still be needed."""

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from nobrainer.recipe import SearchRecord
from nobrainer.research.journal import INFEASIBLE, Row
from nobrainer.research.judge import Standing
from nobrainer.research.records import FinalResult, Split, Task
from nobrainer.research.report.page import write_study
from nobrainer.research.shared import SharedRuns
from nobrainer.research.space import Space

KEPT_MODELS = 3
"""How many of the last runs keep their weights, besides runs that may still win."""
_REPORT_EVERY_S = 60.0
"""Seconds between pages: a page takes seconds to write, and a run may be as short."""


class Results:
    """Keeps the best model and the page of a study up to date.

    Args:
        shared: the runs of the study.
        space: the space that is searched.
        task: the training and judging that the study repeats; it publishes models.
        split: the scans of each part.
    """

    def __init__(
        self, shared: SharedRuns, space: Space, task: Task, split: Split
    ) -> None:
        self._shared = shared
        self._folder = shared.folder
        self._space = space
        self._task = task
        self._split = split
        self._reported = -math.inf

    def update(self, rows: Sequence[Row]) -> None:
        """Publish the champion after a run, and remove weights that nobody needs.

        The page is written if the last one is more than a minute old. The caller holds
        the study's lock.

        Args:
            rows: rows of all runs that have ended.
        """
        standing = self._shared.judge(rows)
        if standing.champion is not None:
            self._publish(rows, standing, None)
        self._drop_weights(rows, standing)
        if time.monotonic() - self._reported > _REPORT_EVERY_S:
            self.write_page()

    def close(self) -> None:
        """Add the scores on the test split to the best model and to the page."""
        final = self._folder.read_test()
        with self._shared.lock:
            rows = self._shared.rows()
            standing = self._shared.judge(rows)
            # The user may have removed the runs of a finished study to save space.
            champion = standing.champion
            if champion is not None and self._folder.model(champion).is_dir():
                self._publish(rows, standing, final)
            self.write_page()

    def write_page(self) -> None:
        """Write the page about the study as it stands."""
        write_study(self._shared.snapshot(), self._folder.report, overwrite=True)
        self._reported = time.monotonic()

    def _drop_weights(self, rows: Sequence[Row], standing: Standing) -> None:
        """Remove the weights of all runs but the last few and those that may win."""
        kept = {standing.champion, standing.baseline, *standing.undecided}
        done = [row.number for row in rows if row.state == "done"]
        kept |= {*done[-KEPT_MODELS:]}
        for row in self._shared.running():
            kept |= {row.number, row.of}
        for number in self._folder.list_runs():
            if number not in kept:
                shutil.rmtree(self._folder.model(number), ignore_errors=True)

    def _publish(
        self, rows: Sequence[Row], standing: Standing, final: FinalResult | None
    ) -> None:
        """Copy the champion's model to the folder `best`, with its record of search."""
        champion, baseline = standing.champion, standing.baseline
        assert champion is not None and baseline is not None
        settings = self._shared.settings
        row = next(row for row in rows if row.number == champion)
        tested = final.figures if final else {}
        gain = final.difference if final else None
        search = SearchRecord(
            family=settings.family,
            proposer=row.proposer,
            objectives=settings.objectives,
            seed=settings.seed,
            run=champion,
            n_runs=sum(row.state not in ("lost", "skipped") for row in rows),
            n_failed=sum(row.state in {*INFEASIBLE} - {"skipped"} for row in rows),
            space={name: asdict(span) for name, span in self._space.ranges.items()},
            values=row.values if champion != baseline else {},
            validation=standing.means[champion],
            baseline_validation=standing.means[baseline],
            spread=standing.spread or {},
            n_train=settings.n_train,
            n_validate=settings.n_validate,
            n_test=settings.n_test,
            n_train_scans=len(self._split.train),
            n_validate_scans=len(self._split.validate),
            n_test_scans=len(self._split.test),
            started=settings.started,
            ended=datetime.now(UTC).isoformat(timespec="seconds"),
            test=tested.get("champion"),
            baseline_test=tested.get("baseline"),
            test_difference=None if gain is None else (gain.mean, gain.low, gain.high),
        )
        run = self._folder.run(champion)
        self._task.publish(run, self._folder.best, search)
