"""Whether probabilities and intervals mean what they say, from sums over tiles."""

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

PROBABILITY_FLOOR = 1e-12
"""Least probability in `nll`, which is therefore at most 27.64 nats."""

# Fine bins of a probability, of which `ace` makes ranges of equal mass: the exponent
# and the first 7 bits of the fraction of a float32, from 2⁻²⁰ (less counts as bin 0)
# to 1. A bin's width is 1/128 of its probabilities or less.
_SHIFT = 16
_FIRST = int(np.float32(2**-20).view(np.int32)) >> _SHIFT
_N_FINE = (int(np.float32(1).view(np.int32)) >> _SHIFT) - _FIRST + 1


@dataclass(frozen=True)
class Reliability:
    """A reliability curve: one point for each bin of confidence that holds voxels.

    confidence: mean probability of the winning class in each bin, in [0, 1], rising.
    accuracy: share of the bin's voxels on which that class is right, in [0, 1].
    count: number of voxels in each bin.

    Source: DeGroot and Fienberg 1983; Niculescu-Mizil and Caruana 2005.
    """

    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    count: tuple[int, ...]


@dataclass(frozen=True)
class Coverage:
    """How often intervals hold the truth.

    share: share of the intervals that hold the truth, in [0, 1]; NaN without intervals.
    low, high: 95 % confidence interval of the share (Wilson 1927); NaN likewise.
    n: number of intervals.
    """

    share: float
    low: float
    high: float
    n: int


class CalibrationSums:
    """Negative log-likelihood, Brier score and calibration errors, tile by tile.

    Args:
        n_bins: number of bins: of equal width over [0, 1] for `ece`, `mce` and
            `reliability`, and of equally many voxels for `ace`.

    Sources: Brier 1950 for the Brier score; Naeini et al. 2015 and Guo et al. 2017
    for the expected and the maximum calibration error; Nixon et al. 2019, equation 3,
    for the adaptive calibration error.
    """

    def __init__(self, n_bins: int = 15) -> None:
        self.n_voxels = 0
        self._log_loss = 0.0
        self._squared_error = 0.0
        # For each bin: number of voxels, sum of winning probabilities, number right.
        self._bins = np.zeros((3, n_bins))
        # For each class (one row until their number is known) and fine bin: number of
        # voxels, and sum of the probability minus 1 where the class is the true one.
        self._fine = np.zeros((2, 1, _N_FINE))

    def update(
        self,
        probabilities: np.ndarray,
        truth: np.ndarray,
        mask: np.ndarray | None = None,
    ) -> None:
        """Add some voxels.

        Args:
            probabilities: (C, ...) probability of each class, with the sum 1.
            truth: (...) true classes.
            mask: (...) booleans, True where a voxel counts; None counts all.
        """
        if mask is not None:
            probabilities, truth = probabilities[:, mask], truth[mask]
        if not truth.size:
            return
        probabilities = probabilities.reshape(len(probabilities), -1)
        truth = truth.reshape(1, -1).astype(np.int64)
        of_truth = np.take_along_axis(probabilities, truth, axis=0)
        squares = np.einsum("cn,cn->n", probabilities, probabilities)
        log = np.log(np.maximum(of_truth, PROBABILITY_FLOOR, dtype=np.float64))
        self.n_voxels += truth.size
        self._log_loss -= log.sum()
        # Σ (p - y)² over classes, for y = 1 in the true class and 0 elsewhere.
        self._squared_error += (squares - 2.0 * of_truth + 1.0).sum(dtype=np.float64)
        n_bins = self._bins.shape[1]
        winning = probabilities.max(0)
        bins = np.minimum((winning * n_bins).astype(np.int64), n_bins - 1)
        # `argmax` is slow, and needed for ties only: of two classes with half each.
        right = of_truth[0] == winning
        unsure = np.flatnonzero(winning < 0.501)
        right[unsure] = probabilities[:, unsure].argmax(0) == truth[0, unsure]
        for row, weights in enumerate((None, winning, right)):
            self._bins[row] += np.bincount(bins, weights, n_bins)
        self._fine = self._fine + _count_fine(probabilities, of_truth, truth)

    def merge(self, other: "CalibrationSums") -> None:
        """Add the voxels of other sums, which have as many bins and classes."""
        self.n_voxels += other.n_voxels
        self._log_loss += other._log_loss
        self._squared_error += other._squared_error
        self._bins += other._bins
        self._fine = self._fine + other._fine

    @property
    def nll(self) -> float:
        """Mean of -ln(probability of the true class) in nats; NaN without voxels."""
        return self._mean(self._log_loss)

    @property
    def brier(self) -> float:
        """Squared error summed over classes, mean over voxels; in [0, 2], or NaN."""
        return self._mean(self._squared_error)

    @property
    def ece(self) -> float:
        """Expected calibration error of the winning class; in [0, 1] or NaN.

        The gap between mean winning probability and accuracy in each bin, weighted
        by the bin's share of voxels.
        """
        return self._mean(np.abs(self._bins[1] - self._bins[2]).sum())

    @property
    def mce(self) -> float:
        """Maximum calibration error of the winning class; in [0, 1] or NaN.

        The largest gap of any bin that holds voxels, however few they are.
        """
        if not self.n_voxels:
            return float("nan")
        count, confidence, right = self._bins[:, self._bins[0] > 0]
        return float(np.max(np.abs(confidence - right) / count))

    @property
    def ace(self) -> float:
        """Adaptive calibration error over all classes; in [0, 1] or NaN.

        For each class the voxels are ordered by its probability and cut into `n_bins`
        ranges with equally many voxels. The error is the gap between mean probability
        and the class's share of the voxels, averaged over ranges and classes. Rare
        classes have gaps near 0 and count as much as others, so models with different
        numbers of classes cannot be compared.

        The voxels are ordered by a histogram. Within one bin the probabilities differ
        by less than 1 % of their size or are below 10⁻⁶; its voxels count as equal, and
        are shared out among the ranges that the bin reaches into.
        """
        edges = np.linspace(0, self.n_voxels, self._bins.shape[1] + 1)
        gaps = 0.0
        for counts, excess in self._fine.cumsum(-1).swapaxes(0, 1):
            at_edges = np.interp(edges, np.append(0, counts), np.append(0, excess))
            gaps += np.abs(np.diff(at_edges)).sum()
        return self._mean(gaps / self._fine.shape[1])

    @property
    def reliability(self) -> Reliability:
        """Mean winning probability and accuracy of each bin that holds voxels."""
        count, confidence, right = self._bins[:, self._bins[0] > 0]
        return Reliability(
            confidence=tuple((confidence / count).tolist()),
            accuracy=tuple((right / count).tolist()),
            count=tuple(count.astype(int).tolist()),
        )

    def _mean(self, total: float) -> float:
        return float(total / self.n_voxels) if self.n_voxels else float("nan")


def _count_fine(
    probabilities: np.ndarray, of_truth: np.ndarray, truth: np.ndarray
) -> np.ndarray:
    """The sums that `CalibrationSums._fine` keeps, for some voxels.

    Args:
        probabilities: (C, n) probability of each class.
        of_truth: (1, n) probability of the true class.
        truth: (1, n) true class.
    """
    n_classes = len(probabilities)
    counts, excess = np.zeros((2, n_classes, _N_FINE))
    for index, probability in enumerate(probabilities):
        bins = _fine_bins(probability)
        counts[index] = np.bincount(bins, minlength=_N_FINE)
        excess[index] = np.bincount(bins, probability, _N_FINE)
    hits = truth[0] * _N_FINE + _fine_bins(of_truth[0])
    excess -= np.bincount(hits, minlength=excess.size).reshape(excess.shape)
    return np.stack([counts, excess])


def _fine_bins(probability: np.ndarray) -> np.ndarray:
    # Floats that are not negative are in the order of their bits, read as integers.
    bits = probability.astype(np.float32, copy=False).view(np.int32)
    return np.clip((bits >> _SHIFT) - _FIRST, 0, _N_FINE - 1)


def interval_coverage(truth: ArrayLike, low: ArrayLike, high: ArrayLike) -> Coverage:
    """Count how often [low, high] holds the truth.

    The confidence interval assumes independent cases. Structures of one subject are
    not; one structure of several subjects is.

    Args:
        truth: true value of each case; a case with a NaN in any array does not count.
        low, high: lower and upper end of each case's interval, of the same shape.

    Returns:
        The share of cases with low <= truth <= high, with its interval.

    Source: Wilson 1927 for the interval.
    """
    truth, low, high = np.asarray(truth), np.asarray(low), np.asarray(high)
    known = ~np.isnan(truth + low + high)
    inside = int(((low <= truth) & (truth <= high))[known].sum())
    n = int(known.sum())
    if n == 0:
        return Coverage(float("nan"), float("nan"), float("nan"), 0)
    wilson = scipy.stats.binomtest(inside, n).proportion_ci(0.95, method="wilson")
    return Coverage(inside / n, float(wilson.low), float(wilson.high), n)
