"""A batch of images from label maps: the steps in their order."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nobrainer.data.augment import bias_field
from nobrainer.data.synthesis.anatomy import Anatomy
from nobrainer.data.synthesis.deformation import draw_origins, draw_places, look_up
from nobrainer.data.synthesis.draws import Draws
from nobrainer.data.synthesis.field_of_view import draw_kept
from nobrainer.data.synthesis.intensities import draw_look, draw_signal, read_table
from nobrainer.data.synthesis.normalisation import count_values, measure_head
from nobrainer.data.synthesis.scanner import acquire, bend
from nobrainer.recipe import Synthesis
from nobrainer.types import Shape3


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
        return (self.image - mean).div_(spread)


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
    counts: Tensor | None = None,
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
        counts: what `count_values` finds in the maps, (N, values); None counts anew.

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
        signal.mul_(bias_field(largest * draws.between(-1, 1, 4, 4, 4), block))
    signal, voxel_mm = acquire(signal, look.noise, synthesis, draws, spacing_mm)
    signal = bend(signal, look.gamma, synthesis)
    label = read_table(look.classes, found)
    if synthesis.strip or synthesis.crop:
        keep = draw_kept(look, found, synthesis, draws, spacing_mm)
        if keep is not None:
            signal, label = signal.mul_(keep), label.mul_(keep)
    if counts is None:
        counts = count_values(maps, len(anatomy.values))
    mean, spread = measure_head(look, counts[which], synthesis)
    return Draw(signal[:, None], label, mean, spread, voxel_mm)
