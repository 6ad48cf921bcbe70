"""The figures of an epoch, summed over its batches."""

import json
from typing import Self

import torch
from torch import Tensor

from nobrainer.bayes.transfer import is_remote
from nobrainer.training.objective import Loss

_LOSSES = ("total", "data", "kl")


class Tally:
    """Sums over the batches of an epoch, on the device of the batches.

    steps: number of batches so far.
    patches: number of patches in them.
    seconds: time that they took, as of the last batch.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.patches = 0
        self.seconds = 0.0
        self._losses: dict[str, float | Tensor] = dict.fromkeys(_LOSSES, 0.0)
        self._pairs: Tensor | None = None

    def to_json(self) -> str:
        """The tally as a text that `from_json` reads."""
        pairs = None if self._pairs is None else self._pairs.tolist()
        losses = {name: float(value) for name, value in self._losses.items()}
        figures = (self.steps, self.patches, self.seconds, losses, pairs)
        return json.dumps(figures)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The tally in a text that `to_json` wrote."""
        tally = cls()
        tally.steps, tally.patches, tally.seconds, losses, pairs = json.loads(text)
        tally._losses = {name: float(losses[name]) for name in _LOSSES}
        tally._pairs = None if pairs is None else torch.tensor(pairs)
        return tally

    def add(self, loss: Loss, label: Tensor) -> None:
        """Add a batch, without waiting for a GPU.

        Args:
            loss: its loss, with the logits (B, C, I, J, K); those of two classes may
                have the foreground's channel alone.
            label: its labels, as numbers of the classes (B, I, J, K) or (B, 1, I, J,
                K), or a channel for each class (B, C, I, J, K).
        """
        self.patches += len(label)
        self.steps += 1
        for name in _LOSSES:
            self._losses[name] = self._losses[name] + _detached(loss, name)
        logits = loss.logits.detach()
        if label.ndim == logits.ndim:
            label = label[:, 0] if label.shape[1] == 1 else label.max(1).indices
        if logits.shape[1] == 1:
            logits = torch.cat((torch.zeros_like(logits), logits), 1)
        n_classes = logits.shape[1]
        # Rows: label, columns: prediction.
        pairs = label.long() * n_classes + logits.max(1).indices
        counts = _count(pairs.flatten(), n_classes**2).reshape(n_classes, n_classes)
        if self._pairs is not None:
            counts += self._pairs.to(counts.device)
        self._pairs = counts

    def mean(self, name: str) -> float:
        """Mean over the batches of a part of the loss: "total", "data" or "kl"."""
        return float(self._losses[name]) / max(1, self.steps)

    def dice(self) -> float:
        """Mean Dice of the foreground classes that occur, pooled over patches."""
        if self._pairs is None:
            return 0.0
        sizes = self._pairs.sum(0) + self._pairs.sum(1)
        scores = 2 * self._pairs.diagonal() / sizes
        found = scores[1:][sizes[1:] > 0]
        return float(found.mean()) if len(found) else 0.0


def _detached(loss: Loss, name: str) -> Tensor:
    """A part of a loss, float64."""
    part: Tensor = getattr(loss, name)
    return part.detach().double()


def _count(numbers: Tensor, n: int) -> Tensor:
    """How often each number from 0 to n - 1 occurs, (n,), int64."""
    if not is_remote(numbers.device):
        return torch.bincount(numbers, minlength=n)
    # `bincount` would wait for the largest number. float64 counts up to 2⁵³.
    return torch.histc(numbers.double(), n, 0, n).long()
