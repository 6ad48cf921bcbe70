"""Running statistics over draws: memory does not grow with their number."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nobrainer.bayes.transfer import is_remote
from nobrainer.inference.logits import LOGITS, LastSteps, columns_of

MOST_DRAWS = 32767
"""Most draws of one prediction, because votes are counted in two bytes."""
_FEW_DRAWS = 255
"""Most draws whose votes are counted in one byte."""
_CHUNK = 2**18
"""Numbers that a CPU works on at a time, so that they stay in its cache."""
_BITS_PER_NAT = 1 / math.log(2)


def statistics_bytes(n_classes: int) -> int:
    """Bytes that `RunningMoments` keeps a voxel: means, votes, spread and entropy.

    More than 255 draws take one more for each class.
    """
    return (4 + 1) * n_classes + 4 + 4


class Statistics(NamedTuple):
    """Statistics of some draws, for each voxel (I, J, K).

    label: most frequent label of the draws; ties go to the class of higher mean
        probability.
    variance: population variance of the class probabilities across draws, mean
        over classes; in [0, 0.25].
    entropy: Shannon entropy of the mean distribution, nats; in [0, ln C].
    mutual_information: entropy minus the draws' mean entropy, nats; in [0, ln C].
    probabilities: (C, I, J, K) mean class probabilities.
    votes: (C, I, J, K) how many draws chose each class; uint8, or int16 where there are
        more than 255.
    """

    label: Tensor
    variance: Tensor
    entropy: Tensor
    mutual_information: Tensor
    probabilities: Tensor
    votes: Tensor


class RunningMoments:
    """Mean, spread, entropy and votes of class probabilities, updated draw by draw.

    The variance is summed over classes on the way, so one number per voxel is kept. All
    stays on the device of the draws, which nothing here waits for.

    counts: number of voxels of each class in the draw added last, (C,), int64.

    Source: Welford 1962 for the variance; Houlsby et al. 2011 for the mutual
    information.
    """

    counts: Tensor
    _mean: Tensor
    _squares: Tensor
    _entropy: Tensor
    _votes: Tensor
    _label: Tensor

    def __init__(self) -> None:
        self._n = 0

    def update(self, seen: Tensor, last: LastSteps = LOGITS) -> Tensor:
        """Add one draw.

        Args:
            seen: (C, I, J, K) logits of the draw; or (F, I, J, K), what its last layer
                sees.
            last: makes logits of it.

        Returns:
            The labels of the draw, (I, J, K), valid until the next is added.
        """
        n_classes, shape = last.n_classes(seen), seen.shape[1:]
        if self._n == 0:
            self._begin(n_classes, shape, seen.device)
        self._n += 1
        if self._n == 2:
            # The votes of one draw are known by its label, which takes less room.
            self._votes = self._one_hot()
        if self._n == _FEW_DRAWS + 1:
            self._votes = self._votes.short()
        columns = columns_of(seen)
        for part in _parts(self._mean):
            p, chosen = self._softmax(last(columns[:, part], part), part)
            self._add(p, part)
            self._vote(chosen, part)
        if not is_remote(seen.device):
            self.counts = torch.bincount(self._label, minlength=n_classes)
        return self._label.reshape(shape)

    def _begin(self, n_classes: int, shape: torch.Size, device: torch.device) -> None:
        """Make room for the sums of so many classes and voxels (I, J, K)."""
        self._shape, n_voxels = shape, math.prod(shape)
        self._mean = torch.empty(n_classes, n_voxels, device=device)
        self._squares = torch.zeros(n_voxels, device=device)
        self._entropy = torch.zeros(n_voxels, device=device)
        self._label = torch.zeros_like(self._entropy, dtype=torch.int16)
        self._rows = torch.arange(n_classes, device=device)[:, None]

    def _softmax(self, logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """A draw's probabilities (C, n) of a part, and the classes they favour, (n,).

        Their entropy is added.

        Args:
            logits: (C, n); they are overwritten.
            part: the part.
        """
        entropy = self._entropy[part]
        if is_remote(logits.device):
            # The fewest passes over the numbers, which do not fit into a cache.
            p, chosen = logits.softmax(0), logits.argmax(0)
            entropy.add_(torch.special.entr(p, out=logits).sum(0))
            return p, chosen
        most, chosen = _largest(logits)
        # In bits, because `exp` was measured four times slower than `exp2`.
        scale = _BITS_PER_NAT
        bits = torch.add(most.mul_(-scale), logits, alpha=scale, out=logits)
        p = torch.exp2(bits)
        total = p.sum(0)
        p *= total.reciprocal()
        entropy.add_(total.log_()).sub_(bits.mul_(p).sum(0), alpha=1 / scale)
        return p, chosen

    def _vote(self, chosen: Tensor, part: slice) -> None:
        """Add a draw's votes (n,), the number of a class each, of a part."""
        if is_remote(chosen.device):
            # Here one part is all voxels, and `bincount` would wait for its result.
            self._label = chosen
            is_chosen = self._one_hot()
            self.counts = is_chosen.sum(1)
            if self._n > 1:
                self._votes += is_chosen
            return
        self._label[part] = chosen
        if self._n > 1:
            votes = self._votes[:, part]
            one = votes.new_ones(1, 1).expand(1, len(chosen))
            votes.scatter_add_(0, chosen[None], one)

    def _one_hot(self) -> Tensor:
        """1 for the class that the draw added last chose, else 0: (C, voxels)."""
        return (self._rows.to(self._label) == self._label).view(torch.uint8)

    def _add(self, p: Tensor, part: slice) -> None:
        """Add a draw's probabilities (C, n) of a part."""
        mean = self._mean[:, part]
        if self._n == 1:
            mean.copy_(p)
            return
        squares = F.mse_loss(p, mean, reduction="none")
        mean.lerp_(p, 1 / self._n)
        self._squares[part].add_(squares.sum(0), alpha=(self._n - 1) / self._n)

    def result(self) -> Statistics:
        """Compute the statistics of the draws so far."""
        n_classes, label, entropy = len(self._mean), self._label, self._entropy
        if self._n == 1:
            votes = self._one_hot()
        else:
            votes = self._votes
            label, entropy = torch.empty_like(label), torch.empty_like(entropy)
            for part in _parts(self._mean):
                mean, given = self._mean[:, part], votes[:, part]
                logarithm = mean.clamp_min(torch.finfo().tiny).log_()
                entropy[part] = -logarithm.mul_(mean).sum(0)
                label[part] = _largest(mean.where(given == given.amax(0), -1.0))[1]
        # Rounding makes some of what is 0 negative.
        information = entropy - self._entropy / self._n
        return Statistics(
            label=label.long().reshape(self._shape),
            variance=(self._squares / (self._n * n_classes)).reshape(self._shape),
            entropy=entropy.clamp_min(0).reshape(self._shape),
            mutual_information=information.clamp_min(0).reshape(self._shape),
            probabilities=self._mean.reshape(n_classes, *self._shape),
            votes=votes.reshape(n_classes, *self._shape),
        )


def _parts(values: Tensor) -> Iterator[slice]:
    """Parts of the voxels of (C, voxels), to be worked on one after the other."""
    n_classes, n = values.shape
    size = n if is_remote(values.device) else _CHUNK // n_classes + 1
    for start in range(0, n, size):
        yield slice(start, start + size)


def _largest(values: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of each column of values (C, n), and its row, the first if several.

    Both are (n,).
    """
    if is_remote(values.device):
        return values.amax(0), values.argmax(0)
    # `max` along an axis was measured 10 times slower than pooling, which goes over
    # columns that lie side by side as it does over channels.
    columns = values[None, :, None].movedim(-1, 1)
    size = len(values), 1
    largest, row = F.max_pool2d(columns, size, return_indices=True)
    return largest.flatten(), row.flatten()
