"""What a scan's own intensities say about the classes, beside the network.

A network of limited size and resolution draws boundaries less exactly than the scan
shows them. So the intensities of the scan itself count, too: from where the network is
nearly sure, one learns what each class looks like in this very scan, and each voxel's
intensity then speaks for or against the classes that the network holds possible there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

N_BINS = 96
"""Bins of a histogram, from the 0.5th to the 99.5th percentile."""

_SMOOTHING_BINS = 2.0
_N_ROUNDS = 3
SURE = 0.999
"""Voxels that are background beyond this probability show no class."""

_LEAST_DENSITY = 1e-5
# Probabilities are counted in whole units, so that sums do not depend on their order,
# and so not on how the volume was cut.
_UNITS = 2**14
_CHUNK = 2**18
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Likelihood:
    """How much the intensity of a voxel speaks for each class.

    low, high: intensities of the first and of the last bin.
    table: (N_BINS, C) float32, summands of the classes' logits: weight times the
        logarithm of the density of the intensities of a class over that of all
        classes. That of the background is 0.
    """

    low: float
    high: float
    table: Tensor

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return replace(self, table=self.table.to(device))

    def __call__(self, intensities: Tensor) -> Tensor:
        """Summands of the logits (C, ...) of voxels of intensities (...)."""
        bins = _bins(intensities.float(), self.low, self.high)
        # Along the last axis, so that what is chosen lies as the logits do.
        table = self.table.t().contiguous()
        return table.index_select(1, bins.flatten()).unflatten(1, bins.shape)


class Histograms:
    """Collects what a network says of a scan, and fits what its classes look like.

    Args:
        image: intensities of the prepared scan, (I, J, K).
        shared: (C,) for each class the number of its histogram; classes of the same
            number share one. The background, class 0, has a number of its own, 0.
        device: where it is counted, so that logits need not leave a GPU.
    """

    def __init__(
        self,
        image: np.ndarray,
        shared: Sequence[int],
        device: torch.device = _CPU,
    ) -> None:
        self._image = torch.from_numpy(image).to(device)
        self._shared = list(shared)
        self._intensities: list[Tensor] = []
        self._shares: list[Tensor] = []

    def keep(
        self, draw: int, where: tuple[slice, slice, slice], logits: Tensor
    ) -> None:
        """Take the logits (C, i, j, k) of a part of the scan; called for every part.

        Args:
            draw: number of the draw; those of several count alike.
            where: where the part lies.
            logits: logits, float32.
        """
        is_constant = not any(logits.stride()[1:])
        if is_constant and torch.softmax(logits[:, 0, 0, 0], 0)[0] >= SURE:
            # Of the field around the scan's content one voxel tells all.
            return
        probabilities = torch.softmax(logits.to(self._image.device), 0)
        inside = probabilities[0] < SURE
        at = inside.flatten().nonzero()[:, 0]
        rows = probabilities.flatten(1).index_select(1, at)
        shares = rows.new_zeros(max(self._shared) + 1, rows.shape[1])
        # In turn, since a GPU adds up the rows of an index in any order.
        for number, row in zip(self._shared, rows, strict=True):
            shares[number] += row
        self._shares.append((shares * _UNITS).round().to(torch.int16))
        self._intensities.append(self._image[where][inside])

    def fit(self, weight: float) -> Likelihood | None:
        """What the classes look like in this scan.

        Expectation and maximisation in turn: each voxel counts in the histograms of the
        classes by its probabilities, and these follow from the network's and from the
        histograms of the turn before. The background of a head is many things, so it
        has no histogram of its own: its density is that of all other classes together,
        and an intensity hardly moves a voxel from or to the background.

        Args:
            weight: weight of the intensities beside the network, in (0, 1]: the power
                of the densities. Neighbouring voxels are alike, so that each of them
                tells less than its full weight.

        Returns:
            The likelihood; None where the network sees no class, or all that it sees
            has one intensity.

        Sources: Wells et al., "Adaptive segmentation of MRI data", IEEE TMI 15 (1996);
        Van Leemput et al., "Automated model-based tissue classification of MR images of
        the brain", IEEE TMI 18 (1999); Puonti et al., "Fast and sequence-adaptive
        whole-brain segmentation using parametric Bayesian modeling", NeuroImage 143
        (2016).
        """
        intensities = torch.cat(self._intensities)
        if not len(intensities):
            return None
        low, high = np.percentile(intensities.cpu().numpy(), (0.5, 99.5)).tolist()
        if not low < high:
            return None
        bins = _bins(intensities, low, high)
        shares = torch.cat(self._shares, 1)
        ratio = torch.ones(
            len(shares), N_BINS, dtype=torch.float64, device=shares.device
        )
        for _ in range(_N_ROUNDS):
            counts = torch.zeros_like(ratio)
            for start in range(0, len(bins), _CHUNK):
                part = slice(start, start + _CHUNK)
                posterior = shares[:, part] * (ratio**weight)[:, bins[part]]
                posterior /= posterior.sum(0).clamp_min(torch.finfo().tiny)
                # Whole numbers, of which floating point makes exact sums.
                posterior = (posterior * _UNITS).round()
                counts.index_add_(1, bins[part], posterior)
            ratio = _ratio(counts.cpu().numpy()).to(counts.device)
        table = weight * ratio.log()[self._shared]
        return Likelihood(low, high, table.t().float().contiguous().cpu())


def _ratio(counts: np.ndarray) -> Tensor:
    """Density of each histogram (G, N_BINS) over that of all but the background."""
    smooth = ndimage.gaussian_filter1d(counts, _SMOOTHING_BINS, axis=1, mode="nearest")
    together = smooth[1:].sum(0)
    together = np.maximum(together / max(together.sum(), 1.0), _LEAST_DENSITY)
    # One more voxel, that looks like all others together: a class of which nothing is
    # seen looks like these.
    smooth += _UNITS * together
    density = smooth / smooth.sum(1, keepdims=True)
    ratio = np.maximum(density, _LEAST_DENSITY) / together
    ratio[0] = 1.0
    return torch.from_numpy(ratio)


def _bins(intensities: Tensor, low: float, high: float) -> Tensor:
    """The bin of each intensity; those beyond the ends are in the outermost bins."""
    place = (intensities - low) * ((N_BINS - 1) / (high - low))
    return place.round().clamp(0, N_BINS - 1).long()
