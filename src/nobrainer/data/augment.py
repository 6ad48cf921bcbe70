"""Random changes of training patches, by named profile."""

import math
from dataclasses import dataclass
from typing import Self

import torch

from nobrainer import data
from nobrainer.registry import Registry
from nobrainer.types import Shape3


@dataclass(frozen=True)
class Profile:
    """Largest changes; the intensity changes happen each with `probability`.

    `noise` is in standard deviations of the volume, `bias` the largest coefficient
    of the field's polynomial in the exponent, `gamma` the largest exponent, `blur`
    the largest standard deviation of the blur in voxels.
    """

    rotation_deg: float
    scale: float
    bias: float
    gamma: float
    noise: float
    blur: float
    probability: float


AUGMENTATIONS: Registry[Profile | None] = Registry("augmentation profile")
AUGMENTATIONS.register("none")(None)
AUGMENTATIONS.register("standard")(
    Profile(
        rotation_deg=10,
        scale=0.1,
        bias=0.1,
        gamma=1.2,
        noise=0.1,
        blur=0.75,
        probability=0.3,
    )
)
AUGMENTATIONS.register("strong")(
    Profile(
        rotation_deg=20,
        scale=0.2,
        bias=0.3,
        gamma=1.5,
        noise=0.25,
        blur=1.25,
        probability=0.5,
    )
)


@dataclass(frozen=True)
class Augmentation:
    """A profile made ready for one block shape.

    `margin`: voxels that a patch must have beyond the block on each side, so that
    a turned block is filled with real tissue. There is no left-right flip: it would
    swap structures whose labels name a side.
    """

    transform: "data.Compose"
    margin: Shape3

    @classmethod
    def build(cls, profile: str, block_shape: Shape3) -> Self | None:
        """Make the profile ready, None for "none"; `InputError` for an unknown one."""
        chosen = AUGMENTATIONS[profile]
        if chosen is None:
            return None
        i, j, k = (math.ceil(size / 4) for size in block_shape)
        return cls(data.compose(chosen, block_shape), (i, j, k))

    def apply(
        self,
        image: torch.Tensor,
        label: torch.Tensor,
        *,
        floor: float,
        spread: float,
        seed: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change one patch, the same way for the same seed.

        Args:
            image: float32 (1, I, J, K), the block with its margin.
            label: int64 (I, J, K), likewise.
            floor: the volume's minimum; intensities are changed relative to it,
                because a bias field and gamma act on intensities that start at 0.
            spread: the volume's standard deviation.
            seed: of every random choice, below 2**32.

        Returns:
            Image (1, i, j, k) and label (i, j, k) of the block shape.
        """
        self.transform.set_random_state(seed=seed)
        with data.untracked():
            changed = self.transform(
                {"image": (image - floor) / spread, "label": label[None].float()}
            )
        turned = changed["label"][0].round().long()
        return changed["image"] * spread + floor, turned
