"""Predictions against labels: every figure of one volume, tile by tile."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from nobrainer import metrics
from nobrainer.data.labels import LabelTable
from nobrainer.data.prepared import Prepared
from nobrainer.errors import InputError
from nobrainer.evaluation.rows import Evaluation, Row
from nobrainer.glossary import SCORES
from nobrainer.inference.predict import TileResult
from nobrainer.inference.predictor import Predictor
from nobrainer.metrics.calibration import CalibrationSums
from nobrainer.metrics.overlap import confusion, dice, volume_errors
from nobrainer.metrics.region import foreground_band
from nobrainer.metrics.uncertainty import DetectionSums
from nobrainer.posthoc import Intervals
from nobrainer.structures import StructureSums

REGIONS = ("volume", "foreground")
"""Where figures of all voxels are taken, see `Row`."""

Figure = tuple[str, str, str, float]
"""Region, structure, metric and value of a row."""


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
    """Predict labelled volumes and compare them with their labels.

    This is done on the working grid of the model. One volume is held at a time, and
    the probabilities of one tile of it.

    Args:
        predictor: the network, and how it is applied.
        volumes: prepared subjects with labels.
        labels: names of the classes.
        intervals: intervals of volumes, fitted on other subjects; None leaves out
            "conformal_covered".
        surfaces: also compare surfaces.
        seen: what the model has used a scan for before, by the name of the scan; see
            `Row`.
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


class _Comparison:
    """The labels of one volume against the tiles of its prediction, as they come."""

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
        """Compute the figures of each structure.

        Args:
            counts: (n_draws, C) voxels of each class in each draw.
            labels: names of the C classes.
            intervals: intervals of volumes, if some were fitted.
            surfaces: also compare surfaces.
        """
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
            index, true = one.class_number, true_mm3[one.class_number]
            if not true and not one.volume_mm3:
                continue
            covered = _covers(one.volume_low_mm3, true, one.volume_high_mm3)
            conformal = _covers(one.conformal_low_mm3, true, one.conformal_high_mm3)
            if one.status == "not found":
                # Without an interval the true volume is not covered. If such cases
                # were left out, structures that the network misses would make the
                # intervals look better.
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
        """Compute the figures of each region.

        Args:
            scores: the scores of uncertainty that are asked to find errors.
        """
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
