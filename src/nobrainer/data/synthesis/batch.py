"""A batch of images from label maps: the steps in their order, and normalisation."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nobrainer.data.augment import bias_field
from nobrainer.data.synthesis.anatomy import Anatomy
from nobrainer.data.synthesis.deformation import draw_origins, draw_places, look_up
from nobrainer.data.synthesis.draws import Draws, surely_none
from nobrainer.data.synthesis.field_of_view import draw_kept
from nobrainer.data.synthesis.intensities import (
    Look,
    draw_look,
    draw_signal,
    read_table,
)
from nobrainer.data.synthesis.scanner import acquire, add_noise, bend
from nobrainer.recipe import Synthesis
from nobrainer.types import Shape3

_HEAD_SIDE = 64
"""Voxels along the shortest axis of the lattice on which a head is measured."""
_THRESHOLD_STEPS = 16
"""The most steps of the intermeans threshold; a GPU, which is not asked whether it has
settled, takes all of them."""


class Draw(NamedTuple):
    """A batch of images and their labels.

    image: intensities from 0 up, float32 (B, 1, I, J, K).
    label: classes, int64 (B, I, J, K).
    mean, spread: mean and standard deviation of the image of each whole head, (B,).
    voxel_mm: voxel size in mm of the scan that each image imitates along each axis,
        (B, 3); nowhere below that of the grid.
    """

    image: Tensor
    label: Tensor
    mean: Tensor
    spread: Tensor
    voxel_mm: Tensor

    @property
    def normalised(self) -> Tensor:
        """The images as "zscore" normalises scans: the head has mean 0 and sd 1."""
        mean, spread = (x[:, None, None, None, None] for x in (self.mean, self.spread))
        return (self.image - mean) / spread


def synthesise(
    maps: Tensor,
    anatomy: Anatomy,
    synthesis: Synthesis,
    seeds: Sequence[int],
    *,
    spacing_mm: Sequence[float],
    block_shape: Shape3 | None = None,
    which: Tensor | None = None,
    origins: Tensor | None = None,
) -> Draw:
    """Make a batch of images, each a function of its map, its place and its seed.

    Args:
        maps: positions in `anatomy` of the label values, (N, X, Y, Z), of any integer
            type, with axes in RAS order.
        anatomy: what the label values stand for.
        synthesis: the ranges that are drawn from.
        seeds: seed of each of the B images, 0 to 2**63 - 1. The same seed gives another
            image on another kind of device.
        spacing_mm: voxel size of the maps and of the images along each axis.
        block_shape: voxels of an image along each axis; None takes those of the maps.
        which: number of the map of each image, integers (B,); None takes the maps in
            turn.
        origins: first voxel of each image in its map, (B, 3); None draws it among the
            places where the image lies inside the map, as far as it fits, and then
            shifts it by up to `synthesis.translation_mm`.

    Returns:
        Images and labels on the device of the maps.

    >>> labels = torch.zeros(8, 8, 8, dtype=torch.int64)
    >>> labels[2:6, 2:6, 2:6] = 2  # white matter of the left side
    >>> anatomy = Anatomy.of([0, 2], classes={2: 1})
    >>> maps = torch.from_numpy(anatomy.positions(labels.numpy()))[None]
    >>> made = synthesise(maps, anatomy, Synthesis(), [0, 1], spacing_mm=(1, 1, 1))
    >>> made.image.shape, made.label.shape
    (torch.Size([2, 1, 8, 8, 8]), torch.Size([2, 8, 8, 8]))
    """
    block = block_shape or (maps.shape[1], maps.shape[2], maps.shape[3])
    draws = Draws(seeds, maps.device)
    if which is None:
        which = torch.arange(len(seeds), device=maps.device) % len(maps)
    if origins is None:
        origins = draw_origins(synthesis, draws, maps.shape[1:], block, spacing_mm)
    look = draw_look(anatomy, synthesis, draws)
    places = draw_places(synthesis, draws, block, spacing_mm, look.flipped)
    found = look_up(maps, which, places, origins)
    signal = draw_signal(look, found, synthesis, draws)
    if synthesis.bias:
        largest = draws.between(0, synthesis.bias, 1, 1, 1)
        signal = signal * bias_field(largest * draws.between(-1, 1, 4, 4, 4), block)
    signal, voxel_mm = acquire(signal, look.noise, synthesis, draws, spacing_mm)
    signal = bend(signal, look.gamma, synthesis)
    label = read_table(look.classes, found)
    if synthesis.strip or synthesis.crop:
        keep = draw_kept(look, found, synthesis, draws, spacing_mm)
        if keep is not None:
            signal, label = signal * keep, label * keep
    mean, spread = _measure_head(look, maps, which, synthesis, draws)
    return Draw(signal[:, None], label, mean, spread, voxel_mm)


def _measure_head(
    look: Look, maps: Tensor, which: Tensor, synthesis: Synthesis, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the intensities in each whole head, (B,) each.

    A scan is normalised as a whole, so the block does not matter here. The figures are
    those of a sparse lattice of the map's voxels, which get the drawn signals, texture,
    noise and gamma, and lose what stripping the skull takes away. Deformation, bias
    field and blur are left out.
    """
    stride = max(1, min(maps.shape[1:]) // _HEAD_SIDE)
    found = maps[:, ::stride, ::stride, ::stride][which].long()
    signal = draw_signal(look, found, synthesis, draws)
    if synthesis.noise:
        signal = add_noise(signal, look.noise, draws)
    signal = bend(signal, look.gamma, synthesis)
    if not surely_none(look.is_stripped):
        bare = look.is_stripped.view(-1, 1, 1, 1) & ~read_table(look.is_brain, found)
        signal = signal * ~bare
    signal = signal.flatten(2)
    n_voxels, whole = signal[0].numel(), _total(signal)
    threshold, above = whole / n_voxels, torch.empty_like(signal)
    for _ in range(_THRESHOLD_STEPS):
        # As numbers, which a processor compares, multiplies and counts in one go.
        torch.gt(signal, threshold, out=above)
        n, total = _total(above), _total(signal * above)
        before, n_rest = threshold, n_voxels - n
        rest = (whole - total) / n_rest.clamp_min(1)
        threshold = (total / n.clamp_min(1) + rest) / 2
        if surely_none(threshold != before):
            break
    # All voxels of a constant image count as head.
    torch.gt(signal, threshold, out=above)
    above = above.maximum(signal == signal.amax((1, 2), keepdim=True))
    n = _total(above)
    mean = _total(signal * above) / n
    spread = (_total((signal - mean) ** 2 * above) / n).sqrt()
    return mean.flatten(), torch.where(spread > 0, spread, 1.0).flatten()


def _total(x: Tensor) -> Tensor:
    """Sums over the voxels of images (B, I, J), (B, 1, 1).

    Each plane is summed by one thread, so that they do not depend on how many there
    are: an image is the same in this process and in one of several beside it.
    """
    return x.sum(2, keepdim=True).sum(1, keepdim=True)
