"""The figures of an evaluation as tidy rows, and their means over subjects."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import overload

import numpy as np

from nobrainer.glossary import OF_STRUCTURES
from nobrainer.metrics.calibration import Reliability
from nobrainer.metrics.uncertainty import RiskCoverage, aurc, excess_aurc
from nobrainer.naming import count


@dataclass(frozen=True)
class Row:
    """One figure of one subject.

    subject: name of the scan.
    region: "volume" (every voxel), or "foreground": the true foreground widened by 5
        voxels along every axis, diagonals included, so that easy background does not
        hide errors.
    structure: name of the class, or "all" for a figure of all voxels of the region.
    metric: what the figure is, see `evaluate`.
    value: the figure; one that is not defined has no row.
    seen: what the model has used the scan for before: "training", "validation",
        "calibration" or "quality"; such figures are too good. Empty for a fresh scan.
    """

    subject: str
    region: str
    structure: str
    metric: str
    value: float
    seen: str = ""


@dataclass(frozen=True, repr=False)
class Evaluation(Sequence[Row]):
    """Rows of all subjects, and curves of all their voxels; a sequence of the rows.

    rows: the figures, subject by subject.
    reliability: the reliability curve of each region.
    risk_coverage: the risk-coverage curve of each score of uncertainty, over the voxels
        of the region "foreground". For a single pass "variance" and
        "mutual_information" are 0 and have no curve.
    n_subjects: number of people whom the scans show, where that is known.
    """

    rows: tuple[Row, ...]
    reliability: dict[str, Reliability]
    risk_coverage: dict[str, RiskCoverage]
    n_subjects: int | None = None

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Row, ...]: ...
    def __getitem__(self, index: int | slice) -> Row | tuple[Row, ...]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        figures = count(len(self.rows), "figure")
        return f"Evaluation({count(self.n_scans, 'scan')}, {figures})"

    @property
    def n_scans(self) -> int:
        """How many scans have figures."""
        return len({row.subject for row in self.rows})

    @property
    def warning(self) -> str:
        """What to say above the figures if the model has used scans before."""
        seen = {row.subject: row.seen for row in self.rows if row.seen}
        if not seen:
            return ""
        uses = ", ".join(f"{n} in {use}" for use, n in Counter(seen.values()).items())
        return (
            f"The model has used {len(seen)} of these {self.n_scans} scans before "
            f"({uses}): the figures are too good, and say little of other scans."
        )

    def to_tsv(self) -> str:
        """Write the rows as a tab-separated table with a header, in full precision."""
        text = io.StringIO()
        writer = csv.writer(text, delimiter="\t", lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows((*one[:-1], one[-1] or "n/a") for one in map(astuple, self))
        return text.getvalue()


def summarise(rows: Sequence[Row]) -> dict[str, float]:
    """Average the figures of an evaluation over subjects.

    A structure counts wherever it has a row. One that the network missed, for example,
    lowers "surface_dice", but has no "hd95_mm".

    Args:
        rows: what `evaluate` returned.

    Returns:
        Means by name. A metric of structures, such as "dice", gives "dice/<structure>"
        for each structure and "dice", the mean of those; of "volume_error", which has a
        sign, it is the median of the structures' mean absolute values. A metric of
        regions, such as "nll", gives "nll" for whole volumes and "nll/foreground". With
        two subjects or more, "aurc_cases" and "e_aurc_cases" say how well the
        disagreement of draws (1 - mean pairwise Dice of the subject's structures)
        orders subjects by their error (1 - mean Dice), see
        `nobrainer.metrics.uncertainty.aurc`.
    """
    values: dict[str, list[float]] = defaultdict(list)
    of_structures: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        name = row.metric
        if row.structure != "all":
            name += f"/{row.structure}"
            of_structures[row.metric].add(name)
        elif row.region != "volume":
            name += f"/{row.region}"
        values[name].append(row.value)
    means = {name: float(np.mean(found)) for name, found in values.items()}
    whole = {
        metric: _sum_up(metric, [values[name] for name in sorted(names)])
        for metric, names in of_structures.items()
    }
    return whole | means | _summarise_cases(rows)


def _sum_up(metric: str, of_structures: Sequence[Sequence[float]]) -> float:
    """One figure for all structures: the mean, but where a sign would cancel it.

    Args:
        metric: its name.
        of_structures: for each structure the figures of the subjects.
    """
    known = OF_STRUCTURES.get(metric)
    if known is not None and known.is_signed:
        return float(np.median([np.mean(np.abs(found)) for found in of_structures]))
    return float(np.mean([np.mean(found) for found in of_structures]))


def _summarise_cases(rows: Sequence[Row]) -> dict[str, float]:
    """How well the disagreement of draws orders subjects by their error."""
    overlaps: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.metric in ("dice", "pairwise_dice"):
            overlaps[row.subject][row.metric].append(row.value)
    cases = [
        (1 - np.mean(found["pairwise_dice"]), 1 - np.mean(found["dice"]))
        for found in overlaps.values()
        if len(found) == 2
    ]
    if len(cases) < 2:
        return {}
    scores, risks = zip(*cases, strict=True)
    return {
        "aurc_cases": aurc(scores, risks),
        "e_aurc_cases": excess_aurc(scores, risks),
    }
