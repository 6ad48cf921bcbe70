"""A pair of networks that grow, from coarse images to fine ones.

Source: Karras et al., "Progressive growing of GANs for improved quality, stability,
and variation", ICLR 2018, https://arxiv.org/abs/1710.10196. Here in 3-D.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from nobrainer.checks import check_count, shorten
from nobrainer.errors import InputError
from nobrainer.generators.layers import (
    EqualConv3d,
    EqualLinear,
    as_images,
    double,
    halve,
    leaky,
    pixel_norm,
    widths,
    with_deviation,
)
from nobrainer.generators.registry import (
    MOST_RESOLUTION,
    Gan,
    Phase,
    Stage,
    check_common,
)

LEAST_SIDE = 4
"""Least number of voxels along each side of the coarsest images."""


class ProgressiveGenerator(nn.Module):
    """From random numbers to an image.

    Args:
        latent_size: how many random numbers.
        channels: number of channels at each level, from the coarsest.
        side: voxels along each side at the coarsest level.
        n_classes: number of classes; 0 without labels.
    """

    def __init__(
        self, latent_size: int, channels: Sequence[int], side: int, n_classes: int
    ) -> None:
        super().__init__()
        first = channels[0]
        self.shape = first, side, side, side
        self.n_classes = n_classes
        # The gain makes up for the many voxels that one number has a say in.
        self.dense = EqualLinear(latent_size, first * side**3, gain=2**0.5 / 4)
        self.conv = EqualConv3d(first, first, 3)
        self.blocks = nn.ModuleList(
            nn.ModuleList([EqualConv3d(a, b, 3), EqualConv3d(b, b, 3)])
            for a, b in pairwise(channels)
        )
        self.to_image = nn.ModuleList(
            EqualConv3d(c, 1 + n_classes, 1, gain=1.0) for c in channels
        )

    def forward(self, latents: Tensor, level: int, fade: float) -> Tensor:
        """Images of latents.

        Args:
            latents: (B, latent_size).
            level: how often the resolution is doubled.
            fade: share of the last level in the image.

        Returns: (B, 1 + n_classes, r, r, r).
        """
        x = self.dense(pixel_norm(latents)).unflatten(1, self.shape)
        x = pixel_norm(leaky(self.conv(pixel_norm(leaky(x)))))
        before = x
        for block in list(self.blocks)[:level]:
            before, x = x, double(x)
            for conv in block:  # type: ignore[attr-defined]
                x = pixel_norm(leaky(conv(x)))
        image = self._image(x, level)
        if fade < 1:
            image = torch.lerp(double(self._image(before, level - 1)), image, fade)
        return image

    def _image(self, x: Tensor, level: int) -> Tensor:
        return as_images(self.to_image[level](x), self.n_classes)


class ProgressiveCritic(nn.Module):
    """From an image to a score; the mirror of `ProgressiveGenerator`.

    Args:
        channels: number of channels at each level, from the coarsest.
        side: voxels along each side at the coarsest level.
        n_classes: number of classes; 0 without labels.
    """

    def __init__(self, channels: Sequence[int], side: int, n_classes: int) -> None:
        super().__init__()
        first = channels[0]
        self.from_image = nn.ModuleList(
            EqualConv3d(1 + n_classes, c, 1) for c in channels
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList([EqualConv3d(b, b, 3), EqualConv3d(b, a, 3)])
            for a, b in pairwise(channels)
        )
        self.conv = EqualConv3d(first + 1, first, 3)
        self.dense = EqualLinear(first * side**3, first)
        self.score = EqualLinear(first, 1, gain=1.0)

    def forward(self, images: Tensor, level: int, fade: float) -> Tensor:
        """Scores (B,) of images.

        Args:
            images: (B, 1 + n_classes, r, r, r).
            level: how often their resolution is that of the coarsest level, doubled.
            fade: share of the last level in what is judged.
        """
        x = leaky(self.from_image[level](images))
        for number in range(level - 1, -1, -1):
            for conv in self.blocks[number]:  # type: ignore[attr-defined]
                x = leaky(conv(x))
            x = halve(x)
            if number == level - 1 and fade < 1:
                coarse = leaky(self.from_image[number](halve(images)))
                x = torch.lerp(coarse, x, fade)
        x = leaky(self.conv(with_deviation(x)))
        return self.score(leaky(self.dense(x.flatten(1))))[:, 0]


class ProgressiveGan(Gan):
    """A generator and a critic that grow together.

    Args:
        latent_size: how many random numbers an image is made of.
        fmap_base: number of channels at the coarsest resolution; each finer one has
            half as many.
        fmap_max: most channels at any resolution.
        resolution_schedule: voxels along each side of the images in each phase of the
            training, each twice the one before.
        steps_per_phase: number of steps in each phase, or a list with one number a
            phase. In the first half of its steps a new resolution is faded in.
        n_classes: number of classes of the labels that come with images; 0 without.

    Raises: InputError for a number out of its range.
    """

    def __init__(
        self,
        latent_size: int = 128,
        fmap_base: int = 256,
        fmap_max: int = 128,
        resolution_schedule: Sequence[int] = (4, 8, 16, 32, 64),
        steps_per_phase: int | Sequence[int] = 2000,
        n_classes: int = 0,
    ) -> None:
        super().__init__()
        check_common(latent_size, n_classes, fmap_base, fmap_max)
        self.latent_size, self.n_classes = latent_size, n_classes
        self.phases = plan_phases(resolution_schedule, steps_per_phase)
        self.side, n_levels = coarsest(self.resolution)
        channels = widths(fmap_base, fmap_max, n_levels)
        self.generator = ProgressiveGenerator(
            latent_size, channels, self.side, n_classes
        )
        self.critic = ProgressiveCritic(channels, self.side, n_classes)

    def make(self, latents: Tensor, stage: Stage) -> Tensor:
        """Images of latents, see `Gan`."""
        level = self._level(stage)
        images: Tensor = self.generator(latents, level, stage.fade)
        return images

    def judge(self, images: Tensor, stage: Stage) -> Tensor:
        """Scores of images, see `Gan`."""
        scores: Tensor = self.critic(images, self._level(stage), stage.fade)
        return scores

    def _level(self, stage: Stage) -> int:
        return (stage.resolution // self.side).bit_length() - 1


def plan_phases(
    resolutions: Sequence[int], steps: int | Sequence[int]
) -> tuple[Phase, ...]:
    """The phases of a training that grows.

    Args:
        resolutions: voxels along each side of the images in each phase.
        steps: number of steps in each phase, or one for each.

    Raises: InputError where these are not as `ProgressiveGan` wants them.
    """
    given = list(resolutions) if isinstance(resolutions, Sequence) else []
    for resolution in given:
        check_count("resolution_schedule", resolution, LEAST_SIDE, MOST_RESOLUTION)
    if not given or any(2 * a != b for a, b in pairwise(given)):
        raise InputError(
            "resolution_schedule must be resolutions of which each is twice the one "
            f"before, such as [4, 8, 16], got {shorten(resolutions)}"
        )
    counts = list(steps) if isinstance(steps, Sequence) else [steps] * len(given)
    for count in counts:
        check_count("steps_per_phase", count, 1)
    if len(counts) != len(given):
        raise InputError(
            f"steps_per_phase has {len(counts)} numbers, resolution_schedule "
            f"{len(given)}: give one number, or one for each"
        )
    fading = [0, *(count // 2 for count in counts[1:])]
    return tuple(map(Phase, given, counts, fading))


def coarsest(resolution: int) -> tuple[int, int]:
    """The coarsest level at which images of a resolution can begin.

    Args:
        resolution: voxels along each side of the finest images, at least `LEAST_SIDE`.

    Returns: voxels along each side at that level, and the number of levels.

    >>> coarsest(32), coarsest(4), coarsest(48)
    ((4, 4), (4, 1), (6, 4))
    """
    side, n_levels = resolution, 1
    while side % 2 == 0 and side // 2 >= LEAST_SIDE:
        side, n_levels = side // 2, n_levels + 1
    return side, n_levels
