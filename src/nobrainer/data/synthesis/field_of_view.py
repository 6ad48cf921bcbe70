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
from nobrainer.data.synthesis.draws import Draws
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
) -> Tensor:
    """Where there is an image after stripping the skull and cutting the field of view.

    Args:
        look: what was drawn for the head.
        found: position of the label value of each voxel, int64 (B, I, J, K).
        synthesis: the ranges that are drawn from.
        draws: the random numbers of the batch.
        spacing_mm: voxel size along each axis.

    Returns:
        Booleans (B, I, J, K).
    """
    keep = read_table(look.is_brain, found)
    if synthesis.strip and synthesis.imperfect and synthesis.strip_mm:
        rough = _draw_rough_brain(look, found, synthesis, draws, spacing_mm)
        imperfect = draws.happens(synthesis.imperfect, 1, 1, 1)
        keep = torch.where(imperfect, rough, keep)
    keep = keep | ~look.is_stripped.view(-1, 1, 1, 1)
    if synthesis.crop:
        # A field of view that is cut loses something at each face in half of the cases.
        cut = draws.happens(synthesis.crop, 1, 1) & draws.happens(0.5, 3, 2)
        lost = draws.between(0, synthesis.crop_share, 3, 2) * cut
        for axis, n in enumerate(found.shape[1:]):
            place = torch.arange(n, device=draws.device) / max(1, n - 1)
            low, high = lost[:, axis, :, None].unbind(1)
            inside = (place >= low) & (place <= 1 - high)
            keep = keep & inside.view(-1, *(n if a == axis else 1 for a in range(3)))
    return keep


def _draw_rough_brain(
    look: Look,
    found: Tensor,
    synthesis: Synthesis,
    draws: Draws,
    spacing_mm: Sequence[float],
) -> Tensor:
    """The brain with a rim that is lost here and left over there, as for `draw_kept`.

    What lies inside the skull is blurred, and cut at a level that changes smoothly.
    """
    device = draws.device
    blur, splines = [], []
    for n, mm in zip(found.shape[1:], spacing_mm, strict=True):
        width = torch.tensor(synthesis.strip_mm / mm, device=device)
        blur.append(gaussian_means(torch.arange(n, device=device), n, width))
        n_points = count_spline_points(n * mm, _RIM_LENGTH_MM)
        places_mm = centred_places(n, mm, device)
        splines.append(spline_weights(places_mm, n_points, _RIM_LENGTH_MM))
    points = draws.normal(*(spline.shape[1] for spline in splines))
    edge = (0.5 + 0.3 * along_axes(points, splines)).clamp(0.02, 0.98)
    return along_axes(read_table(look.is_inside, found).float(), blur) > edge
