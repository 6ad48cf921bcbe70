"""The second training loop: two networks, each of which learns from the other.

The loop of `fit` minimises one loss by one optimiser. Here two players move in turn, on
images that grow, so that there is no loss of an epoch by which weights could be chosen.
Optimisers, the average of the weights, checkpoints and their folder are the same.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nobrainer.bayes.draws import mix_seed
from nobrainer.errors import DivergedError, InputError
from nobrainer.generators import Gan, Phase, RealImages, Stage, sample
from nobrainer.json_records import check_history, parse_json
from nobrainer.memory import kept_memory
from nobrainer.models.check import load_weights
from nobrainer.recipe import GeneratorRecipe
from nobrainer.rounding import float32_products
from nobrainer.training.averaging import WeightAverage
from nobrainer.training.checkpoint import LAST
from nobrainer.training.checkpoint_folder import CHECKPOINT_S, CheckpointFolder
from nobrainer.training.optimizer import make_optimizer
from nobrainer.training.phases import PhasePlan
from nobrainer.training.state_file import (
    check_state,
    find_change,
    held_together,
    pack_optimizer,
    read_state,
    unpack_optimizer,
    with_prefix,
    write_state,
)

Row = dict[str, Any]
LOSSES = ("generator_loss", "critic_loss", "penalty", "real_score", "fake_score")
BETAS = (0.0, 0.99)
"""Adam's decays. The first is 0: gradients of opponents that move have no direction
that would be worth keeping (Karras et al. 2018)."""


PENALISED_SIDE = 32
"""Voxels a side at which the penalty has the weight that is given; it grows with the
number of voxels. One that looks at means of 2³ voxels has, as a function of these, a
squared gradient 8 times as large. So critics of all resolutions are held as tightly."""
VARIETY = 0.5
"""Weight of the generator's lack of variety, of at most 1, beside its loss. Without it
all images of 32 voxels a side were measured to be nearly the same."""
VARIED_SIDE = 8
"""Voxels a side at which images are compared: their shapes shall differ, and noise is
no variety."""


class Steps(Protocol):
    """What shows the progress of this loop."""

    def begin(self, what: str, total: int) -> None:
        """Show that something of so many steps starts."""

    def advance(self, done: int, total: int) -> None:
        """Show how many steps are done."""

    def note(self, text: str) -> None:
        """Leave a line."""


@dataclass(frozen=True)
class AdversarialJob:
    """What is to be trained, and how.

    gan: the two networks.
    images: the real images.
    recipe: how the generator is made; its `training` says how it is trained.
    device: device that computes.
    directory: folder of the checkpoints; None keeps none.
    on_phase: called after each phase with the number of the phase, from 1.
    """

    gan: Gan
    images: RealImages
    recipe: GeneratorRecipe
    device: torch.device
    directory: Path | None = None
    on_phase: Callable[["Adversarial", int], None] | None = None


class Adversarial:
    """A training of two networks under way: `run` takes it to its end.

    The critic learns to tell real images from generated ones by the logistic loss, with
    a penalty on its gradient at the real ones; the generator learns to raise the score
    of its images (the non-saturating loss), and to make them differ among themselves as
    much as the real ones of the step do. Latents are seeded by the step, and the
    order of the images by the pass. So on a CPU a training that is killed and resumed
    ends with the same bits as one that is not.

    Args:
        job: what is to be trained, and how.
        progress: shows the progress.

    Raises: InputError where the optimisers cannot be made.

    Source: Goodfellow et al. 2014 (the loss); Mescheder et al. 2018,
    https://arxiv.org/abs/1801.04406 (the penalty R1); Karras et al. 2020,
    https://arxiv.org/abs/1912.04958 (a penalty at some of the steps alone).
    """

    def __init__(self, job: AdversarialJob, progress: Steps) -> None:
        config = job.recipe.training
        assert config is not None
        self.job, self.config, self.progress = job, config, progress
        self.gan = job.gan.to(job.device).train()
        self.batch_size = min(config.batch_size, len(job.images))
        self.plan = PhasePlan.of(
            job.gan.phases, len(job.images), self.batch_size, config
        )
        args = {"lr": config.learning_rate, "betas": BETAS}
        self.players = {
            name: make_optimizer(torch.optim.Adam, network, args)
            for name, network in (
                ("generator", self.gan.generator),
                ("critic", self.gan.critic),
            )
        }
        self.average = WeightAverage(self.gan.generator, config.averaging)
        self.history: list[Row] = []
        self.step = 0
        self.sums, self.spent_s = dict.fromkeys(LOSSES, 0.0), 0.0
        self._n_penalties, self._order = 0, (-1, torch.empty(0))
        self.folder = CheckpointFolder(job.directory, self._write)

    def run(self) -> tuple[Row, ...]:
        """Train to the end, and leave the generator with its averaged weights.

        Returns: the history, a row for each pass over the images.

        Raises:
            DivergedError: a loss was not finite.
            KeyboardInterrupt: with a message that says where the weights are.
        """
        with torch.random.fork_rng(), kept_memory(), float32_products():
            try:
                while self.step < self.plan.steps:
                    self._phase()
            except KeyboardInterrupt:
                text = self.folder.keep_interrupted(len(self.history) + 1)
                raise KeyboardInterrupt(text) from None
        self.gan.generator.load_state_dict(self.average.weights)
        self.gan.eval()
        return tuple(self.history)

    def _phase(self) -> None:
        """Train to the end of the phase under way."""
        number, first, end = self.plan.phase_of(self.step)
        phase = self.plan.phases[number]
        side = " x ".join([str(phase.resolution)] * 3)
        name = f"phase {number + 1} of {len(self.plan.phases)}: {side}"
        self.progress.begin(name, end - first)
        began = kept = time.monotonic()
        while self.step < end:
            self._move(phase.stage(self.step - first))
            now = time.monotonic()
            self.spent_s, began = self.spent_s + now - began, now
            self.progress.advance(self.step - first, end - first)
            if self.step == self.plan.epoch_end(len(self.history)):
                self._close_epoch(phase)
            if now - kept >= CHECKPOINT_S and self.step < end:
                kept = now
                self.folder.keep(f"step {self.step}")
        if self.history:
            row = self.history[-1]
            self.progress.note(
                f"{name}, step {self.step}: critic {row['critic_loss']:.3f}, "
                f"generator {row['generator_loss']:.3f}"
            )
        self.folder.keep(f"phase {number + 1}")
        if self.job.on_phase is not None:
            self.job.on_phase(self, number + 1)

    def _move(self, stage: Stage) -> None:
        """One step: the critic's move, then the generator's."""
        numbers = torch.Generator().manual_seed(
            mix_seed(self.config.seed, "step", self.step)
        )
        shape = 2, self.batch_size, self.gan.latent_size
        for_critic, for_generator = torch.randn(shape, generator=numbers).to(
            self.job.device
        )
        real = self.job.images.at(self._next_images(), stage).to(self.job.device)
        losses = self._move_critic(real, for_critic, stage)
        losses |= self._move_generator(for_generator, real.detach(), stage)
        self.step += 1
        for name, value in losses.items():
            if not math.isfinite(value):
                raise DivergedError(
                    f"{name.replace('_', ' ')} is {value} in step {self.step}, at "
                    f"{stage.resolution} voxels a side: give a lower learning_rate or "
                    "a higher penalty"
                )
            self.sums[name] += value

    def _move_critic(self, real: Tensor, latents: Tensor, stage: Stage) -> Row:
        with torch.no_grad():
            fake = self.gan.make(latents, stage)
        is_due = self.config.penalty and self.step % self.config.penalty_every == 0
        real.requires_grad_(bool(is_due))
        of_real, of_fake = self.gan.judge(real, stage), self.gan.judge(fake, stage)
        loss = F.softplus(-of_real).mean() + F.softplus(of_fake).mean()
        total, found = loss, {}
        if is_due:
            squared = squared_gradient(of_real, real)
            weight = self.config.penalty / 2 * (stage.resolution / PENALISED_SIDE) ** 3
            # Times the number of steps that it stands for.
            total = loss + weight * self.config.penalty_every * squared
            found = {"penalty": float(weight * squared.detach())}
            self._n_penalties += 1
        self._apply("critic", total)
        return found | {
            "critic_loss": float(loss.detach()),
            "real_score": float(of_real.detach().mean()),
            "fake_score": float(of_fake.detach().mean()),
        }

    def _move_generator(self, latents: Tensor, real: Tensor, stage: Stage) -> Row:
        self.gan.critic.requires_grad_(False)
        made = self.gan.make(latents, stage)
        loss = F.softplus(-self.gan.judge(made, stage)).mean()
        self._apply("generator", loss + VARIETY * lack_of_variety(made, real))
        self.gan.critic.requires_grad_(True)
        self.average.update(self.gan.generator)
        return {"generator_loss": float(loss.detach())}

    def _apply(self, player: str, loss: Tensor) -> None:
        """Let one player make a step of its optimiser."""
        optimizer = self.players[player]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def _next_images(self) -> Tensor:
        """Numbers of the real images of this step: each image once in every pass."""
        n_images, first = len(self.job.images), self.step * self.batch_size
        found = []
        for place in range(first, first + self.batch_size):
            passed, rest = divmod(place, n_images)
            if self._order[0] != passed:
                numbers = torch.Generator().manual_seed(
                    mix_seed(self.config.seed, "pass", passed)
                )
                self._order = passed, torch.randperm(n_images, generator=numbers)
            found.append(int(self._order[1][rest]))
        return torch.tensor(found)

    def _close_epoch(self, phase: Phase) -> None:
        first = self.history[-1]["step"] if self.history else 0
        counts = dict.fromkeys(LOSSES, self.step - first)
        counts["penalty"] = max(1, self._n_penalties)
        means = {name: self.sums[name] / max(1, counts[name]) for name in LOSSES}
        self.history.append(
            {
                "epoch": len(self.history) + 1,
                "step": self.step,
                "resolution": phase.resolution,
                **means,
                "seconds": self.spent_s,
            }
        )
        self.sums, self.spent_s = dict.fromkeys(LOSSES, 0.0), 0.0
        self._n_penalties = 0

    def _write(self, path: Path) -> None:
        """Write the present state to a file."""
        tensors = {f"gan/{k}": v for k, v in self.gan.state_dict().items()}
        tensors |= {f"average/{k}": v for k, v in self.average.weights.items()}
        texts = {
            "generator_recipe": self.job.recipe.to_json(),
            "history": json.dumps(self.history),
            "place": json.dumps([self.step, self.average.n_steps, self._n_penalties]),
            "sums": json.dumps([self.sums, self.spent_s]),
        }
        for player, optimizer in self.players.items():
            moments, about = pack_optimizer(optimizer.state_dict(), player)
            tensors |= moments
            texts |= {f"{player}-{name}": text for name, text in about.items()}
        write_state(tensors, texts, path)

    def resume(self, directory: Path) -> None:
        """Go on from the last checkpoint in a folder, if there is one.

        Raises: InputError where it is damaged, or belongs to another training.
        """
        path = directory / LAST
        if not path.exists():
            return
        tensors, texts = read_state(path)
        if "generator_recipe" not in texts:
            raise InputError(f"{path}: is not a checkpoint of a generator")
        check_state(tensors, texts, path)
        with held_together(path, "cannot resume: "):
            before = GeneratorRecipe.from_json(texts["generator_recipe"])
            _check_continues(before, self.job.recipe)
            self._restore(tensors, texts)

    def _restore(self, tensors: dict[str, Tensor], texts: Mapping[str, str]) -> None:
        read: Any = {
            name: parse_json(texts[name], "checkpoint")
            for name in ("history", "place", "sums")
        }
        load_weights(self.gan, with_prefix(tensors, "gan"))
        self.step, n_averaged, self._n_penalties = map(int, read["place"])
        self.average.restore(with_prefix(tensors, "average"), n_averaged)
        for player, optimizer in self.players.items():
            groups, scalars = (texts[f"{player}-{n}"] for n in ("groups", "scalars"))
            state = unpack_optimizer(tensors, player, groups, scalars)
            optimizer.load_state_dict(state)
        self.history = list(check_history(read["history"]))
        sums, self.spent_s = read["sums"]
        self.sums = {name: float(sums[name]) for name in LOSSES}


def lack_of_variety(made: Tensor, real: Tensor) -> Tensor:
    """By how much the images of a batch are more alike than as many real ones.

    Args:
        made: generated images, (B, C, I, J, K).
        real: real images, of the same shape.

    Returns:
        0 where they differ as much or more, 1 where all are the same; 0 of one image.
    """
    of_made, of_real = _spread(made), _spread(real)
    return F.relu(of_real - of_made) / of_real.clamp_min(1e-6)


def _spread(images: Tensor) -> Tensor:
    """Mean absolute difference between pairs of coarse images (B, C, r, r, r)."""
    coarse = F.adaptive_avg_pool3d(images, min(images.shape[-1], VARIED_SIDE))
    return (coarse[:, None] - coarse).abs().mean()


def squared_gradient(scores: Tensor, images: Tensor) -> Tensor:
    """Mean over the images of the squared norm of the gradient of their scores.

    Args:
        scores: (B,), each a function of its image alone or of the batch.
        images: (B, C, I, J, K), which require gradients.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def _check_continues(old: GeneratorRecipe, new: GeneratorRecipe) -> None:
    """Refuse another training than the one that was begun; it may be longer.

    Raises: InputError where anything but the number of epochs differs.
    """
    if change := find_change(
        old, new, ("generator", "images", "training"), ("epochs",)
    ):
        raise InputError(
            f"{change}: give the old value or another checkpoint directory"
        )
    if old.provenance.files != new.provenance.files:
        raise InputError(
            "the training files have changed: give another checkpoint directory"
        )


def sample_average(training: Adversarial, stage: Stage, seeds: list[int]) -> Tensor:
    """Images of a training under way, made by the averaged weights; see `sample`."""
    gan: nn.Module = training.gan
    gan.eval()
    with training.average.applied(training.gan.generator):
        made = sample(training.gan, stage, seeds, training.job.device)
    gan.train()
    return made
