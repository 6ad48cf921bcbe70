"""How good predictions and their uncertainty are on labelled volumes, as tidy rows."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple, dataclass, fields
from typing import Any, overload

import numpy as np

from nobrainer import metrics
from nobrainer.data.labels import LabelTable
from nobrainer.data.prepare import Prepared
from nobrainer.errors import InputError
from nobrainer.glossary import SCORES
from nobrainer.inference.predict import TileResult
from nobrainer.inference.predictor import Predictor
from nobrainer.metrics.calibration import CalibrationSums, Reliability
from nobrainer.metrics.overlap import confusion, dice, volume_errors
from nobrainer.metrics.region import foreground_band
from nobrainer.metrics.uncertainty import (
    DetectionSums,
    RiskCoverage,
    aurc,
    excess_aurc,
)
from nobrainer.posthoc import Intervals
from nobrainer.structures import StructureSums

REGIONS = ("volume", "foreground")


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
    reliability: of each region, the reliability curve.
    risk_coverage: of each score of uncertainty, the risk-coverage curve of voxels of
        the region "foreground"; "variance" and "mutual_information" are 0 for a
        single pass and have no curve.
    n_subjects: people whom the scans show, where that is known.
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
        n_subjects = len({row.subject for row in self.rows})
        return f"Evaluation({n_subjects} scans, {len(self.rows)} figures)"

    @property
    def n_scans(self) -> int:
        """How many scans have figures."""
        return len({row.subject for row in self.rows})

    @property
    def warning(self) -> str:
        """What to say above the figures where the model has used scans before."""
        seen = {row.subject: row.seen for row in self.rows if row.seen}
        if not seen:
            return ""
        uses = ", ".join(f"{n} in {use}" for use, n in Counter(seen.values()).items())
        return (
            f"The model has used {len(seen)} of these {self.n_scans} scans before "
            f"({uses}): the figures are too good, and say little of other scans."
        )

    def to_tsv(self) -> str:
        """The rows as a tab-separated table with a header, in full precision."""
        text = io.StringIO()
        writer = csv.writer(text, delimiter="\t", lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows((*one[:-1], one[-1] or "n/a") for one in map(astuple, self))
        return text.getvalue()


def evaluate(
    predictor: Predictor,
    volumes: Iterable[Prepared],
    *,
    labels: LabelTable,
    intervals: Intervals | None = None,
    surfaces: bool = True,
    seen: Mapping[str, str] | None = None,
    each: Callable[[str], AbstractContextManager[Any]] = nullcontext,
) -> Evaluation:
    """Predict labelled volumes and compare, on the working grid.

    One volume is held at a time, and probabilities of one tile of it.

    Args:
        predictor: the network, and how it is applied.
        volumes: prepared subjects with labels.
        labels: names of the classes.
        intervals: intervals of volumes, fitted on other subjects; None leaves out
            "conformal_covered".
        surfaces: also compare surfaces.
        seen: what the model has used scans for before, by the names of the scans.
        each: gives, for a scan's name, the context in which the scan is compared. A
            scan whose error this context keeps has no rows.

    Returns:
        For each subject and structure but background, where truth or prediction has
        it, of the region "volume":

        - "dice" of the label, the mode of the draws, with the truth;
        - "hd95_mm" and "surface_dice" (tolerance 1 mm) of the label's surface;
        - "volume_mm3", mean over draws; "volume_true_mm3"; "volume_error", relative
          and signed, and "volume_error_mm3", absolute, of that mean;
        - "volume_low_mm3" and "volume_high_mm3", between which 95 % of further
          draws lie; "covered", 1 where the true volume does, else 0 (a structure that
          no draw finds has no interval, and 0 here);
        - "conformal_covered", the same of the fitted interval;
        - "pairwise_dice" between draws.

        And for each subject and region, with structure "all":

        - of the draws' mean probabilities: "nll", "brier", "ece", "mce" and "ace";
        - of each score s of "entropy", "variance" and "mutual_information" as a
          detector of voxels whose label is wrong: "auroc_s", "aupr_s", "aurc_s" and
          "e_aurc_s". A single pass has the entropy only.

    Raises:
        InputError: a volume has no labels.
    """
    rows: list[Row] = []
    uses = seen or {}
    calibration = {region: CalibrationSums() for region in REGIONS}
    detection: dict[str, DetectionSums] = defaultdict(DetectionSums)
    for volume in volumes:
        with each(volume.name):
            comparison = _Comparison(volume, predictor.n_classes)
            counts = predictor(volume.image, volume.background, comparison.add)
            structures = comparison.rate_structures(counts, labels, intervals, surfaces)
            scores = SCORES if len(counts) > 1 else SCORES[:1]
            figures = structures + comparison.rate_regions(scores)
            use = uses.get(volume.name, "")
            rows += [
                Row(volume.name, region, structure, metric, float(value), use)
                for region, structure, metric, value in figures
                if not np.isnan(value)
            ]
            for region in REGIONS:
                calibration[region].merge(comparison.calibration[region])
            for score in scores:
                detection[score].merge(comparison.detection["foreground", score])
    return Evaluation(
        tuple(rows),
        {region: sums.reliability for region, sums in calibration.items()},
        {score: sums.risk_coverage for score, sums in detection.items()},
    )


def summarise(rows: Sequence[Row]) -> dict[str, float]:
    """Means over subjects.

    Args:
        rows: what `evaluate` returns.

    Returns:
        A metric of structures, such as "dice", is "dice/<structure>" for each
        structure, and "dice", the mean of those. A metric of regions, such as "nll",
        is "nll" of whole volumes and "nll/foreground". With two subjects or more,
        "aurc_cases" and "e_aurc_cases" say how well the disagreement of draws (1 -
        mean pairwise Dice of the subject's structures) orders subjects by their
        error (1 - mean Dice), see `nobrainer.metrics.uncertainty.aurc`.

    A structure counts where it has a row: a missed one, say, lowers "surface_dice",
    but has no "hd95_mm".
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
        metric: float(np.mean([means[name] for name in sorted(names)]))
        for metric, names in of_structures.items()
    }
    return whole | means | _summarise_cases(rows)


def _summarise_cases(rows: Sequence[Row]) -> dict[str, float]:
    """Whether the draws' disagreement orders subjects by their error."""
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


Figure = tuple[str, str, str, float]
"""Region, structure, metric and value of a row."""


class _Comparison:
    """One volume's truth against its tiles as they come."""

    def __init__(self, volume: Prepared, n_classes: int) -> None:
        if volume.label is None:
            raise InputError(
                f"{volume.name}: has no labels: give (image, label) pairs to evaluate"
            )
        self._geometry = volume.geometry
        self._truth = volume.label
        self._near = foreground_band(volume.label)
        self._label = np.zeros_like(
            volume.label, dtype=np.min_scalar_type(n_classes - 1)
        )
        self._confusion = np.zeros((n_classes, n_classes), np.int64)
        self._structures = StructureSums(n_classes)
        self.calibration = {region: CalibrationSums() for region in REGIONS}
        self.detection = {
            (region, score): DetectionSums() for region in REGIONS for score in SCORES
        }

    def add(self, tile: TileResult) -> None:
        truth, near = self._truth[tile.where], self._near[tile.where]
        wrong = tile.label != truth
        self._label[tile.where] = tile.label
        self._confusion += confusion(truth, tile.label, len(self._confusion))
        self._structures.add(tile)
        for region, mask in (("volume", None), ("foreground", near)):
            self.calibration[region].update(tile.probabilities, truth, mask)
            for score in SCORES:
                sums = self.detection[region, score]
                sums.update(getattr(tile, score), wrong, mask)

    def rate_structures(
        self,
        counts: np.ndarray,
        labels: LabelTable,
        intervals: Intervals | None,
        surfaces: bool,
    ) -> list[Figure]:
        """The figures of each structure; `counts` are the draws' voxels."""
        voxel_mm3 = self._geometry.voxel_mm3
        volumes_mm3 = counts * voxel_mm3
        true_mm3 = self._confusion.sum(1) * voxel_mm3
        error, error_mm3 = volume_errors(volumes_mm3.mean(0), true_mm3)
        overlap = dice(self._confusion)
        distances = None
        if surfaces:
            distances = metrics.compare_surfaces(
                self._truth,
                self._label,
                len(overlap),
                self._geometry.affine[:3, :3],
            )
        figures = []
        for one in self._structures.table(volumes_mm3, labels, intervals):
            index, true = one.index, true_mm3[one.index]
            if not true and not one.volume_mm3:
                continue
            covered = _covers(one.volume_low_mm3, true, one.volume_high_mm3)
            conformal = _covers(one.conformal_low_mm3, true, one.conformal_high_mm3)
            if one.status == "not found":
                # It has no interval, so none holds the true volume: left out, what
                # the network misses would make the intervals look better.
                factor = intervals.factors[index] if intervals else None
                covered = 0.0 if len(counts) > 1 else np.nan
                conformal = np.nan if factor is None else 0.0
            found = {"dice": overlap[index]}
            if distances is not None:
                found["hd95_mm"] = distances.hd95_mm[index]
                found["surface_dice"] = distances.surface_dice[index]
            found |= {
                "volume_error": error[index],
                "volume_error_mm3": error_mm3[index],
                "volume_true_mm3": true,
                "volume_mm3": one.volume_mm3,
                "volume_low_mm3": one.volume_low_mm3,
                "volume_high_mm3": one.volume_high_mm3,
                "covered": covered,
                "conformal_covered": conformal,
                "pairwise_dice": one.pairwise_dice,
            }
            figures += [("volume", one.name, *figure) for figure in found.items()]
        return figures

    def rate_regions(self, scores: Iterable[str]) -> list[Figure]:
        """The figures of each region, those of errors by the given scores only."""
        figures = []
        for region, sums in self.calibration.items():
            found = {m: getattr(sums, m) for m in ("nll", "brier", "ece", "mce", "ace")}
            for score in scores:
                errors = self.detection[region, score]
                found |= {
                    f"auroc_{score}": errors.auroc,
                    f"aupr_{score}": errors.aupr,
                    f"aurc_{score}": errors.aurc,
                    f"e_aurc_{score}": errors.excess_aurc,
                }
            figures += [(region, "all", *figure) for figure in found.items()]
        return figures


def _covers(low: float, value: float, high: float) -> float:
    """1 where the interval holds the value, 0 where not, NaN without interval."""
    return float(low <= value <= high) if low == low else low
