"""When each phase of a training of two networks begins, and when it ends."""

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

from nobrainer.generators import Phase
from nobrainer.recipe import AdversarialConfig


@dataclass(frozen=True)
class PhasePlan:
    """When each phase of a training begins, and when it ends.

    phases: the phases that the training reaches.
    steps: number of all steps.
    n_images, batch_size: number of real images, and of those in a step.
    """

    phases: tuple[Phase, ...]
    steps: int
    n_images: int
    batch_size: int

    @classmethod
    def of(
        cls,
        phases: tuple[Phase, ...],
        n_images: int,
        batch_size: int,
        config: AdversarialConfig,
    ) -> Self:
        """The plan of a training.

        Where `epochs` ends it, its last phase is as long as need be, and phases that
        would begin later are left out.

        Args:
            phases: the phases of the two networks.
            n_images, batch_size: number of real images, and of those in a step.
            config: how the training was asked for.
        """
        steps = sum(phase.steps for phase in phases)
        if config.epochs is not None:
            steps = math.ceil(config.epochs * n_images / batch_size)
        starts = accumulate((phase.steps for phase in phases), initial=0)
        reached = [p for p, start in zip(phases, starts, strict=False) if start < steps]
        return cls(tuple(reached), steps, n_images, batch_size)

    def phase_of(self, step: int) -> tuple[int, int, int]:
        """Number of the phase of a step, from 0, and where it begins and ends."""
        first = 0
        for number, phase in enumerate(self.phases[:-1]):
            if step < first + phase.steps:
                return number, first, first + phase.steps
            first += phase.steps
        return len(self.phases) - 1, first, self.steps

    def epoch_end(self, epoch: int) -> int:
        """The number of steps after which a pass over the images (from 0) is over."""
        return math.ceil((epoch + 1) * self.n_images / self.batch_size)
