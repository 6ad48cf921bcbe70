"""Several networks of one task, whose disagreement is part of the uncertainty."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from nobrainer.types import Images, Logits


class EnsembleNetwork(nn.Module):
    """A mixture of networks: its probabilities are the mean of theirs.

    The members are trained one by one, each with an objective of its own: the
    ensemble carries no `kl_weight`, even where its members do.

    Args:
        members: networks of the registry with the same channels and classes. Their
            `stride`, `halo` and `width` may differ.

    Input (B, in_channels, I, J, K) with I, J, K multiples of `stride`; output
    logits (B, n_classes, I, J, K), the logarithms of the mean probabilities.
    Source: Lakshminarayanan, Pritzel, Blundell 2017, section 2.4.
    """

    stride: int
    halo: int | None
    width: int

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        strides = [int(m.stride) for m in self.members]  # type: ignore[arg-type]
        halos = [m.halo for m in self.members]
        self.stride = math.lcm(*strides)
        self.halo = None
        if None not in halos:
            # Cores start on the common grid. Windows must too, so that the pooling of
            # every member joins the same voxels as in the whole volume.
            reach = max(int(h) for h in halos)  # type: ignore[arg-type]
            self.halo = -(-reach // self.stride) * self.stride
        self.width = max(int(m.width) for m in self.members)  # type: ignore[arg-type]

    def forward(self, x: Images) -> Logits:
        """Logarithms of the members' mean probabilities.

        Args:
            x: images (B, in_channels, I, J, K).

        Returns: logits (B, n_classes, I, J, K).
        """
        logs = torch.stack([member(x).log_softmax(1) for member in self.members])
        return logs.logsumexp(0) - math.log(len(self.members))
