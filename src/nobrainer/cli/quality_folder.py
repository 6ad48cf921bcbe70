"""The folder of `qc` and `report`: tables of all scans in it, and a page for each."""

import time
from collections.abc import Sequence
from pathlib import Path

import nobrainer as nb
from nobrainer.cli.outputs import to_json
from nobrainer.errors import InputError
from nobrainer.io import write_text
from nobrainer.results import Results

PARTS = ("structures", "regions")
"""Tables with several rows for each scan, by their names in its record."""
_INDEX = "index.html"
_SELDOM = 20
"""Tables are written again after 20 times as long as it took: 5 % of all time."""


class QualityFolder:
    """Writes what the records of a folder's scans say, as tables and pages.

    Args:
        results: the records of the scans.
        segmentation: the model that the scans are predicted with.
        coverage: share of scans whose true volumes the intervals hold; None where there
            are no intervals.
        with_pages: whether to write a page for each scan, and one that lists them.
    """

    def __init__(
        self,
        results: Results,
        segmentation: "nb.Segmentation",
        coverage: float | None,
        *,
        with_pages: bool,
    ) -> None:
        directory = results.directory
        self.results = results
        self.qc = directory / "qc.tsv"
        self.index = directory / _INDEX if with_pages else None
        self._segmentation = segmentation
        self._parts = {name: directory / f"{name}.tsv" for name in PARTS}
        self._next_s = time.monotonic()
        self._sidecars = {
            table.with_suffix(".json"): to_json(columns) + "\n"
            for table, columns in (
                (self.qc, nb.quality.sidecar()),
                (self._parts["structures"], nb.structures.sidecar(coverage)),
                (self._parts["regions"], nb.regions.sidecar()),
            )
        }

    @property
    def shared(self) -> list[Path]:
        """The files that are about all scans."""
        tables = [self.qc, *self._parts.values(), *self._sidecars]
        return tables if self.index is None else [*tables, self.index]

    def pages(self, name: str) -> list[Path]:
        """The path of a scan's page, as a list; empty where no pages are written."""
        if self.index is None:
            return []
        return [self.results.directory / f"{name}.html"]

    def write_now_and_then(self) -> None:
        """Write the tables, unless that was done a short time ago.

        With thousands of scans it takes too long to write them after each one.
        """
        started_s = time.monotonic()
        if started_s >= self._next_s:
            self._write_tables()
            ended_s = time.monotonic()
            self._next_s = ended_s + _SELDOM * (ended_s - started_s)

    def write(self) -> tuple[dict[str, "nb.quality.Case"], dict[str, Path]]:
        """Write the tables and the list of pages, if there are scans.

        Returns:
            What was found about each scan, by its name, in the order in which to look
            at them; and the files by what they hold, without those that explain
            columns.
        """
        if not self.results.records():
            return {}, {}
        cases = self._write_tables()
        written = {"qc": self.qc, **self._parts}
        if self.index is not None:
            with self.results.sharing([self.index]):
                written["index"] = nb.report.write_cohort(
                    list(cases.values()),
                    self.index,
                    pages={name: f"{name}.html" for name in cases},
                    model=self._segmentation.recipe_,
                    calibration=self._segmentation.calibration_,
                    overwrite=True,
                )
        return cases, written

    def _write_tables(self) -> dict[str, "nb.quality.Case"]:
        with self.results.sharing([self.qc, *self._parts.values(), *self._sidecars]):
            records = self.results.records()
            cases = nb.quality.worst_first(
                {
                    name: nb.quality.Case.from_json(record.data["case"])
                    for name, record in records.items()
                }
            )
            texts = {
                path: _join([record.data[name] for record in records.values()])
                for name, path in self._parts.items()
            }
            texts |= {self.qc: nb.quality.to_tsv(list(cases.values()))}
            for path, text in (texts | self._sidecars).items():
                write_text(text, path, overwrite=True)
        return cases


def refuse_index(names: dict[Path, str]) -> None:
    """Refuse a scan whose page would have the name of the page that lists them.

    Args:
        names: name of each scan.

    Raises:
        InputError: there is such a scan.
    """
    for file, name in names.items():
        if f"{name}.html" == _INDEX:
            raise InputError(
                f"{file}: its page would be called {_INDEX} as the list of "
                "all: rename the scan"
            )


def _join(tables: Sequence[str]) -> str:
    """Join tables with the same header into one."""
    header, _, _ = tables[0].partition("\n")
    return "".join([f"{header}\n", *(table.partition("\n")[2] for table in tables)])
