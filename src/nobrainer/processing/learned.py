"""All that a model has learned, in one record; a bundle is its form on disk."""

import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import Parameter, signature
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from torch import nn

from nobrainer import bundle, models, shipped
from nobrainer.bayes.draws import is_stochastic, plan_draws
from nobrainer.checks import check_choice
from nobrainer.data.labels import LabelTable
from nobrainer.data.preprocess import NORMALIZERS
from nobrainer.errors import FewerDrawsWarning, InputError
from nobrainer.inference.moments import MOST_DRAWS
from nobrainer.inference.predict import Sampling, Scaling, TileResult
from nobrainer.inference.predictor import Evidence, Predictor
from nobrainer.models.check import load_weights
from nobrainer.models.registry import OWN, Model, at_most, builder_of
from nobrainer.posthoc import Calibration, Intervals, QualityModel, usual_draws
from nobrainer.provenance import now
from nobrainer.quality import FEATURES
from nobrainer.recipe import Cohort, Recipe
from nobrainer.structures import Part, Structure, StructureSums
from nobrainer.tissues import Compartments
from nobrainer.training.checkpoint import read_checkpoint
from nobrainer.training.engine import (
    default_device,
    inference_dtype,
    prediction_bytes,
)
from nobrainer.types import Shape3
from nobrainer.volume import Geometry

if TYPE_CHECKING:
    from nobrainer.training.members import Trained


@dataclass(frozen=True, eq=False)
class Learned:
    """A trained network, with everything that is known of it.

    network: the network, in evaluation mode.
    recipe: how it was made.
    labels: the names, colours and ids of its classes.
    history: a row for each epoch of the training.
    calibration: how its logits are scaled, and its intervals of volumes; None before
        `calibrate`.
    quality: how the quality of its results is predicted; None before `fit_quality`.
    """

    network: nn.Module
    recipe: Recipe
    labels: LabelTable
    history: tuple[dict[str, Any], ...]
    calibration: Calibration | None = None
    quality: QualityModel | None = None

    @classmethod
    def read(cls, path: str | Path, base_model: Model | None) -> Self:
        """What a bundle, or a checkpoint file of a training, holds.

        Args:
            path: the folder of the bundle, the file, or the name of a model that comes
                with nobrainer, see `nobrainer.shipped.find`.
            base_model: the user's own network or what builds it; None for a model whose
                name is in the registry.

        Raises:
            InputError: what is there is missing, damaged or newer than this software,
                or is not what its own recipe says.
        """
        path = shipped.find(path)
        if path.is_file():
            checkpoint = read_checkpoint(path)
            saved = bundle.Bundle(
                checkpoint.recipe,
                checkpoint.model_weights,
                checkpoint.labels,
                checkpoint.history,
            )
        else:
            saved = bundle.load(path)
        name = saved.recipe.model.name
        if base_model is None and name.startswith(OWN):
            raise InputError(
                f"{path}: was made with a network of your own, {name}, whose "
                "code is not kept: give it, Segmentation.load(..., base_model=...)"
            )
        try:
            network = _rebuild(name if base_model is None else base_model, saved)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return cls(
            network.eval(),
            saved.recipe,
            saved.labels,
            saved.history,
            saved.calibration,
            saved.quality,
        )

    @classmethod
    def of_training(
        cls,
        trained: "Trained",
        recipe: Recipe,
        labels: LabelTable,
        judged: Mapping[str, float],
    ) -> Self:
        """What a training that ends now has found.

        Args:
            trained: the network, and how the training went.
            recipe: how it was made; gets the end of the training, and its figures.
            labels: the classes.
            judged: figures of the network that were measured after the training.
        """
        metrics = {**judged, **trained.metrics}
        origins = replace(recipe.provenance, ended=now(), metrics=metrics)
        recipe = replace(recipe, provenance=origins)
        return cls(trained.network, recipe, labels, trained.history)

    def to_bundle(self) -> bundle.Bundle:
        """The bundle that `read` reads once it is saved."""
        return bundle.Bundle(
            self.recipe,
            self.network.state_dict(),
            self.labels,
            self.history,
            self.calibration,
            self.quality,
        )

    @property
    def cohort(self) -> Cohort | None:
        """What the training scans were like; None where that is not on record."""
        return self.recipe.provenance.cohort

    @property
    def totals(self) -> dict[str, tuple[int, ...]]:
        """The classes of the brain and of all in the skull, where their ids tell it."""
        compartments = Compartments.of(self.labels)
        return {} if compartments is None else compartments.totals

    def n_draws(self, asked: int | None = None) -> int:
        """How many draws are made for a user who asks for a number of them.

        A network that cannot draw makes none; it is then applied once.

        Args:
            asked: the number; None takes that of `usual_draws`.

        Raises:
            InputError: it is no such number.
        """
        if asked is not None and not (
            isinstance(asked, Integral) and 0 <= asked <= MOST_DRAWS
        ):
            raise InputError(
                f"n_samples must be a whole number from 0 to {MOST_DRAWS}, got "
                f"{asked!r}"
            )
        if not is_stochastic(self.network):
            return 0
        return usual_draws(self.calibration, self.quality) if asked is None else asked

    def n_passes(self, asked: int | None) -> int:
        """How many passes a scan gets for a user who asks for a number of draws.

        Members of an ensemble that cannot draw make one each.

        Args:
            asked: the number; None takes that of `usual_draws`.

        Raises:
            InputError: it is no such number.
        """
        return len(plan_draws(self.network, 0, self.n_draws(asked)))

    def _warn_of_fewer(self, asked: int | None) -> None:
        """Warn where the network cannot make as many draws as a user asks for."""
        n_passes = self.n_passes(asked)
        if asked is None or n_passes >= asked:
            return
        if is_stochastic(self.network):
            words = (
                f"the ensemble has {n_passes} members, which cannot draw themselves, "
                f"so that there are {n_passes} draws, not {asked}: for more, train "
                "more members, or some that draw"
            )
        else:
            words = (
                f"{self.recipe.model.name} has no stochastic layer: one pass is all "
                f"there is, not {asked} draws, and variance is 0: for more, train a "
                "Bayesian model"
            )
        warnings.warn(words, FewerDrawsWarning, stacklevel=4)

    def predictor(
        self,
        asked: int | None,
        seed: int | None,
        block_shape: Sequence[int] | None = None,
        batch_size: int = 1,
        precision: str = "float32",
        memory_gb: float | None = None,
    ) -> Predictor:
        """The network and how it is applied, its calibration included.

        Args:
            asked: number of draws that the user asks for as `n_samples`; None takes
                that of `usual_draws`.
            seed: seed of the draws; None takes a fresh one.
            block_shape: voxels of a tile; None lets the memory decide.
            batch_size: number of slabs in one pass.
            precision: "float32", "tf32" or "bfloat16".
            memory_gb: most memory that a scan may take on the device, see
                `nobrainer.training.engine.prediction_bytes`.

        Warns: `FewerDrawsWarning`, for whoever called the caller of this, where the
            network cannot make as many draws as are asked for.

        Raises:
            InputError: an argument is out of bounds, or not possible on this machine.
        """
        n_draws = self.n_draws(asked)
        self._warn_of_fewer(asked)
        if batch_size < 1:
            raise InputError(f"batch_size must be >= 1, got {batch_size}")
        block: Shape3 | None = None
        if block_shape is not None:
            if np.shape(block_shape) != (3,) or min(block_shape) < 1:
                raise InputError(
                    f"block_shape must be three positive integers, got {block_shape!r}"
                )
            block = (int(block_shape[0]), int(block_shape[1]), int(block_shape[2]))
        if seed is None:
            seed = secrets.randbelow(2**31)
        scaling, evidence = None, None
        if self.calibration is not None:
            scaling = Scaling(self.calibration.weight, self.calibration.bias)
            evidence = self.evidence(self.calibration.intensity_weight)
        device = default_device()
        return Predictor(
            self.network,
            self.recipe.data.n_classes,
            Sampling(
                seed, n_draws, block, batch_size, prediction_bytes(device, memory_gb)
            ),
            device,
            inference_dtype(precision, device),
            scaling,
            evidence,
            tf32=precision == "tf32",
        )

    def evidence(self, weight: float) -> Evidence | None:
        """How the scan's own intensities count; None where their weight is 0.

        Left and right of a structure look alike and share a histogram.

        Args:
            weight: their weight beside the network, in [0, 1].

        Raises:
            InputError: all classes but background share one histogram.
        """
        if not weight:
            return None
        shared = self.labels.sides_together()
        if len(set(shared)) < 3:
            raise InputError(
                "intensity_weight needs two structures or more that intensities can "
                "tell apart: this model knows "
                f"{', '.join(self.labels.names[1:])}: leave the weight 0"
            )
        return Evidence(weight, shared)

    def intervals(self, predictor: Predictor) -> Intervals | None:
        """The fitted intervals of volumes, if they hold for a predictor.

        They hold only for the number of draws that they were fitted with. A predictor
        with another number of draws gets None, and a warning.
        """
        if self.calibration is None or self.calibration.intervals is None:
            return None
        intervals, n_draws = self.calibration.intervals, predictor.n_passes
        if n_draws == intervals.n_draws:
            return intervals
        if predictor.sampling.n_draws:
            warnings.warn(
                f"no conformal intervals: they hold for {intervals.n_draws} draws, got "
                f"{n_draws}: give n_samples={intervals.n_draws}",
                stacklevel=2,
            )
        return None

    def measure(
        self,
        predictor: Predictor,
        image: np.ndarray,
        geometry: Geometry,
        background: float,
        *,
        labels: LabelTable | None = None,
        on_tile: Callable[[TileResult], None] = lambda tile: None,
    ) -> tuple[np.ndarray, tuple[Structure, ...], tuple[Part, ...]]:
        """Predict a scan and measure its structures.

        Args:
            predictor: this network, and how it is applied.
            image: (I, J, K), preprocessed as in training.
            geometry: the grid of the image.
            background: intensity that stands for all that lies beyond the image.
            labels: names and values of the classes; default those of the training.
            on_tile: called once for each tile, as a `Predictor` calls it.

        Returns:
            (n_passes, C) volume of each class in each draw, mm³; a row for each
            structure; and one for the brain and what lies in the skull, where the
            classes tell them, see `nobrainer.tissues`.
        """
        sums = StructureSums(predictor.n_classes, self.totals)

        def add(tile: TileResult) -> None:
            sums.add(tile)
            on_tile(tile)

        counts = predictor(image, background, add)
        volumes_mm3 = counts * geometry.voxel_mm3
        intervals = self.intervals(predictor)
        never_seen = () if self.cohort is None else self.cohort.never_seen
        structures = sums.table(
            volumes_mm3, labels or self.labels, intervals, never_seen
        )
        return volumes_mm3, structures, sums.totals(volumes_mm3, intervals)

    def check_quality_draws(self, n_draws: int) -> None:
        """Check that quality was learned with this number of draws, if it was learned.

        Raises:
            InputError: it was learned with another number.
        """
        if self.quality is not None and n_draws != self.quality.n_draws:
            needed = self.quality.n_draws
            is_usual = usual_draws(self.calibration, self.quality) == needed
            raise InputError(
                f"prediction has {n_draws} draws, quality was learned with {needed}: "
                f"give n_samples={needed}{', or leave n_samples out' * is_usual}"
            )


def _rebuild(source: Model, saved: bundle.Bundle) -> nn.Module:
    """The network of a bundle; `InputError` where it does not go with its recipe."""
    config, data = saved.recipe.model, saved.recipe.data
    # Where the arguments do not say how many, the model has a number of its own.
    usual = signature(builder_of(source)).parameters.get("n_classes")
    n_classes = config.args.get("n_classes", usual.default if usual else None)
    if n_classes not in (None, Parameter.empty, data.n_classes):
        raise InputError(
            f"the recipe's network has n_classes={n_classes}, its data {data.n_classes}"
        )
    if len(saved.labels.names) != data.n_classes:
        raise InputError(
            f"its labels are {len(saved.labels.names)}, the classes {data.n_classes}"
        )
    NORMALIZERS.check(saved.recipe.preprocess.normalize)
    for name in () if saved.quality is None else saved.quality.features:
        check_choice("feature of quality.json", name, FEATURES)
    # Twice the weights, because a Bayesian layer is first built as a plain one.
    n_numbers = 2 * sum(weight.numel() for weight in saved.weights.values())
    with at_most(n_numbers):
        network = models.build(source, **config.args)
    load_weights(network, saved.weights)
    return network
