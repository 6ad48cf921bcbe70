"""The networks of a training, one after the other; an ensemble has several."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from nobrainer import models
from nobrainer.bayes.draws import mix_seed
from nobrainer.bayes.ensemble import EnsembleNetwork
from nobrainer.bayes.layers import name_sites
from nobrainer.bayes.warm_start import warm_start
from nobrainer.checks import check_arguments
from nobrainer.data.labels import LabelTable
from nobrainer.data.patches import PatchSampler
from nobrainer.data.stored import Ready
from nobrainer.errors import InputError
from nobrainer.models.check import (
    check_block,
    check_reach,
    check_training,
    check_window,
    imagined,
)
from nobrainer.models.ensemble import MEMBERS
from nobrainer.models.registry import MODELS, OWN, Model
from nobrainer.recipe import DataConfig, ModelConfig, Recipe, TrainingConfig
from nobrainer.training.checkpoint_folder import member_folder
from nobrainer.training.data_loss import DataLoss
from nobrainer.training.engine import resolve_precision
from nobrainer.training.fabric import Fabric
from nobrainer.training.job import Job, Progress
from nobrainer.training.loop import Training
from nobrainer.training.objective import make_objective
from nobrainer.training.optimizer import make_optimizer
from nobrainer.training.options import TrainingOptions
from nobrainer.training.validation import Validation


@dataclass(frozen=True, eq=False)
class WarmStart:
    """A trained deterministic network at whose weights the posterior means begin.

    network: the network.
    sha256: checksum of its weights, as its bundle lists it.
    delta: initial standard deviation of a weight, as a fraction of its absolute value.
    """

    network: nn.Module
    sha256: str
    delta: float


@dataclass(frozen=True, eq=False)
class Trained:
    """The result of a training.

    network: the trained network; for several networks their ensemble.
    history: a row for each epoch; for an ensemble also with the number of the "member".
    metrics: figures of the epochs whose weights were kept, averaged over members.
    """

    network: nn.Module
    history: tuple[dict[str, Any], ...]
    metrics: dict[str, float]


@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """What is to be trained, and how; known before any scan is read.

    given: what the user gave as the model: a recipe has only the name of a network of
        one's own. Where it is a network, its weights are those that training begins at.
    model: the model as the recipe has it.
    config: how it is trained, as the recipe has it.
    optimizer: class of the optimiser.
    loss: the data term of the loss.
    options: what else the user said.
    begin: the weights that training begins at; None begins at random ones.
    """

    given: Model
    model: ModelConfig
    config: TrainingConfig
    optimizer: type[Optimizer]
    loss: DataLoss
    options: TrainingOptions
    begin: WarmStart | None = None

    @classmethod
    def create(
        cls,
        given: Model,
        args: dict[str, Any],
        n_classes: int,
        *,
        epochs: int | None,
        optimizer: type[Optimizer],
        opt_args: Mapping[str, Any],
        loss: DataLoss,
        seed: int,
        begin: WarmStart | None,
        options: TrainingOptions,
    ) -> Self:
        """The plan of a training, from what the user gave.

        Args:
            given: the name of a model, a network, or what builds one.
            args: arguments of the model.
            n_classes: number of classes of the labels.
            epochs: number of passes over the patches, None for no limit.
            optimizer: class of the optimiser.
            opt_args: arguments of the optimiser.
            loss: the data term of the loss.
            seed: seed of all that is random.
            begin: the weights that training begins at; None begins at random ones.
            options: what else the user said.

        Raises:
            InputError: an argument that the optimiser, the recipe or this machine
                cannot take, weights to begin an ensemble at, or folds of a model that
                has no copies.
        """
        check_arguments(f"argument of {optimizer.__name__}", optimizer, opt_args)
        precision = resolve_precision(options.precision)
        model = ModelConfig(models.name_of(given), args)
        if options.folds is not None:
            given, model = "ensemble", _copies(model, options.folds, n_classes)
        if begin is not None and model.name == "ensemble":
            raise InputError(
                "warm_start begins a Bayesian network, not an ensemble: leave it out"
            )
        config = TrainingConfig(
            epochs=epochs,
            optimizer=f"{optimizer.__module__}.{optimizer.__qualname__}",
            opt_args=dict(opt_args),
            loss=loss.name,
            class_weights=loss.known_weights(n_classes),
            schedule=options.schedule,
            seed=seed,
            precision=precision,
            gradient_clip=options.gradient_clip,
            accumulate=options.accumulate,
            patience=options.patience,
            max_minutes=options.max_minutes,
            max_steps=options.max_steps,
            averaging=options.averaging,
            folds=options.folds,
            warm_start=None if begin is None else begin.sha256,
            warm_start_delta=None if begin is None else begin.delta,
        )
        return cls(given, model, config, optimizer, loss, options, begin)

    def weighted(self, class_weights: tuple[float, ...]) -> Self:
        """The same plan with weights of the classes that the labels have given."""
        return replace(self, config=replace(self.config, class_weights=class_weights))

    @property
    def n_members(self) -> int:
        """How many networks are trained."""
        return len(self.members)

    @property
    def member_seeds(self) -> tuple[int, ...]:
        """The seed of each member's training; none of a single model."""
        seeds = tuple(training.seed for _, training in self.members)
        return seeds if self.n_members > 1 else ()

    @cached_property
    def members(self) -> tuple[tuple[ModelConfig, TrainingConfig], ...]:
        """The networks to train one after the other, and how each is trained.

        A model that is no ensemble is its own only member. Those of an ensemble have
        seeds of their own, and equal shares of the minutes.
        """
        model, config = self.model, self.config
        if model.name != "ensemble":
            return ((model, config),)
        shared = {key: value for key, value in model.args.items() if key != "members"}
        pairs = model.args.get("members", MEMBERS)
        minutes = config.max_minutes
        if minutes is not None:
            minutes /= len(pairs)
        return tuple(
            (
                ModelConfig(name, shared | dict(args)),
                replace(
                    config,
                    seed=mix_seed(config.seed, "member", number),
                    max_minutes=minutes,
                ),
            )
            for number, (name, args) in enumerate(pairs)
        )

    def check(self, data: DataConfig, n_patches: Iterable[int]) -> None:
        """Raise `InputError` where training would fail, whatever its files hold.

        The whole model is built once, as `load` will build it. One that is too large is
        refused before it takes much memory.

        Args:
            data: how patches are made.
            n_patches: numbers of patches that there are in an epoch.
        """
        if _is_shipped(self.model.name):
            with imagined():
                models.build(self.model.name, **self.model.args)
        self._start(self.model, self.config)
        size, sizes = data.batch_size, set()
        for n_in_all in n_patches:
            n = -(-n_in_all // self.options.devices)  # those of one process
            # The last batch is what is left.
            sizes |= {min(size, n), n % size or min(size, n)}
        # Members that are alike are checked once.
        members = [model for model, _ in self.members]
        for member in [m for n, m in enumerate(members) if m not in members[:n]]:
            build = partial(self._build, member, 0)
            network = build()
            check_block(network, data.block_shape)
            check_training(build, data.block_shape, sorted(sizes), data.n_classes)
            check_window(build)
            # The networks of the package are measured by its tests.
            if not _is_shipped(member.name):
                check_reach(network)
            make_optimizer(self.optimizer, network, self.config.opt_args)

    def train(
        self,
        recipe: Recipe,
        volumes: Sequence[Sequence[Ready]],
        labels: LabelTable,
        validate: Validation | None,
        directory: Path | None,
        resume: bool,
        fabric: Fabric,
        progress: Progress,
    ) -> Trained:
        """Train every member to its end.

        Args:
            recipe: how the model is made, with the weights of the classes.
            volumes: the prepared training scans of each member.
            labels: names of the classes.
            validate: measures a network after each epoch; None keeps the last weights.
            directory: folder of the checkpoints; None keeps none.
            resume: go on from the checkpoints in it.
            fabric: the devices to train on.
            progress: shows how training goes on.
        """
        loss = self.loss.build(recipe.training.class_weights)
        networks: list[nn.Module] = []
        history: list[dict[str, Any]] = []
        metrics: list[dict[str, float]] = []
        for number, (model, training) in enumerate(self.members):
            network = self._start(model, training)
            folder = member_folder(directory, number, self.n_members)
            scans = volumes[number]
            n_voxels = sum(math.prod(scan.geometry.shape) for scan in scans)
            patches = PatchSampler(scans, recipe.data, seed=training.seed)
            job = Job(
                objective=make_objective(network, loss, n_voxels),
                optimizer=make_optimizer(self.optimizer, network, self.config.opt_args),
                loader=patches.loader(
                    num_workers=self.options.num_workers,
                    pinned=fabric.device.type == "cuda",
                ),
                recipe=replace(recipe, model=model, training=training),
                labels=labels,
                validate=validate,
                directory=folder,
                on_epoch=self._on_epoch(number),
            )
            loop = Training(fabric, job, progress)
            if resume and folder is not None:
                loop.resume(folder)
            rows = loop.run()
            networks.append(network.eval())
            metrics.append(_final_metrics(loop.best_row or rows[-1]))
            if self.n_members > 1:
                rows = [_of(number, row) for row in rows]
            history += rows
        whole = networks[0]
        if self.n_members > 1:
            whole = name_sites(EnsembleNetwork(networks))
        return Trained(whole, tuple(history), _mean_of(metrics))

    def _build(self, member: ModelConfig, seed: int) -> nn.Module:
        """A network before training, with weights that depend on the seed alone."""
        with torch.random.fork_rng():
            torch.manual_seed(mix_seed(seed, "initial weights"))
            is_given = models.name_of(self.given) == member.name
            return models.build(self.given if is_given else member.name, **member.args)

    def _start(self, member: ModelConfig, training: TrainingConfig) -> nn.Module:
        """A network as its training begins, at given weights where there are any."""
        network = self._build(member, training.seed)
        if self.begin is not None:
            warm_start(network, self.begin.network, self.begin.delta)
        return network

    def _on_epoch(self, number: int) -> Callable[[Mapping[str, Any]], None] | None:
        """What is called with each row of a member's history."""
        tell = self.options.on_epoch
        if tell is None or self.n_members == 1:
            return tell
        return lambda row: tell(_of(number, row))


def _copies(model: ModelConfig, n_copies: int, n_classes: int) -> ModelConfig:
    """An ensemble of copies of a model, one for each fold of the subjects.

    Raises:
        InputError: the model is an ensemble already, or has no name in the registry.
    """
    if model.name == "ensemble" or model.name.startswith(OWN):
        raise InputError(
            f"folds train copies of one model by its name, got {model.name}: give the "
            "name of a network, registered if it is your own, or leave out folds"
        )
    args = {key: value for key, value in model.args.items() if key != "n_classes"}
    members = [[model.name, args]] * n_copies
    return ModelConfig("ensemble", {"n_classes": n_classes, "members": members})


def _is_shipped(name: str) -> bool:
    """Whether a model of this name comes with the package."""
    return name in MODELS and models.get(name).__module__.startswith("nobrainer.")


def _of(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the history that names the member of an ensemble."""
    return {"member": number, **row}


def _final_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures of the epoch whose weights the model has."""
    keep = ("loss", "dice", "validation_dice", "synthetic_validation_dice")
    return {k: float(v) for k, v in row.items() if k.startswith(keep)}


def _mean_of(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over the members of an ensemble of each figure that all of them have."""
    shared = set(metrics[0]).intersection(*metrics)
    return {
        name: float(np.mean([figures[name] for figures in metrics]))
        for name in metrics[0]
        if name in shared
    }
