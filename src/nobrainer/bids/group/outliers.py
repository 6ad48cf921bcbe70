"""Volumes and intervals of a cohort that are unlike those of the other scans."""

from dataclasses import dataclass

import numpy as np

from nobrainer.bids.group.results import SKULL, Scan, volumes

FEWEST = 10
"""With fewer scans that have a structure nothing is said about it."""
LIMIT = 3.5
"""Standard deviations beyond which a value is an outlier."""
_TO_SD = 1.4826
"""From median absolute deviations to standard deviations of a normal distribution."""
_LEAST_SD = 0.001
"""Least standard deviation of a logarithm, so that copies of one scan do not make
outliers of all that differ in the last digit."""


@dataclass(frozen=True)
class Deviations:
    """How far each structure of each scan is from the others; arrays (scans, parts).

    parts: names of the structures and wholes.
    volume_mm3: the volumes, mm³.
    share: volume over intracranial volume; NaN where the latter is not known.
    adjusted_mm3: the volume that goes with the median intracranial volume of the
        cohort; the volume itself for the intracranial one, and for all where no scan
        has it.
    z: robust z-score of the logarithm of `adjusted_mm3`; minus infinity for a volume of
        0 of a structure that most scans have; NaN where not known.
    width: width of the interval of the volume over the volume.
    width_z: robust z-score of the logarithm of `width`.
    """

    parts: list[str]
    volume_mm3: np.ndarray
    share: np.ndarray
    adjusted_mm3: np.ndarray
    z: np.ndarray
    width: np.ndarray
    width_z: np.ndarray

    @property
    def is_outlier(self) -> np.ndarray:
        """Which volumes are outliers."""
        return np.abs(self.z) > LIMIT

    @property
    def is_wide(self) -> np.ndarray:
        """Which intervals are wide: only too wide ones count."""
        return self.width_z > LIMIT


def find_deviations(scans: list[Scan], parts: list[str]) -> Deviations:
    """Compare the scans of a cohort with each other.

    Args:
        scans: the scans.
        parts: names of the structures and wholes to compare.

    Source: Iglewicz and Hoaglin, "How to detect and handle outliers", 1993, for the
    score (x - median) / (1.4826 · MAD) and its limit of 3.5.
    """
    found = volumes(scans, parts, "volume_mm3")
    skull = np.array([[scan.skull_mm3] for scan in scans]).reshape(-1, 1)
    share = found / skull
    adjusted = found.copy()
    if np.isfinite(skull).any():
        others = [n for n, part in enumerate(parts) if part != SKULL]
        adjusted[:, others] = share[:, others] * np.nanmedian(skull)
    with np.errstate(divide="ignore", invalid="ignore"):
        # What no draw has found has no width.
        width = _widths(scans, parts) / np.where(found > 0, found, np.nan)
        return Deviations(
            parts,
            found,
            share,
            adjusted,
            robust_z(np.log(adjusted)),
            width,
            robust_z(np.log(width)),
        )


def robust_z(values: np.ndarray) -> np.ndarray:
    """Robust z-scores of each column: distance from the median by the median deviation.

    Args:
        values: (n, k), logarithms; NaN is not known, minus infinity is that of 0.

    Returns:
        (n, k); NaN in a column with fewer than 10 known values, and in one where half
        of them are minus infinity.
    """
    scores = np.full(values.shape, np.nan)
    for column in range(values.shape[1]):
        known = values[~np.isnan(values[:, column]), column]
        if len(known) < FEWEST or not np.isfinite(np.median(known)):
            continue
        middle = np.median(known)
        sd = max(_TO_SD * float(np.median(np.abs(known - middle))), _LEAST_SD)
        scores[:, column] = (values[:, column] - middle) / sd
    return scores


def _widths(scans: list[Scan], parts: list[str]) -> np.ndarray:
    """Widths of the intervals, mm³: those for the true volume where there are any."""
    ends = {
        kind: [volumes(scans, parts, f"{kind}_{end}_mm3") for end in ("low", "high")]
        for kind in ("conformal", "volume")
    }
    calibrated, of_draws = (high - low for low, high in ends.values())
    is_calibrated = np.isfinite(calibrated).any(axis=0)
    return np.where(is_calibrated, calibrated, of_draws)
