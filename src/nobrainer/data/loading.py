"""Batches of patches, which a training asks for one after the other."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader

_AT_ONCE = 2**19
"""Voxels of the patches that are cut at once where a batch of them is smaller."""


class PatchLoader(DataLoader[dict[str, Any]]):
    """Batches of patches; small ones that this process cuts are cut several at once.

    After a step of training a processor's caches hold nothing that cutting needs, so
    that a small patch takes nearly twice the time of another one directly after it.
    """

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """The batches, in their order."""
        batches = super().__iter__()
        # A GPU works on while the next batch is cut, but not for as long as several.
        if self.num_workers or self.pin_memory:
            return batches
        return _several_at_once(batches)


def _several_at_once(batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same batches, of which some are made before they are asked for."""
    for first in islice(batches, 1):
        yield first
        n = max(1, _AT_ONCE // first["image"].numel())
        while several := [*islice(batches, n)]:
            yield from several
