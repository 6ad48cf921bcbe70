"""The losses of a training, watched without waiting for a GPU at every step."""

import math

import torch
from torch import Tensor

from nobrainer.bayes.transfer import is_remote
from nobrainer.errors import DivergedError

LOOK_S = 1.0
"""Seconds between two looks at a GPU's figures: the processor waits for each."""


class Watch:
    """Raises where a loss is not finite.

    On a CPU every loss is looked at before its gradient is taken. A GPU computes while
    the processor prepares the next steps, so its losses are looked at about once a
    second, and by `look` before the weights are kept.

    is_waiting: whether the processor waited for the loss that was added last, so that
        further figures cost nothing.
    """

    def __init__(self) -> None:
        self.is_waiting = True
        self._unseen: list[tuple[Tensor, str]] = []
        self._looked_s = -math.inf

    def add(self, loss: Tensor, batch: str, seconds: float) -> None:
        """Add the loss of a batch.

        Args:
            loss: a scalar without a gradient, the same in all processes.
            batch: which batch it is, in words.
            seconds: time since the epoch began, the same in all processes, which must
                raise at the same batch.

        Raises: DivergedError where a loss is not finite.
        """
        self._unseen.append((loss, batch))
        is_due = not 0 <= seconds - self._looked_s < LOOK_S
        self.is_waiting = is_due or not is_remote(loss.device)
        if self.is_waiting:
            self._looked_s = seconds
            self.look()

    def look(self) -> None:
        """Look at the losses that were added since the last time.

        Raises: DivergedError where one of them is not finite.
        """
        unseen, self._unseen = self._unseen, []
        if not unseen:
            return
        values = torch.stack([loss.reshape(()) for loss, _ in unseen]).tolist()
        for value, (_, batch) in zip(values, unseen, strict=True):
            if not math.isfinite(value):
                raise DivergedError(
                    f"the loss is {value} in {batch}: give a lower learning rate or "
                    "gradient_clip, and look at these files"
                )
