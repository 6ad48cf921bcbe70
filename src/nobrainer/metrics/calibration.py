"""Whether probabilities mean what they say: sums that add up over tiles."""

import numpy as np

PROBABILITY_FLOOR = 1e-12
"""Probabilities below it count as it in `nll`, which so stays below 27.64 nats."""


class CalibrationSums:
    """Negative log-likelihood, Brier score and calibration error, tile by tile.

    Args:
        n_bins: bins of equal width that [0, 1] is cut into for `ece`.

    Sources: Brier 1950 for the Brier score; Naeini et al. 2015 and Guo et al. 2017
    for the expected calibration error.
    """

    def __init__(self, n_bins: int = 15) -> None:
        self.n_voxels = 0
        self._log_loss = 0.0
        self._squared_error = 0.0
        # Of the voxels in each bin: winning probability minus whether it was right.
        self._excess = np.zeros(n_bins)

    def update(
        self,
        probabilities: np.ndarray,
        truth: np.ndarray,
        mask: np.ndarray | None = None,
    ) -> None:
        """Take some voxels.

        Args:
            probabilities: (C, ...) of each class, summing to 1 over classes.
            truth: (...) true classes.
            mask: (...) booleans, which voxels count; None takes all.
        """
        if mask is not None:
            probabilities, truth = probabilities[:, mask], truth[mask]
        probabilities = probabilities.reshape(len(probabilities), -1)
        truth = truth.reshape(1, -1)
        of_truth = np.take_along_axis(probabilities, truth.astype(np.int64), axis=0)
        squares = (probabilities**2).sum(0, dtype=np.float64)
        log = np.log(np.maximum(of_truth, PROBABILITY_FLOOR, dtype=np.float64))
        self.n_voxels += truth.size
        self._log_loss -= log.sum()
        # Σ (p - y)² over classes, for y = 1 in the true class and 0 elsewhere.
        self._squared_error += (squares - 2.0 * of_truth + 1.0).sum()
        n_bins = len(self._excess)
        winning = probabilities.max(0)
        bins = np.minimum((winning * n_bins).astype(np.int64), n_bins - 1)
        excess = winning - (probabilities.argmax(0) == truth[0])
        self._excess += np.bincount(bins, weights=excess, minlength=n_bins)

    @property
    def nll(self) -> float:
        """Mean of -ln(probability of the true class), nats; NaN without voxels."""
        return self._mean(self._log_loss)

    @property
    def brier(self) -> float:
        """Squared error summed over classes, mean over voxels; in [0, 2] or NaN."""
        return self._mean(self._squared_error)

    @property
    def ece(self) -> float:
        """Expected calibration error of the winning class; in [0, 1] or NaN.

        The gap between mean winning probability and accuracy in each bin, weighted
        by the bin's share of voxels.
        """
        return self._mean(np.abs(self._excess).sum())

    def _mean(self, total: float) -> float:
        return float(total / self.n_voxels) if self.n_voxels else float("nan")
