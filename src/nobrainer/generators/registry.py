"""The registry of generators: what an entry is, and how one is built."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nobrainer.checks import check_count, takes
from nobrainer.errors import InputError
from nobrainer.models.registry import build_named
from nobrainer.registry import Registry
from nobrainer.rounding import float32_products

GENERATORS: Registry[Callable[..., nn.Module]] = Registry("generator")
MOST_RESOLUTION = 512


class Stage(NamedTuple):
    """How far a pair of networks has grown.

    resolution: voxels along each side of its images.
    fade: share of the newest resolution in the image, in (0, 1]; the rest comes from
        the one before.
    """

    resolution: int
    fade: float = 1.0


class Phase(NamedTuple):
    """A part of the training, at one resolution.

    resolution: voxels along each side of the images.
    steps: number of steps.
    fading: number of the first steps in which the resolution is faded in.
    """

    resolution: int
    steps: int
    fading: int

    def stage(self, step: int) -> Stage:
        """The stage at a step of this phase, from 0."""
        return Stage(self.resolution, min(1.0, (step + 1) / max(self.fading, 1)))


class Gan(nn.Module, ABC):
    """Two networks that learn against each other.

    generator: makes images.
    critic: judges them.
    latent_size: how many random numbers an image is made of.
    n_classes: number of classes of the labels that come with images; 0 without labels.
    phases: the parts of the training.

    Images are (B, 1 + n_classes, r, r, r): intensities, -1 to 1 over the usual range of
    the training images, and the share of each class.
    """

    generator: nn.Module
    critic: nn.Module
    latent_size: int
    n_classes: int
    phases: tuple[Phase, ...]

    @abstractmethod
    def make(self, latents: Tensor, stage: Stage) -> Tensor:
        """Images of latents (B, latent_size), which are normally distributed."""

    @abstractmethod
    def judge(self, images: Tensor, stage: Stage) -> Tensor:
        """Scores (B,) of images: high for those that seem real."""

    @property
    def resolution(self) -> int:
        """Voxels along each side of a finished image."""
        return self.phases[-1].resolution


def build(name: str, **args: object) -> nn.Module:
    """Build a generator.

    Args:
        name: name of a registered generator.
        args: its arguments.

    Raises: InputError for an unknown name or argument, with the nearest one, and for
        values that do not work.
    """
    return build_named("generator", name, GENERATORS[name], args)


def learns_from_maps(name: str) -> bool:
    """Whether a generator makes its images from label maps that it keeps."""
    return not takes(GENERATORS[name], "latent_size")


def with_data(name: str, args: Mapping[str, Any], n_classes: int) -> dict[str, Any]:
    """The arguments of a generator of images, with the classes of its training data.

    Raises: InputError where the arguments ask for another number of classes.
    """
    given = args.get("n_classes", n_classes)
    if given != n_classes:
        raise InputError(
            f"generator {name!r} has n_classes={given}, the training data "
            f"{n_classes}: leave n_classes out"
        )
    return {**args, "n_classes": n_classes}


def check_common(latent_size: int, n_classes: int, *filters: int) -> None:
    """Check what all pairs of networks are told.

    Raises: InputError for a number out of its range.
    """
    check_count("latent_size", latent_size, 1, 2**14)
    check_count("n_classes", n_classes, 0, 2**10)
    for number in filters:
        check_count("number of filters", number, 1, 2**14)


def sample(gan: Gan, stage: Stage, seeds: list[int], device: torch.device) -> Tensor:
    """Images of seeds: each depends on its own seed alone.

    Args:
        gan: the two networks, of which the generator is used, in evaluation mode.
        stage: how far it has grown.
        seeds: seed of each image.
        device: device of the networks.

    Returns: float32 (B, 1 + n_classes, r, r, r) on the CPU, see `Gan`.
    """
    made = []
    with torch.inference_mode(), float32_products():
        for seed in seeds:
            numbers = torch.Generator().manual_seed(seed)
            latents = torch.randn(1, gan.latent_size, generator=numbers)
            made.append(gan.make(latents.to(device), stage).cpu())
    return torch.cat(made)
