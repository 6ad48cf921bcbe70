"""How `nobrainer train` trains: its options, gathered into records by subject."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import click

import nobrainer as nb
from nobrainer.errors import InputError
from nobrainer.recipe import DEFAULT_LEARNING_RATE, DataConfig

DEFAULT_EPOCHS = 10
"""Epochs of a training that nothing else ends."""


@dataclass(frozen=True)
class Network:
    """The network, by its name in the registry, alone or as members of an ensemble."""

    model: Annotated[
        str,
        click.option(
            "--model",
            default="bayesian_vnet",
            show_default=True,
            help="Name of the network.",
        ),
    ]
    model_args: Annotated[
        tuple[str, ...],
        click.option(
            "--model-arg",
            "model_args",
            metavar="KEY=VALUE",
            multiple=True,
            help="Argument of the model; may be repeated.",
        ),
    ]
    members: Annotated[
        int | None,
        click.option(
            "--members",
            metavar="N",
            type=click.IntRange(min=2),
            help="Train an ensemble: N of the model, one after the other.",
        ),
    ]

    def build(self, checkpoint_dir: Path | None) -> "nb.Segmentation":
        """Make the untrained model, which keeps checkpoints in the folder, if any."""
        args = dict(read_argument("--model-arg", text) for text in self.model_args)
        if self.members is None:
            return nb.Segmentation(self.model, args, checkpoint_dir)
        return nb.Ensemble(self.model, args, self.members, checkpoint_dir)


@dataclass(frozen=True)
class Patches:
    """What an epoch shows of each scan."""

    block_shape: Annotated[
        tuple[int, int, int],
        click.option(
            "--block-shape",
            metavar="A B C",
            nargs=3,
            type=int,
            default=DataConfig.block_shape,
            show_default=True,
            help="Voxels of a patch.",
        ),
    ]
    spacing_mm: Annotated[
        tuple[float, float, float] | None,
        click.option(
            "--spacing",
            "spacing_mm",
            metavar="R A S",
            nargs=3,
            type=float,
            help="Voxel size in mm to work at.  [default: the median of the scans]",
        ),
    ]
    batch_size: Annotated[
        int,
        click.option(
            "--batch-size",
            default=DataConfig.batch_size,
            show_default=True,
            help="Patches per batch.",
        ),
    ]
    patches_per_volume: Annotated[
        int | None,
        click.option(
            "--patches-per-volume",
            type=int,
            help="Patches of each scan in an epoch  [default: 64; more of smaller "
            "ones, 1024 of 16 16 16].",
        ),
    ]
    foreground: Annotated[
        float,
        click.option(
            "--foreground",
            metavar="SHARE",
            default=DataConfig.foreground,
            show_default=True,
            help="Patches that are centred near a voxel of a class.",
        ),
    ]
    balanced: Annotated[
        float,
        click.option(
            "--balanced",
            metavar="SHARE",
            default=DataConfig.balanced,
            show_default=True,
            help="Of these, those whose class is drawn uniformly, however small it is.",
        ),
    ]
    augment: Annotated[
        str,
        click.option(
            "--augment",
            metavar="PROFILE",
            default=DataConfig.augment,
            show_default=True,
            help="none, standard or strong.",
        ),
    ]

    def cut(self, dataset: "nb.Dataset") -> "nb.Dataset":
        """The same scans, with patches as these options say."""
        if self.spacing_mm is not None:
            dataset = dataset.spacing(self.spacing_mm)
        dataset = dataset.batch(self.batch_size).shuffle().augment(self.augment)
        return dataset.patches(
            per_volume=self.patches_per_volume,
            foreground=self.foreground,
            balanced=self.balanced,
        )


@dataclass(frozen=True)
class Training:
    """What is minimised, from where on, and for how long."""

    epochs: Annotated[
        int | None,
        click.option(
            "--epochs",
            type=int,
            help="Passes of the patches.  [default: 10, or what --max-steps and "
            "--max-minutes allow]",
        ),
    ]
    max_steps: Annotated[
        int | None,
        click.option(
            "--max-steps", metavar="N", type=int, help="End after so many batches."
        ),
    ]
    learning_rate: Annotated[
        float,
        click.option(
            "--learning-rate",
            default=DEFAULT_LEARNING_RATE,
            show_default=True,
            help="Of Adam.",
        ),
    ]
    schedule: Annotated[
        str,
        click.option(
            "--schedule",
            default="cosine",
            show_default=True,
            help="Course of the learning rate: cosine, late-cosine or constant.",
        ),
    ]
    gradient_clip: Annotated[
        float | None,
        click.option(
            "--gradient-clip",
            metavar="NORM",
            type=float,
            help="Largest norm of the gradient.",
        ),
    ]
    optimizer_args: Annotated[
        tuple[str, ...],
        click.option(
            "--optimizer-arg",
            "optimizer_args",
            metavar="KEY=VALUE",
            multiple=True,
            help="Further argument of Adam, such as betas=[0.9,0.98]; may be repeated.",
        ),
    ]
    loss: Annotated[
        str,
        click.option(
            "--loss",
            default="cross_entropy",
            show_default=True,
            help="cross_entropy, dice or dice_ce.",
        ),
    ]
    warm_start: Annotated[
        Path | None,
        click.option(
            "--warm-start",
            metavar="DIR",
            type=click.Path(path_type=Path),
            help="Begin a Bayesian model at the weights of this deterministic one.",
        ),
    ]
    max_minutes: Annotated[
        float | None,
        click.option(
            "--max-minutes",
            type=float,
            help="End at this time, the learning rate decayed.",
        ),
    ]
    averaging: Annotated[
        float | None,
        click.option(
            "--averaging",
            metavar="DECAY",
            type=float,
            help="Keep a moving average of the weights, 0.999 for instance.",
        ),
    ]

    @property
    def opt_args(self) -> dict[str, Any]:
        """Arguments of Adam by name."""
        more = dict(read_argument("--optimizer-arg", t) for t in self.optimizer_args)
        return {"lr": self.learning_rate} | more

    @property
    def most_epochs(self) -> int | None:
        """Most epochs: those that are asked for, or 10 where nothing else ends it."""
        if self.epochs is not None or self.max_steps or self.max_minutes:
            return self.epochs
        return DEFAULT_EPOCHS


@dataclass(frozen=True)
class Checkpoints:
    """Where the training keeps its state, and whether it goes on from there."""

    checkpoint_dir: Annotated[
        Path | None,
        click.option(
            "--checkpoint-dir",
            metavar="DIR",
            type=click.Path(path_type=Path),
            help="Keep the last and the best state here after every epoch.",
        ),
    ]
    resume: Annotated[
        bool,
        click.option(
            "--resume",
            is_flag=True,
            help="Go on from --checkpoint-dir; keep the model of a finished training.",
        ),
    ]

    def are_finished(self, output_dir: Path, training: Training) -> bool:
        """Whether a training that goes on from here has ended, and its model is saved.

        Args:
            output_dir: where the model goes.
            training: for how long it is trained.
        """
        if not self.resume or self.checkpoint_dir is None:
            return False
        lengths = training.most_epochs, training.max_steps, training.max_minutes
        return nb.bundle.is_finished(output_dir, self.checkpoint_dir, *lengths)


@dataclass(frozen=True)
class Machine:
    """What computes, and in which precision."""

    devices: Annotated[
        int,
        click.option(
            "--devices",
            default=1,
            show_default=True,
            help="GPUs to train on, or without one processes, at most one a core.",
        ),
    ]
    precision: Annotated[
        str,
        click.option(
            "--precision",
            default="auto",
            show_default=True,
            help="auto, 32-true, tf32, bf16-mixed or 16-mixed.",
        ),
    ]
    workers: Annotated[
        int,
        click.option(
            "--workers",
            default=0,
            show_default=True,
            help="Processes that cut patches, at most one a core.",
        ),
    ]


_EXAMPLES = {
    "--model-arg": "levels=3",
    "--synthesis-arg": "noise=0.1",
    "--optimizer-arg": "eps=1e-6",
}


def read_argument(option: str, text: str) -> tuple[str, Any]:
    """Read name and value of an argument; a value that is no JSON is taken as text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(
            f"{option} {text}: must be KEY=VALUE, such as {_EXAMPLES[option]}"
        )
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
