"""What a scanner does to a signal: ghosts, large voxels, blur, spikes, noise, gamma."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nobrainer.data.axes import along_axes, gaussian_means, linear_weights
from nobrainer.data.synthesis.draws import Draws, surely_none
from nobrainer.recipe import Synthesis

_MOST_GHOST, _MOST_WAVE = 0.25, 0.15
"""Largest strength of a ghost, as a share of the signal, and of a spike's wave."""
_FWHM = math.sqrt(8 * math.log(2))
"""Full width at half maximum of a Gaussian, in standard deviations."""


def acquire(
    signal: Tensor,
    noise: Tensor,
    synthesis: Synthesis,
    draws: Draws,
    spacing_mm: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Scan signals at a resolution that is drawn, and bring them back to their grid.

    Each axis is multiplied by a matrix that takes means under the slice profile at the
    places of the scan's voxels, and afterwards by one that interpolates between them.

    Args:
        signal: intensities without noise, (B, I, J, K).
        noise: standard deviation of the noise, (B, 1, 1, 1).
        synthesis: the ranges that are drawn from.
        draws: the random numbers of the batch.
        spacing_mm: voxel size of the grid along each axis.

    Returns:
        Intensities with noise on the same grid, (B, I, J, K), and the voxel sizes of
        the scans in mm, (B, 3), nowhere below those of the grid.
    """
    block = signal.shape[1:]
    if synthesis.ghosts:
        signal = along_axes(signal, draw_ghosts(synthesis, draws, block))
    grid_mm = torch.tensor(spacing_mm, device=draws.device)
    size_mm = draw_voxel_sizes(synthesis, draws, grid_mm)
    # The labels already average over a voxel of the grid.
    profile_mm = (size_mm**2 - grid_mm**2).sqrt() / _FWHM
    width = torch.hypot(draws.between(0, synthesis.blur_mm, 1), profile_mm) / grid_mm
    # Between two voxels, a narrower mean would take one of the two alone.
    width = torch.where(size_mm > grid_mm, width.clamp_min(0.5), width)
    ratio = size_mm / grid_mm
    first = draws.between(0, 1, 3) * (ratio - 1)
    is_coarse = synthesis.coarse > 0 and not surely_none(size_mm > grid_mm)
    down, up = [], []
    for axis, n in enumerate(block):
        number = torch.arange(n, device=draws.device, dtype=width.dtype)
        begin, step = first[:, axis, None], ratio[:, axis, None]
        places = begin + step * number if is_coarse else number
        down.append(gaussian_means(places, n, width[:, axis]))
        if is_coarse:
            last = ((n - 1 - begin) / step + 1e-4).floor()
            places = ((number - begin) / step).clamp_min(0).minimum(last)
            up.append(linear_weights(places, n))
    if synthesis.blur_mm or synthesis.coarse:
        signal = along_axes(signal, down)
    if synthesis.spikes:
        signal = signal + draw_wave(synthesis, draws, block)
    if synthesis.noise or synthesis.spikes:
        signal = add_noise(signal, noise, draws)
    return along_axes(signal, up) if is_coarse else signal, size_mm


def draw_voxel_sizes(synthesis: Synthesis, draws: Draws, grid_mm: Tensor) -> Tensor:
    """Draw the voxel sizes of the scans.

    Coarse scans have either larger voxels of one size or thick slices along one axis.

    Args:
        synthesis: the ranges that are drawn from.
        draws: the random numbers of the batch.
        grid_mm: voxel size of the grid along each axis, (3,).

    Returns:
        Sizes in mm, (B, 3), nowhere below those of the grid.
    """
    share = draws.between(0, 1, 1)
    least = grid_mm.min()
    cubic = least + share * (synthesis.resolution_mm - least)
    chosen = torch.floor(draws.between(0, 3, 1)) == torch.arange(3, device=draws.device)
    thick = torch.where(
        chosen, grid_mm + share * (synthesis.slice_mm - grid_mm), grid_mm
    )
    sizes = torch.where(draws.happens(0.5, 1), thick, cubic)
    return torch.where(draws.happens(synthesis.coarse, 1), sizes, grid_mm).maximum(
        grid_mm
    )


def add_noise(signal: Tensor, noise: Tensor, draws: Draws) -> Tensor:
    """The modulus of a complex signal with Gaussian noise in both parts (Rician noise).

    Args:
        signal: intensities without noise, (B, I, J, K).
        noise: standard deviation of the noise in each part, (B, 1, 1, 1).
        draws: the random numbers of the batch.
    """
    real, imaginary = draws.normal(2, *signal.shape[1:]).unbind(1)
    return real.mul_(noise).add_(signal).hypot_(imaginary.mul_(noise))


def draw_ghosts(
    synthesis: Synthesis, draws: Draws, block: Sequence[int]
) -> list[Tensor]:
    """Matrices that add two shifted copies of the head along one axis that is drawn.

    Args:
        synthesis: the ranges that are drawn from.
        draws: the random numbers of the batch.
        block: voxels along each axis.

    Returns:
        For each axis of n voxels a matrix (B, n, n), which changes nothing along the
        other two axes.
    """
    axis = torch.floor(draws.between(0, 3, 1))
    strength = draws.between(0, _MOST_GHOST, 1) * draws.happens(synthesis.ghosts, 1)
    share = draws.between(0.1, 0.4, 1)
    matrices = []
    for number, n in enumerate(block):
        place = torch.arange(n, device=draws.device)
        away = (place[:, None] - place)[None]
        shift = (share * n).round()[..., None]
        copies = ((away - shift) % n == 0).float() + ((away + shift) % n == 0).float()
        matrices.append((away == 0) + (strength * (axis == number))[..., None] * copies)
    return matrices


def draw_wave(synthesis: Synthesis, draws: Draws, block: Sequence[int]) -> Tensor:
    """Draw the waves that spikes in k-space add to images.

    Args:
        synthesis: the ranges that are drawn from.
        draws: the random numbers of the batch.
        block: voxels along each axis.

    Returns:
        The waves, (B, I, J, K); 0 for an image without a spike.
    """
    strength = draws.between(0, _MOST_WAVE, 1, 1, 1)
    strength = strength * draws.happens(synthesis.spikes, 1, 1, 1)
    cycles = draws.between(-0.25, 0.25, 3)
    i, j, k = (
        2 * math.pi * cycles[:, axis, None] * torch.arange(n, device=draws.device)
        for axis, n in enumerate(block)
    )
    phase = i[:, :, None, None] + j[:, None, :, None] + k[:, None, None]
    return strength * torch.cos(phase + draws.between(0, 2 * math.pi, 1, 1, 1))


def bend(signal: Tensor, gamma: Tensor, synthesis: Synthesis) -> Tensor:
    """Raise intensities to a power, in place; those below 0 count as 0.

    Args:
        signal: the intensities, (B, I, J, K).
        gamma: the power of each image, (B, 1, 1, 1).
        synthesis: the ranges that are drawn from.
    """
    signal = signal.clamp_min_(0)
    return signal if synthesis.gamma == 1 else signal.pow_(gamma)
