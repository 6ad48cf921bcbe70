"""The shape of a head: rotation, size, shear, a smooth deformation, and left for right.

For each voxel of an image this says from which place in the label map it comes.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Self

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
from nobrainer.data.synthesis.draws import Draws, surely_between
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

    def part(self, planes: slice) -> Self:
        """The places of some planes along the first axis."""
        weights = self.weights[planes]
        near = columns(weights)
        return self._replace(lattice=self.lattice[:, :, near], weights=weights[:, near])

    def all(self) -> Tensor:
        """The places, (B, 3, I, J, K)."""
        return along_axes(self.lattice, (self.weights, None, None))


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

    The deformation is computed on a coarse lattice around the centre of the block, and
    interpolated linearly between the points of the lattice.

    Args:
        synthesis: the ranges that are drawn from.
        draws: the random numbers of the batch.
        block: voxels of the block along each axis.
        spacing_mm: voxel size along each axis.
        flipped: whether left and right are swapped, booleans (B,).

    Returns:
        Places in voxels, counted from the first voxel of the block.
    """
    lattice = _lattice_of(
        tuple(block), tuple(spacing_mm), synthesis.warp_length_mm, draws.device
    )
    x = lattice.home[None]
    if synthesis.warp_mm:
        x = x + _draw_flow(synthesis, draws, lattice)
    # One matrix turns the lattice, mirrors it, and brings it from its own unit to mm
    # and then to voxels.
    left = lattice.per_mm * torch.where(flipped[:, None], lattice.mirror, 1.0)
    matrix = left[:, :, None] * _draw_affine(synthesis, draws) * lattice.ends_mm
    x = (matrix.flip(2) @ x.flatten(2)).unflatten(2, x.shape[2:])
    rows = along_axes(x + lattice.middle, (None, *lattice.fine[1:]))
    return Places(rows, lattice.fine[0])


class _Lattice(NamedTuple):
    """The lattice on which the deformation of a block is computed.

    Its own unit goes from -1 to 1 along each axis, and the last axis comes first, as
    `grid_sample` has it.

    home: places of its points in that unit, (3, I, J, K).
    ends_mm: place of the last point along each axis, (3,).
    splines: matrices from the control points of the velocity, one for each axis.
    fine: matrices to the voxels of the block, one for each axis.
    per_mm: voxels in a mm along each axis, (3,).
    middle: centre of the block in voxels, (3, 1, 1, 1).
    mirror: -1 along the first axis, 1 along the others, (3,).
    """

    home: Tensor
    ends_mm: Tensor
    splines: Sequence[Tensor]
    fine: Sequence[Tensor]
    per_mm: Tensor
    middle: Tensor
    mirror: Tensor


@lru_cache(maxsize=8)
def _lattice_of(
    block: Shape3, spacing_mm: tuple[float, ...], length_mm: float, device: torch.device
) -> _Lattice:
    """The lattice of all blocks of a shape, made once.

    Args:
        block: voxels of the block along each axis.
        spacing_mm: voxel size along each axis.
        length_mm: distance of the points between which the velocity is smooth.
        device: where the numbers are needed.
    """
    step_mm = length_mm / _STEPS_PER_LENGTH
    extents_mm = [(n - 1) * mm for n, mm in zip(block, spacing_mm, strict=True)]
    # One more point on each side, for what flows in from outside the block.
    counts = [2 * (math.ceil(mm / 2 / step_mm) + 1) + 1 for mm in extents_mm]
    axes = [centred_places(n, step_mm, device) for n in counts]
    rows = [axis / axis[-1] for axis in axes]
    return _Lattice(
        home=torch.stack(torch.meshgrid(*rows, indexing="ij")).flip(0),
        ends_mm=torch.stack([axis[-1] for axis in axes]),
        splines=[
            spline_weights(
                axis, count_spline_points(n / _STEPS_PER_LENGTH, 1), length_mm
            )
            for n, axis in zip(counts, axes, strict=True)
        ],
        fine=[
            linear_weights(centred_places(n, mm, device) / step_mm + (m - 1) / 2, m)
            for n, mm, m in zip(block, spacing_mm, counts, strict=True)
        ],
        per_mm=1 / torch.tensor(spacing_mm, device=device),
        middle=(torch.tensor(block, device=device).view(3, 1, 1, 1) - 1) / 2,
        mirror=torch.tensor([-1.0, 1.0, 1.0], device=device),
    )


def _draw_affine(synthesis: Synthesis, draws: Draws) -> Tensor:
    """The matrices (B, 3, 3) from places in the block to those in the head."""
    largest = math.radians(synthesis.rotation_deg)
    turn = rotation(draws.between(-largest, largest, 3))
    shear = draws.between(-synthesis.shear, synthesis.shear, 3, 3)
    shear.diagonal(dim1=1, dim2=2).fill_(1)
    size = draws.between(1 - synthesis.scale, 1 + synthesis.scale, 1, 3)
    return turn @ shear / size


def _draw_flow(synthesis: Synthesis, draws: Draws, lattice: _Lattice) -> Tensor:
    """Displacements of a random diffeomorphism, in the unit of the lattice.

    A smooth random velocity is followed for one unit of time by scaling and squaring.

    Args:
        synthesis: the ranges that are drawn from.
        draws: the random numbers of the batch.
        lattice: where the displacements are wanted.

    Returns:
        (B, 3, I, J, K), those along the last axis first.

    Source: Arsigny et al., "A log-Euclidean framework for statistics on
    diffeomorphisms", MICCAI 2006 (scaling and squaring).
    """
    points = draws.normal(3, *(spline.shape[1] for spline in lattice.splines))
    largest = draws.between(0, synthesis.warp_mm, 1) / lattice.ends_mm
    points = points * (largest / 2**_SQUARINGS)[..., None, None, None]
    moved = along_axes(points.flip(1), lattice.splines)
    for _ in range(_SQUARINGS):
        # Coordinates first in memory: along an axis of three all is many times slower.
        grid = (lattice.home + moved).movedim(1, -1)
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
        Positions, int32 (B, I, J, K); 0 beyond the map.
    """
    found = torch.empty(places.shape, dtype=torch.int32, device=maps.device)
    # Half as much memory to go through, where 32 bits can number all voxels.
    integer = torch.int32 if maps.numel() < 2**31 else torch.int64
    flat, first = maps.flatten(), which.view(-1, 1, 1, 1).to(integer)
    places = places._replace(lattice=places.lattice + origins.view(-1, 3, 1, 1, 1))
    for planes in blocks(places.shape[1], maps.device):
        part = places.part(planes)
        index, inside = first, None
        for axis, (n, voxel) in enumerate(
            zip(maps.shape[1:], part.all().round_().unbind(1), strict=True)
        ):
            nearest = voxel
            # What is interpolated between places in the map is there, too.
            if not surely_between(part.lattice[:, axis], 0, n - 1):
                nearest = voxel.clamp(0, n - 1)
                # In place, as numbers: several times faster than a mask of booleans.
                is_there = voxel.eq_(nearest)
                inside = is_there if inside is None else inside.mul_(is_there)
            index = nearest.to(integer).add_(index, alpha=n)
        read = flat.index_select(0, index.flatten()).view(index.shape)
        found[:, planes] = read if inside is None else read.mul_(inside.to(read.dtype))
    return found
