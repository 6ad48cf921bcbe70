"""A fitted generator with all that is known of it; a bundle is its form on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import nibabel as nib
import numpy as np
from torch import Tensor, nn

from nobrainer import bundle, generators
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.generators import Gan, LabelMaps, Stage
from nobrainer.models.check import load_weights
from nobrainer.models.registry import at_most
from nobrainer.recipe import GeneratorRecipe
from nobrainer.training.engine import default_device

Pair = tuple[nib.Nifti1Image, nib.Nifti1Image | None]


@dataclass(frozen=True, eq=False)
class Generated:
    """A generator that is fitted, and all that is known of it.

    network: a `Gan`, of which the generator is used, or `LabelMaps`.
    recipe: how it was made.
    labels: the classes of the labels that come with images; None without.
    history: a row for each pass over the training images.
    """

    network: nn.Module
    recipe: GeneratorRecipe
    labels: LabelTable | None
    history: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """What a bundle holds.

        Raises: InputError where it is missing, damaged, newer than this software, or
            not what its own recipe says.
        """
        saved = bundle.load_generator(path)
        config = saved.recipe.generator
        # A generator comes with its critic, which is not kept, and is as large.
        n_numbers = 4 * sum(weight.numel() for weight in saved.weights.values())
        try:
            with at_most(n_numbers):
                network = generators.build(config.name, **config.args)
            load_weights(_part_that_is_kept(network), saved.weights)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return cls(network.eval(), saved.recipe, saved.labels, saved.history)

    def to_bundle(self) -> bundle.GeneratorBundle:
        """The bundle that `read` reads once it is saved."""
        weights = _part_that_is_kept(self.network).state_dict()
        return bundle.GeneratorBundle(self.recipe, weights, self.labels, self.history)

    @property
    def stage(self) -> Stage:
        """How far the networks have grown."""
        assert isinstance(self.network, Gan)
        reached = self.history[-1]["resolution"] if self.history else None
        return Stage(reached or self.network.resolution)

    def make(self, seed: int) -> Pair:
        """The image of a seed, and its labels if the generator makes some."""
        images = self.recipe.images
        if isinstance(self.network, LabelMaps):
            drawn = self.network.draw(seed, images.spacing_mm)
            return self._pair(drawn.normalised[0, 0], drawn.label[0], 1)
        assert isinstance(self.network, Gan)
        device = default_device()
        made = generators.sample(self.network.to(device), self.stage, [seed], device)[0]
        return self._scaled(made)

    def scaled(self, made: Sequence[Tensor] | Tensor) -> list[Pair]:
        """Images (1 + n_classes, r, r, r) of the network as those of the training."""
        return [self._scaled(one) for one in made]

    def _scaled(self, made: Tensor) -> Pair:
        images = self.recipe.images
        share = (made[0].clamp(-1, 1) + 1) / 2
        image = images.low + share * (images.high - images.low)
        label = made[1:].argmax(0) if self.labels is not None else None
        return self._pair(image, label, images.shape[0] / made.shape[-1])

    def _pair(self, image: Tensor, label: Tensor | None, coarser: float) -> Pair:
        """An image as nibabel has it, centred at the origin, with its labels.

        Args:
            image: intensities (I, J, K).
            label: class of each voxel.
            coarser: size of the voxels, as a factor of that of a finished image.
        """
        spacing = np.array(self.recipe.images.spacing_mm) * coarser
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = -spacing * (np.array(image.shape) - 1) / 2
        made = nib.Nifti1Image(image.float().numpy(), affine)
        made.header.set_xyzt_units("mm")
        if label is None or self.labels is None:
            return made, None
        values = nib.Nifti1Image(self.labels.to_values(label.numpy()), affine)
        values.header.set_xyzt_units("mm")
        return made, values


def _part_that_is_kept(network: nn.Module) -> nn.Module:
    """What makes the images, without the critic."""
    return network.generator if isinstance(network, Gan) else network
