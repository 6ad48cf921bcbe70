"""A pair of networks of one resolution.

Source: Radford et al., "Unsupervised representation learning with deep convolutional
generative adversarial networks", ICLR 2016, https://arxiv.org/abs/1511.06434. Here in
3-D, and without batch norm in the critic: the penalty on its gradient is about single
images.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from nobrainer.checks import check_count
from nobrainer.generators.layers import SLOPE, as_images
from nobrainer.generators.progressive import LEAST_SIDE, coarsest
from nobrainer.generators.registry import (
    MOST_RESOLUTION,
    Gan,
    Phase,
    Stage,
    check_common,
)

_SPREAD = 0.02
"""Standard deviation of the initial weights."""


class Dcgan(Gan):
    """A generator and a critic of strided convolutions.

    Args:
        latent_size: how many random numbers an image is made of.
        n_filters: number of channels before the last layer; each coarser resolution
            has twice as many, at most 8 times.
        resolution: voxels along each side of the images.
        steps: number of steps of the training, where `epochs` does not say it.
        n_classes: number of classes of the labels that come with images; 0 without.

    Raises: InputError for a number out of its range.
    """

    def __init__(
        self,
        latent_size: int = 128,
        n_filters: int = 32,
        resolution: int = 32,
        steps: int = 2000,
        n_classes: int = 0,
    ) -> None:
        super().__init__()
        check_common(latent_size, n_classes, n_filters)
        check_count("resolution", resolution, LEAST_SIDE, MOST_RESOLUTION)
        check_count("steps", steps, 1)
        self.latent_size, self.n_classes = latent_size, n_classes
        self.phases = (Phase(resolution, steps, 0),)
        side, n_levels = coarsest(resolution)
        # From the coarsest level to the one before the image.
        channels = [
            n_filters * min(8, 2**level) for level in range(n_levels - 1, -1, -1)
        ]
        first, last = channels[0], channels[-1]
        up: list[nn.Module] = [
            nn.Linear(latent_size, first * side**3),
            nn.Unflatten(1, (first, side, side, side)),
            *_normed(first),
        ]
        down: list[nn.Module] = [
            nn.Conv3d(1 + n_classes, last, 3, padding=1),
            nn.LeakyReLU(SLOPE),
        ]
        for a, b in pairwise(channels):
            up += [nn.ConvTranspose3d(a, b, 4, 2, 1, bias=False), *_normed(b)]
        for b, a in pairwise(reversed(channels)):
            down += [nn.Conv3d(b, a, 4, 2, 1), nn.LeakyReLU(SLOPE)]
        up.append(nn.Conv3d(last, 1 + n_classes, 3, padding=1))
        down += [nn.Flatten(), nn.Linear(first * side**3, 1)]
        self.generator, self.critic = nn.Sequential(*up), nn.Sequential(*down)
        for name, weight in self.named_parameters():
            if name.endswith("weight") and weight.ndim > 1:
                nn.init.normal_(weight, std=_SPREAD)

    def make(self, latents: Tensor, stage: Stage) -> Tensor:
        """Images of latents, see `Gan`; there is one stage."""
        raw: Tensor = self.generator(latents)
        image = torch.tanh(raw[:, :1])
        return as_images(torch.cat([image, raw[:, 1:]], 1), self.n_classes)

    def judge(self, images: Tensor, stage: Stage) -> Tensor:
        """Scores of images, see `Gan`; there is one stage."""
        scores: Tensor = self.critic(images)
        return scores[:, 0]


def _normed(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm3d(channels), nn.ReLU()]
