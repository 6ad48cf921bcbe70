"""What a training was told: the network, the preprocessing, the data, the training."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from nobrainer.checks import (
    MOST_CLASSES,
    MOST_SEED,
    MOST_SIDE,
    MOST_VALUE,
    check_choice,
    check_count,
    check_finite,
    check_positive,
    check_share,
    is_number,
    shorten,
)
from nobrainer.errors import InputError
from nobrainer.json_records import as_json_stores, since
from nobrainer.recipe.synthesis import Synthesis

WeightsFormat = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class ModelConfig:
    """A model by registry name, with the arguments of its constructor.

    name: name in the registry of networks.
    args: arguments of the network's constructor, by name.
    weights: number format in which the model's file keeps the network's float32 tensors
        of two or more axes; all others are kept as they are.
    """

    name: str
    args: dict[str, Any] = field(default_factory=dict)
    weights: WeightsFormat = field(default="float32", metadata=since(4))

    def __post_init__(self) -> None:
        check_choice("format of weights", self.weights, get_args(WeightsFormat))
        object.__setattr__(self, "args", as_json_stores(self.args, "model arguments"))


Outliers = Literal["kept", "clipped"]
BrightAir = Literal["kept", "inverted"]


@dataclass(frozen=True)
class PreprocessConfig:
    """What happens to a scan before the network sees it, in training and prediction.

    orientation: axis codes of the working grid, such as "RAS".
    spacing_mm: voxel size of the working grid along each axis; None keeps the scan's.
    normalize: name of the intensity normalisation, see
        `nobrainer.data.preprocess.NORMALIZERS`.
    outliers: whether fills and extreme intensities are clipped before it, or kept;
        models of formats 1 to 3 learned from scans that kept them.
    bright_air: whether the intensities of a scan whose air is bright are turned over
        first, so that its air is dark as in other scans, or kept; kept is what older
        models learned.
    """

    orientation: str = "RAS"
    spacing_mm: tuple[float, float, float] | None = None
    normalize: str = "zscore"
    outliers: Outliers = field(default="kept", metadata=since(4))
    bright_air: BrightAir = field(default="kept", metadata=since(4))

    def __post_init__(self) -> None:
        axes = [frozenset(pair) & set(self.orientation) for pair in ("LR", "PA", "IS")]
        if len(self.orientation) != 3 or [*map(len, axes)] != [1, 1, 1]:
            raise InputError(
                "orientation must be three axis codes, such as RAS, got "
                f"{shorten(self.orientation)}"
            )
        for size in self.spacing_mm or ():
            check_positive("spacing_mm", size)


@dataclass(frozen=True)
class DataConfig:
    """How patches and targets were made from the files.

    The defaults are those of `Dataset`, of the command line and of the search.

    n_classes: number of classes, background among them.
    block_shape: voxels of a patch along each axis.
    batch_size: number of patches in a batch.
    patches_per_volume: number of patches that an epoch takes of each volume; a
        `Dataset` of scans takes `usual_patches` unless it is told otherwise.
    foreground: share of the patches, in [0, 1], that are centred near foreground.
    balanced: share of these, in [0, 1], whose class is drawn uniformly, so that small
        structures come as often as large ones; the others are centred near any voxel of
        the foreground.
    shuffle: whether the order of the volumes is drawn anew in every round.
    augment: name of the profile of random changes.
    relabel: class of each label value of the files; None keeps the label values.
    binarize: how label values become two classes: "none", "nonzero", "ids" (with
        `binarize_ids`) or "callable" (with `binarize_name`, the name of a function
        whose code is not stored).
    synthesis: how images were made from label maps; None where there were none.
    map_share: share of the patches that such images gave, where they were mixed with
        scans.
    """

    n_classes: int
    block_shape: tuple[int, int, int] = (32, 32, 32)
    batch_size: int = 2
    patches_per_volume: int = 64
    foreground: float = 0.5
    shuffle: bool = False
    augment: str = "none"
    relabel: dict[str, int] | None = None
    binarize: Literal["none", "nonzero", "ids", "callable"] = "none"
    binarize_ids: tuple[int, ...] = ()
    binarize_name: str = ""
    synthesis: Synthesis | None = field(default=None, metadata=since(4))
    map_share: float | None = field(default=None, metadata=since(4))
    balanced: float = field(default=1.0, metadata=since(4))

    def __post_init__(self) -> None:
        check_count("n_classes", self.n_classes, 2, MOST_CLASSES)
        for side in self.block_shape:
            check_count("block_shape", side, 1, MOST_SIDE)
        check_count("batch_size", self.batch_size, 1, MOST_VALUE)
        check_count("patches_per_volume", self.patches_per_volume, 1, MOST_VALUE)
        check_share("foreground", self.foreground)
        check_share("balanced", self.balanced)
        if self.map_share is not None:
            check_share("map_share", self.map_share)
        for value in self.binarize_ids:
            check_count("binarize_ids", value, 0, MOST_VALUE)
        for text, value in (self.relabel or {}).items():
            if not text.isdecimal() or int(text) > MOST_VALUE:
                raise InputError(
                    f"relabel must map label values from 0 to {MOST_VALUE}, got "
                    f"{shorten(text)}"
                )
            check_count("relabel", value, 0, MOST_VALUE)


MOST_USUAL_PATCHES = 1024
"""The most patches of a volume in an epoch, unless more are asked for."""


def usual_patches(block_shape: tuple[int, int, int]) -> int:
    """Number of patches that an epoch takes of each scan where nobody says how many.

    It is 64, and more of patches smaller than 32³, up to 1024 of 16³: they show less,
    and a greater share of their voxels has the patch's border, not tissue, beside it.
    A U-Net of two levels was measured to reach a Dice of 0.69 on whole heads in two
    epochs of 64 patches of 16³, 0.89 with 512, and 0.94 with 1024.

    Args:
        block_shape: voxels of a patch along each axis.
    """
    share = math.prod(DataConfig.block_shape) / math.prod(block_shape)
    n = round(DataConfig.patches_per_volume * share ** (4 / 3))
    return min(MOST_USUAL_PATCHES, max(DataConfig.patches_per_volume, n))


DEFAULT_LEARNING_RATE = 3e-3
"""Learning rate of Adam where a training is given no arguments of the optimiser."""


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that `fit` was asked for.

    The fields have the names and units of `fit` and of its options. Those that need
    more words:

    epochs: number of epochs; None where `max_steps`, in batches, or `max_minutes` end
        the training.
    warm_start: SHA-256 of the deterministic weights at which the posterior began.
    warm_start_delta: standard deviations of the posterior then, as a share of these
        weights.
    averaging: decay of a `WeightAverage`; None where the last weights are kept.
    folds: number of members of an ensemble, each of which left out the subjects of one
        fold; None where all networks learned from all scans.
    """

    epochs: int | None
    optimizer: str
    opt_args: dict[str, Any]
    loss: str
    class_weights: tuple[float, ...] | None
    schedule: str
    seed: int
    precision: str
    gradient_clip: float | None
    accumulate: int
    patience: int | None
    max_minutes: float | None
    warm_start: str | None = field(default=None, metadata=since(2))
    warm_start_delta: float | None = field(default=None, metadata=since(2))
    max_steps: int | None = field(default=None, metadata=since(4))
    averaging: float | None = field(default=None, metadata=since(4))
    folds: int | None = field(default=None, metadata=since(4))

    def __post_init__(self) -> None:
        plain = as_json_stores(self.opt_args, "optimizer arguments")
        object.__setattr__(self, "opt_args", plain)
        check_finite("opt_args", plain)
        check_count("seed", self.seed, 0, MOST_SEED)
        check_count("accumulate", self.accumulate, 1)
        for name in ("epochs", "patience", "max_steps", "folds"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), 1)
        if {self.epochs, self.max_steps, self.max_minutes} == {None}:
            raise InputError(
                "nothing ends the training: give epochs, max_steps or max_minutes"
            )
        if self.averaging is not None and not (
            is_number(self.averaging) and 0 <= self.averaging < 1
        ):
            raise InputError(
                f"averaging must be at least 0 and below 1, got {self.averaging!r}"
            )
        for name in ("gradient_clip", "max_minutes", "warm_start_delta"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        weights = self.class_weights
        if weights is not None and not (
            all(is_number(weight) and weight >= 0 for weight in weights)
            and any(weights)
        ):
            raise InputError(
                "class_weights must be finite numbers >= 0, not all of them 0, got "
                f"{shorten(list(weights))}"
            )
