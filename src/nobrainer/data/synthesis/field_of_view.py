"""What is left of an image: skull stripping, and a field of view that is cut."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nobrainer.data.axes import (
    along_axes,
    centred_places,
    count_spline_points,
    gaussian_means,
    spline_weights,
)
from nobrainer.data.synthesis.draws import Draws, surely_none
from nobrainer.data.synthesis.intensities import Look, read_table
from nobrainer.recipe import Synthesis

_RIM_LENGTH_MM = 15.0
"""Distance of the points between which the edge of a stripped head is smooth."""


def draw_kept(
    look: Look,
    found: Tensor,
    synthesis: Synthesis,
    draws: Draws,
    spacing_mm: Sequence[float],
) -> Tensor | None:
    """Where there is an image after stripping the skull and cutting the field of view.

    Args:
        look: what was drawn for the head.
        found: position of the label value of each voxel, int32 (B, I, J, K).
        synthesis: the ranges that are drawn from.
        draws: the random numbers of the batch.
        spacing_mm: voxel size along each axis.

    Returns:
        Booleans (B, I, J, K), or None where it is known that everything is left.
    """
    block = found.shape[1:]
    stripped = look.is_stripped.view(-1, 1, 1, 1)
    keep = None if surely_none(stripped) else read_table(look.is_brain, found)
    if synthesis.strip and synthesis.imperfect and synthesis.strip_mm:
        points = draws.normal(*_count_rim_points(block, spacing_mm))
        imperfect = draws.happens(synthesis.imperfect, 1, 1, 1)
        if keep is not None and not surely_none(stripped & imperfect):
            rough = _rough_brain(look, found, synthesis, points, spacing_mm)
            keep = torch.where(imperfect, rough, keep)
    if keep is not None:
        keep = keep | ~stripped
    if synthesis.crop:
        # A field of view that is cut loses something at each face in half of the cases.
        cut = draws.happens(synthesis.crop, 1, 1) & draws.happens(0.5, 3, 2)
        lost = draws.between(0, synthesis.crop_share, 3, 2) * cut
        if not surely_none(cut):
            seen = _field_of_view(lost, block)
            keep = seen if keep is None else keep & seen
    return keep


def _field_of_view(lost: Tensor, block: Sequence[int]) -> Tensor:
    """Which voxels of a block lie in a field of view that is cut.

    Args:
        lost: share of the block's length that is lost at both ends of each axis, (B, 3,
            2).
        block: voxels along each axis.

    Returns:
        Booleans (B, I, J, K).
    """
    inside = []
    for axis, n in enumerate(block):
        place = torch.arange(n, device=lost.device) / max(1, n - 1)
        low, high = lost[:, axis, :, None].unbind(1)
        inside.append((place >= low) & (place <= 1 - high))
    x, y, z = inside
    return x[:, :, None, None] & y[:, None, :, None] & z[:, None, None]


def _count_rim_points(block: Sequence[int], spacing_mm: Sequence[float]) -> list[int]:
    """Number of points along each axis between which the rim of a brain is smooth."""
    return [
        count_spline_points(n * mm, _RIM_LENGTH_MM)
        for n, mm in zip(block, spacing_mm, strict=True)
    ]


def _rough_brain(
    look: Look,
    found: Tensor,
    synthesis: Synthesis,
    points: Tensor,
    spacing_mm: Sequence[float],
) -> Tensor:
    """The brain with a rim that is lost here and left over there, as for `draw_kept`.

    What lies inside the skull is blurred, and cut at a level that changes smoothly
    between normal numbers, `points` (B, i, j, k).
    """
    blur, splines = [], []
    for n, n_points, mm in zip(
        found.shape[1:], points.shape[1:], spacing_mm, strict=True
    ):
        width = torch.tensor(synthesis.strip_mm / mm, device=points.device)
        blur.append(gaussian_means(torch.arange(n, device=points.device), n, width))
        places_mm = centred_places(n, mm, points.device)
        splines.append(spline_weights(places_mm, n_points, _RIM_LENGTH_MM))
    edge = (0.5 + 0.3 * along_axes(points, splines)).clamp(0.02, 0.98)
    return along_axes(read_table(look.is_inside, found).float(), blur) > edge
