"""Whether uncertainty finds errors: ranking and selective prediction, tile by tile."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma

# Bins of a score: the exponent and the first 8 bits of the fraction of a float32.
_SHIFT = 15
_N_BINS = 1 << (32 - _SHIFT - 1)
_N_POINTS = 200


@dataclass(frozen=True)
class RiskCoverage:
    """How the share of errors falls when the most uncertain voxels are left out.

    coverage: shares of the voxels that are kept, the most certain first: 0.005, 0.01,
        ... 1; empty without voxels.
    risk: share of the kept voxels that is wrong, in [0, 1], for each coverage.

    Source: El-Yaniv and Wiener 2010; Geifman and El-Yaniv 2017.
    """

    coverage: tuple[float, ...]
    risk: tuple[float, ...]


class DetectionSums:
    """How well a score tells wrong voxels from right ones, tile by tile.

    Only two histograms of the score are kept, of right and of wrong voxels: 65536 bins
    by the leading bits of a float32, each at most 0.4 % wide relative to the score.
    Scores within a bin count as equal, and equal scores as in random order.
    """

    def __init__(self) -> None:
        # Rows: right, wrong.
        self._counts = np.zeros((2, _N_BINS), np.int64)

    def update(
        self, score: np.ndarray, wrong: np.ndarray, mask: np.ndarray | None = None
    ) -> None:
        """Add some voxels.

        Args:
            score: (...) float32, larger where less certain; below 0 counts as 0.
            wrong: (...) booleans, whether the label is not the true one.
            mask: (...) booleans, True where a voxel counts; None counts all.
        """
        if mask is not None:
            score, wrong = score[mask], wrong[mask]
        # Floats that are not negative are in the order of their bits, read as
        # integers; negative ones, -0 among them, are negative as integers, too.
        bits = score.astype(np.float32, copy=False).view(np.int32)
        bins = np.maximum(bits >> _SHIFT, 0) + _N_BINS * wrong
        counts = np.bincount(bins.ravel(), minlength=2 * _N_BINS)
        self._counts += counts.reshape(2, -1)

    def merge(self, other: "DetectionSums") -> None:
        """Add the voxels of other sums."""
        self._counts += other._counts

    @property
    def auroc(self) -> float:
        """Probability that a wrong voxel scores higher than a right one; in [0, 1].

        Equal scores count half. NaN unless there are both right and wrong voxels.
        """
        right, wrong = self._counts
        pairs = float(right.sum()) * float(wrong.sum())
        below = np.cumsum(right) - right / 2
        return float(wrong @ below) / pairs if pairs else float("nan")

    @property
    def aupr(self) -> float:
        """Average precision of the score as a detector of wrong voxels; in [0, 1].

        Σ (recallₙ - recallₙ₋₁) · precisionₙ over falling thresholds, without
        interpolation (Davis and Goadrich 2006 say why). A random score has an average
        precision equal to the share of wrong voxels. NaN where no voxel is wrong.
        """
        right, wrong = self._counts[:, ::-1]
        found = np.cumsum(wrong)
        flagged = found + np.cumsum(right)
        precision = found / np.maximum(flagged, 1)
        n_wrong = int(found[-1])
        return float(wrong @ precision) / n_wrong if n_wrong else float("nan")

    @property
    def aurc(self) -> float:
        """Area under the risk-coverage curve, see `aurc`; NaN without voxels."""
        return _area(self._counts.sum(0), self._counts[1])

    @property
    def excess_aurc(self) -> float:
        """`aurc` minus that of the best order, all right voxels first; NaN or >= 0."""
        n_right, n_wrong = self._counts.sum(1)
        return self.aurc - _area(np.array([n_right, n_wrong]), np.array([0, n_wrong]))

    @property
    def risk_coverage(self) -> RiskCoverage:
        """Share of wrong voxels among the most certain ones, at 200 coverages."""
        kept = np.append(0, np.cumsum(self._counts.sum(0)))
        errors = np.append(0, np.cumsum(self._counts[1]))
        if not kept[-1]:
            return RiskCoverage((), ())
        coverage = np.arange(1, _N_POINTS + 1) / _N_POINTS
        n_kept = coverage * kept[-1]
        risk = np.interp(n_kept, kept, errors) / n_kept
        return RiskCoverage(tuple(coverage.tolist()), tuple(risk.tolist()))


def aurc(scores: ArrayLike, risks: ArrayLike) -> float:
    """Area under the risk-coverage curve of some cases.

    It is the mean, over k = 1 ... n, of the mean risk of the k most certain cases.
    Where scores are equal, it is averaged over the possible orders.

    Args:
        scores: (n,) uncertainty of each case, larger where less certain.
        risks: (n,) error of each case, such as 1 - Dice.

    Returns:
        The area in the unit of the risks; a random score has their mean. NaN without
        cases.

    Source: Geifman et al. 2019, equation 2.
    """
    _, block = np.unique(np.asarray(scores), return_inverse=True)
    return _area(np.bincount(block), np.bincount(block, np.asarray(risks, np.float64)))


def excess_aurc(scores: ArrayLike, risks: ArrayLike) -> float:
    """`aurc` minus the area of the best order, which is that of the risks themselves.

    Args:
        scores: (n,) uncertainty of each case, larger where less certain.
        risks: (n,) error of each case, such as 1 - Dice.

    Returns:
        The excess, 0 or more up to rounding; NaN without cases.

    Source: Geifman et al. 2019, section 3; the best order is taken exactly, not by
    its limit for many cases.
    """
    return aurc(scores, risks) - aurc(risks, risks)


def _area(counts: np.ndarray, risks: np.ndarray) -> float:
    """Area under the risk-coverage curve from blocks of equal scores.

    Args:
        counts: (B,) number of cases in each block, the most certain block first.
        risks: (B,) sum of the risks of each block's cases.

    Take a block of m cases whose risks sum to w, after K earlier cases whose risks sum
    to E. The expected sum of risks after k cases, K < k <= K + m, is E + (k - K) w/m.
    Divided by k and summed over the block this is (E - K w/m) (H(K + m) - H(K)) + w,
    with the harmonic numbers H.
    """
    # Products of two counts of a cohort's voxels would overflow integers.
    counts, risks = counts[counts > 0].astype(np.float64), risks[counts > 0]
    if not counts.size:
        return float("nan")
    after = np.cumsum(counts)
    before = after - counts
    earlier = np.cumsum(risks) - risks
    harmonic = digamma(after + 1.0) - digamma(before + 1.0)
    sums = (earlier - before * risks / counts) * harmonic + risks
    return float(sums.sum() / after[-1])
