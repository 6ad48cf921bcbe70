"""How a generator of images was made, as records."""

import json
from dataclasses import asdict, dataclass, replace
from typing import Self

from nobrainer.checks import (
    MOST_CLASSES,
    MOST_SEED,
    MOST_SIDE,
    MOST_VALUE,
    check_count,
    check_positive,
    check_share,
    is_number,
)
from nobrainer.errors import InputError
from nobrainer.json_records import build_record, parse_json
from nobrainer.recipe.recipe import FORMAT_VERSION, Provenance, refuse_newer
from nobrainer.recipe.settings import ModelConfig, PreprocessConfig


@dataclass(frozen=True)
class ImagesConfig:
    """The images that a generator makes, as those that it learned from.

    shape: voxels along each axis; of the largest one where they differ.
    spacing_mm: voxel size; 1 where the images were tensors, which have none.
    low, high: their usual range of intensities, beyond which nothing is generated.
    n_classes: number of classes of their labels; 0 without labels.
    n_images: how many images the generator learned from.
    preprocess: how scans were prepared; None where the images were tensors.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    low: float
    high: float
    n_classes: int
    n_images: int
    preprocess: PreprocessConfig | None

    def __post_init__(self) -> None:
        for side in self.shape:
            check_count("images.shape", side, 1, MOST_SIDE)
        for size in self.spacing_mm:
            check_positive("images.spacing_mm", size)
        check_count("images.n_classes", self.n_classes, 0, MOST_CLASSES)
        check_count("images.n_images", self.n_images, 1, MOST_VALUE)
        if not (is_number(self.low) and is_number(self.high) and self.low < self.high):
            raise InputError(
                f"images.low must be a number below images.high, got {self.low!r} and "
                f"{self.high!r}"
            )


@dataclass(frozen=True)
class AdversarialConfig:
    """How two networks were trained against each other.

    epochs: number of passes over the images; None where the phases ended the training.
    batch_size: number of real, and of generated, images in a step.
    learning_rate: step of Adam, whose momentum is 0.
    penalty: weight of the squared gradient of the critic at real images (R1), at 32
        voxels a side; it grows with the number of voxels.
    penalty_every: number of steps from one such penalty to the next.
    averaging: decay of the average of the generator's weights that is kept.
    seed: seed of initial weights, latents and the order of the images.
    """

    epochs: int | None
    batch_size: int
    learning_rate: float
    penalty: float
    penalty_every: int
    averaging: float
    seed: int

    def __post_init__(self) -> None:
        if self.epochs is not None:
            check_count("epochs", self.epochs, 1)
        check_count("batch_size", self.batch_size, 2, MOST_VALUE)
        check_positive("learning_rate", self.learning_rate)
        if not is_number(self.penalty) or self.penalty < 0:
            raise InputError(f"penalty must be a number >= 0, got {self.penalty!r}")
        check_count("penalty_every", self.penalty_every, 1)
        check_share("averaging", self.averaging)
        if self.averaging == 1:
            raise InputError("averaging must be below 1, got 1")
        check_count("seed", self.seed, 0, MOST_SEED)


@dataclass(frozen=True)
class GeneratorRecipe:
    """The whole story of one generator.

    training is None for a generator that makes images of the label maps that it keeps.
    """

    generator: ModelConfig
    images: ImagesConfig
    training: AdversarialConfig | None
    provenance: Provenance
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """The recipe as indented JSON text; `from_json` gives back an equal recipe."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            InputError: the text is not JSON, is the recipe of a model that segments, or
                a field is unknown or missing; or the format is newer than this
                software.
        """
        raw = parse_json(text, "recipe")
        refuse_newer(raw)
        if isinstance(raw, dict) and "model" in raw:
            raise InputError(
                "is the recipe of a model that segments: load it with Segmentation.load"
            )
        return replace(build_record(cls, raw, "recipe"), format_version=FORMAT_VERSION)
