"""A run over a data set: what is done already, what is left, and who does it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from nobrainer.bids.dataset import check_places, shared_files, write_shared
from nobrainer.bids.engines.engine import Engine, SetAside
from nobrainer.bids.layout import Layout
from nobrainer.bids.names import name_all
from nobrainer.bids.scan import (
    Outcome,
    Settings,
    Unit,
    is_done,
    load_model,
    note_failure,
    process,
)
from nobrainer.bids.sidecars import scheme_of
from nobrainer.processing.guard import Batch


@dataclass(frozen=True)
class Run:
    """The scans of a run.

    settings: what is done with every scan.
    units: the scans.
    problems: a line for each scan that cannot be begun.
    missing: a line for each participant or session without a scan.
    """

    settings: Settings
    units: tuple[Unit, ...]
    problems: tuple[str, ...]
    missing: tuple[str, ...]

    @classmethod
    def plan(cls, settings: Settings, layout: Layout) -> "Run":
        """Choose the names of all results, and check that they may be written.

        Args:
            settings: what is done with every scan.
            layout: the scans of the data set.

        Raises:
            InputError: results would lie among the data, or among others that were
                made in another way.
        """
        check_places(settings.bids_dir, settings.out_dir)
        scheme = scheme_of(load_model(settings.model_dir).labels_)
        chosen, alike = name_all(layout.sources, scheme)
        units = tuple(Unit(source, names) for source, names in chosen)
        results = settings.results()
        results.open(
            [unit.names.scan for unit in units], shared_files(settings.out_dir)
        )
        problems = (*layout.problems, *alike)
        return cls(settings, units, problems, layout.missing)

    def outcomes(self, engine: Engine) -> Iterator[Outcome]:
        """Do the scans that are not done; yield how each of all has ended.

        Args:
            engine: does the scans.
        """
        results = self.settings.results()
        left = []
        if self.units:
            write_shared(self.settings.bids_dir, results)
        for unit in self.units:
            batch, done = Batch(), False
            with batch.scan(unit.source.path):
                done = is_done(self.settings, unit)
            if batch.problems:
                yield Outcome(unit.names.scan, "failed", batch.problems[0])
            elif done:
                yield Outcome(unit.names.scan, "done", was_done=True)
            else:
                left.append(unit)
        act = partial(process, self.settings)
        for unit, outcome in engine.run(act, left):
            if isinstance(outcome, SetAside):
                reason = f"{unit.source.relative}: {outcome.reason}"
                note_failure(results, unit.names.scan, reason)
                outcome = Outcome(unit.names.scan, "failed", reason)
            yield outcome
