"""The figures by which an image is normalised: mean and spread of its whole head."""

from functools import lru_cache

import torch
from torch import Tensor

from nobrainer.data.synthesis.draws import surely_none
from nobrainer.data.synthesis.intensities import Look
from nobrainer.data.synthesis.scanner import bend
from nobrainer.recipe import Synthesis

_HEAD_SIDE = 64
"""Voxels along the shortest axis of the lattice on which label values are counted."""
_REAL, _IMAGINARY = 64, 4
"""Intensities of a label value that stand for all of them: steps of the real part of
the signal, and of the size of the imaginary part."""
_THRESHOLD_STEPS = 16
"""The most steps of the intermeans threshold; a GPU, which is not asked whether it has
settled, takes all of them."""


def count_values(maps: Tensor, n_values: int) -> Tensor:
    """How often each label value occurs on a sparse lattice of each map.

    Args:
        maps: positions in `Anatomy.values`, integers (N, X, Y, Z).
        n_values: number of these values.

    Returns:
        Counts, float32 (N, values).
    """
    stride = max(1, min(maps.shape[1:]) // _HEAD_SIDE)
    found = maps[:, ::stride, ::stride, ::stride].flatten(1).long()
    one = torch.ones((), device=maps.device).expand(found.shape)
    counts = torch.zeros(len(maps), n_values, device=maps.device)
    return counts.scatter_add_(1, found, one)


def measure_head(
    look: Look, counts: Tensor, synthesis: Synthesis
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the intensities in each whole head, (B,) each.

    A scan is normalised as a whole, so the block does not matter here. The figures
    follow from how often each label value occurs in the map, and from how its
    intensities are distributed: drawn signal, texture, noise and gamma, and nothing
    where stripping the skull takes it away. Deformation, bias field and blur are left
    out. The intermeans threshold finds the head, as in a scan.

    Args:
        look: what was drawn for the heads.
        counts: how often each label value occurs in the map of each image, (B, values).
        synthesis: the ranges that were drawn from.
    """
    signal = _intensities(look, synthesis)
    weight = counts[..., None].expand(signal.shape)
    # Numbers of intensities, and their sums, are found together.
    parts = torch.stack((weight, weight * signal))
    whole = _total(parts)
    threshold, above = whole[1] / whole[0], torch.empty_like(signal)
    for _ in range(_THRESHOLD_STEPS):
        # As numbers, which a processor compares, multiplies and counts in one go.
        torch.gt(signal, threshold, out=above)
        inside = _total(parts * above)
        before, rest = threshold, whole - inside
        threshold = inside[1] / inside[0].clamp_min(1) + rest[1] / rest[0].clamp_min(1)
        threshold = threshold / 2
        if surely_none(threshold != before):
            break
    # All voxels of a constant image count as head.
    torch.gt(signal, threshold, out=above)
    largest = (signal * (weight > 0)).amax((1, 2), keepdim=True)
    above = above.maximum(signal == largest).mul_(weight)
    n = _total(above)
    mean = _total(signal * above) / n
    spread = (_total((signal - mean).square_().mul_(above)) / n).sqrt_()
    # Rounding alone gives a constant image a spread.
    is_spread = spread > 1e-6 * mean
    return mean.flatten(), torch.where(is_spread, spread, 1.0).flatten()


@lru_cache(maxsize=4)
def _likely(device: torch.device) -> tuple[Tensor, Tensor]:
    """Equally likely normal numbers, and sizes of such numbers, in ascending order."""
    both = []
    for n, low in ((_REAL, 0.0), (_IMAGINARY, 0.5)):
        step = (torch.arange(n, device=device) + 0.5) / n
        numbers = torch.special.ndtri(low + (1 - low) * step)
        # Their tails lack a little of the variance.
        both.append(numbers / numbers.square().mean().sqrt())
    return both[0], both[1]


def _intensities(look: Look, synthesis: Synthesis) -> Tensor:
    """Intensities of each label value that are equally likely, (B, values, n)."""
    means, spreads = look.means[..., None], look.spreads[..., None]
    real, imaginary = _likely(means.device)
    if synthesis.noise:
        noise = look.noise[..., 0]
        # Texture and noise of the real part are one normal number.
        signal = means + torch.hypot(spreads, noise) * real
        signal = torch.hypot(signal[..., None], (noise * imaginary)[:, :, None])
        signal = signal.flatten(2)
    else:
        signal = means + spreads * real
    signal = bend(signal, look.gamma[..., 0], synthesis)
    bare = look.is_stripped[:, None] & ~look.is_brain
    return signal.mul_(~bare[..., None])


def _total(x: Tensor) -> Tensor:
    """Sums over the intensities of images, (..., B, values, n) to (..., B, 1, 1).

    Those of each label value are summed by one thread, so that the sums do not depend
    on how many there are: an image is the same in this process and in one of several
    beside it.
    """
    return x.sum(-1, keepdim=True).sum(-2, keepdim=True)
