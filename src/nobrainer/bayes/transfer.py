"""Numbers on their way to a device with memory of its own, which nobody waits for.

A GPU computes while the processor goes on. A copy to it makes the processor wait,
unless its source lies in pinned memory, and each copy costs a launch. So what a draw
needs goes there in one piece, from pinned memory.
"""

import copy
from itertools import accumulate, chain, pairwise

import torch
from torch import Tensor, nn

_ALIGNMENT = 64
"""Numbers after which a tensor may begin, so that kernels can read it in wide words."""


def is_remote(device: torch.device) -> bool:
    """Whether a device has memory of its own, as a GPU has."""
    return device.type != "cpu"


def send(values: Tensor, target: Tensor) -> None:
    """Copy values on the CPU to a device, without waiting for it.

    Args:
        values: numbers on the CPU; they may change right after.
        target: where they go, of the same shape; its number format is taken.
    """
    values = values.to(target.dtype)
    if target.device.type == "cuda":
        values = values.pin_memory()
    target.copy_(values, non_blocking=True)


class Mirror:
    """A copy of a network on another device, which takes all its numbers in one copy.

    network: the copy.

    Args:
        network: the network on the CPU. Its weights become views of one tensor.
        device: device of the copy.
        dtype: number format of the copy.
    """

    def __init__(
        self, network: nn.Module, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.network = copy.deepcopy(network)
        self.network.to(device=device, dtype=dtype)
        self._here, self._there = _in_one_piece(network), _in_one_piece(self.network)

    def follow(self) -> None:
        """Take over the numbers that the network on the CPU has now."""
        send(self._here, self._there)


def _in_one_piece(network: nn.Module) -> Tensor:
    """Make all weights of a network views of one tensor, which is returned."""
    found = chain(network.parameters(), network.buffers())
    tensors = [values for values in found if values.is_floating_point()]
    sizes = [-(-values.numel() // _ALIGNMENT) * _ALIGNMENT for values in tensors]
    places = list(accumulate(sizes, initial=0))
    like = tensors[0] if tensors else torch.empty(0)
    whole = like.new_zeros(places[-1])
    for values, (place, _) in zip(tensors, pairwise(places), strict=True):
        part = whole.as_strided(values.shape, values.stride(), place)
        part.copy_(values)
        values.data = part
    return whole
