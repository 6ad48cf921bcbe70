"""The shape of a head: rotation, size, shear, a smooth deformation, and left for right.

For each voxel of an image this says from which place in the label map it comes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nobrainer.data.augment import rotation
from nobrainer.data.axes import (
    along_axes,
    blocks,
    centred_places,
    columns,
    count_spline_points,
    linear_weights,
    spline_weights,
)
from nobrainer.data.synthesis.draws import Draws
from nobrainer.recipe import Synthesis
from nobrainer.types import Shape3

_SQUARINGS = 6
_STEPS_PER_LENGTH = 5
"""Points at which the deformation is computed, per control point of the velocity."""


class Places(NamedTuple):
    """From which places of the undeformed head the voxels of a block come.

    Images of a scan's size do not fit a processor's cache, so a few planes at a time
    are brought to the grid of the block.

    lattice: places in voxels, counted from the first voxel of the block, (B, 3, i, J,
        K); along the first axis they are still on the lattice of the deformation.
    weights: the matrix (I, i) that interpolates between the planes of the lattice.
    """

    lattice: Tensor
    weights: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of images, and of voxels along each axis of the block."""
        return len(self.lattice), len(self.weights), *self.lattice.shape[3:]

    def of(self, planes: slice) -> Tensor:
        """The places of some planes along the first axis, (B, 3, planes, J, K)."""
        weights = self.weights[planes]
        near = columns(weights)
        return along_axes(self.lattice[:, :, near], (weights[:, near], None, None))


def draw_origins(
    synthesis: Synthesis,
    draws: Draws,
    map_shape: Sequence[int],
    block: Shape3,
    spacing_mm: Sequence[float],
) -> Tensor:
    """Draw where in their maps blocks begin.

    They lie inside the map as far as they fit, and are then shifted by up to
    `synthesis.translation_mm`.

    Args:
        synthesis: the ranges that are drawn from.
        draws: the random numbers of the batch.
        map_shape: voxels of the maps along each axis.
        block: voxels of a block along each axis.
        spacing_mm: voxel size along each axis.

    Returns:
        The first voxel of each block in its map, (B, 3).
    """
    device = draws.device
    slack = torch.tensor(map_shape, device=device) - torch.tensor(block, device=device)
    inside = draws.between(0, 1, 3) * (slack + slack.sign())
    origins = torch.where(slack < 0, inside.ceil(), inside.floor())
    shift_mm = draws.between(-1, 1, 3) * synthesis.translation_mm
    return origins + shift_mm / torch.tensor(spacing_mm, device=device)


def draw_places(
    synthesis: Synthesis,
    draws: Draws,
    block: Shape3,
    spacing_mm: Sequence[float],
    flipped: Tensor,
) -> Places:
    """Draw from which places of the undeformed head the voxels of a block come.

    The deformation is computed in mm on a coarse lattice around the centre of the
    block, and interpolated linearly between the points of the lattice.

    Args:
        synthesis: the ranges that are drawn from.
        draws: the random numbers of the batch.
        block: voxels of the block along each axis.
        spacing_mm: voxel size along each axis.
        flipped: whether left and right are swapped, booleans (B,).

    Returns:
        Places in voxels, counted from the first voxel of the block.
    """
    device = draws.device
    step_mm = synthesis.warp_length_mm / _STEPS_PER_LENGTH
    extents_mm = [(n - 1) * mm for n, mm in zip(block, spacing_mm, strict=True)]
    # One more point on each side, for what flows in from outside the block.
    counts = [2 * (math.ceil(mm / 2 / step_mm) + 1) + 1 for mm in extents_mm]
    axes = [centred_places(n, step_mm, device) for n in counts]
    x = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    if synthesis.warp_mm:
        x = x + _draw_flow(synthesis, draws, axes)
    x = torch.einsum(
        "bij,bj...->bi...",
        _draw_affine(synthesis, draws),
        x.expand(len(flipped), *x.shape[-4:]),
    )
    mirror = 1 - 2 * flipped.float()
    x = torch.stack((x[:, 0] * mirror[:, None, None, None], x[:, 1], x[:, 2]), 1)
    fine = [
        linear_weights(centred_places(n, mm, device) / step_mm + (m - 1) / 2, m)
        for n, mm, m in zip(block, spacing_mm, counts, strict=True)
    ]
    spacing = torch.tensor(spacing_mm, device=device).view(3, 1, 1, 1)
    middle = (torch.tensor(block, device=device).view(3, 1, 1, 1) - 1) / 2
    columns = along_axes(x / spacing + middle, (None, fine[1], fine[2]))
    return Places(columns, fine[0])


def _draw_affine(synthesis: Synthesis, draws: Draws) -> Tensor:
    """The matrices (B, 3, 3) from places in the block to those in the head."""
    largest = math.radians(synthesis.rotation_deg)
    turn = rotation(draws.between(-largest, largest, 3))
    off_diagonal = 1 - torch.eye(3, device=draws.device)
    shear = draws.between(-1, 1, 3, 3) * synthesis.shear * off_diagonal
    shear = shear + torch.eye(3, device=draws.device)
    size = draws.between(1 - synthesis.scale, 1 + synthesis.scale, 1, 3)
    return turn @ shear / size


def _draw_flow(synthesis: Synthesis, draws: Draws, axes: Sequence[Tensor]) -> Tensor:
    """Displacements in mm of a random diffeomorphism.

    A smooth random velocity is followed for one unit of time by scaling and squaring.

    Args:
        synthesis: the ranges that are drawn from.
        draws: the random numbers of the batch.
        axes: places of the lattice along each axis in mm, (I,), (J,) and (K,).

    Returns:
        (B, 3, I, J, K).

    Source: Arsigny et al., "A log-Euclidean framework for statistics on
    diffeomorphisms", MICCAI 2006 (scaling and squaring).
    """
    length_mm, n_steps = synthesis.warp_length_mm, _STEPS_PER_LENGTH
    splines = [
        spline_weights(axis, count_spline_points(len(axis) / n_steps, 1), length_mm)
        for axis in axes
    ]
    points = draws.normal(3, *(spline.shape[1] for spline in splines))
    largest = draws.between(0, synthesis.warp_mm, 1, 1, 1, 1)
    moved = along_axes(points, splines) * largest / 2**_SQUARINGS
    ends = torch.stack([axis[-1] for axis in axes]).view(3, 1, 1, 1)
    home = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    for _ in range(_SQUARINGS):
        # Coordinates first in memory: along an axis of three all is many times slower.
        grid = ((home + moved) / ends).flip(1).movedim(1, -1)
        moved = moved + F.grid_sample(
            moved, grid, padding_mode="border", align_corners=True
        )
    return moved


def look_up(maps: Tensor, which: Tensor, places: Places, origins: Tensor) -> Tensor:
    """Read label maps at places between their voxels: the nearest voxel counts.

    Args:
        maps: positions in an `Anatomy`, integers (N, X, Y, Z).
        which: number of the map of each image, integers (B,).
        places: where to read, counted from the origins.
        origins: first voxel of each image in its map, (B, 3).

    Returns:
        Positions, int64 (B, I, J, K); 0 beyond the map.
    """
    found = torch.empty(places.shape, dtype=torch.int64, device=maps.device)
    # Half as much memory to go through, where 32 bits can number all voxels.
    integer = torch.int32 if maps.numel() < 2**31 else torch.int64
    flat, first = maps.flatten(), origins.view(-1, 3, 1, 1, 1)
    for planes in blocks(places.shape[1], maps.device):
        voxels = (places.of(planes) + first).round_()
        index = which.view(-1, 1, 1, 1).to(integer)
        for n, voxel in zip(maps.shape[1:], voxels.unbind(1), strict=True):
            nearest = voxel.clamp(0, n - 1)
            index = index * n + nearest.to(integer)
            # In place, as numbers: several times faster than a mask of booleans.
            voxel.eq_(nearest)
        read = flat.index_select(0, index.flatten()).view(index.shape)
        torch.mul(read, voxels.prod(1).bool(), out=found[:, planes])
    return found
