"""The predictor: a trained network, and how it is applied to scans."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from nobrainer.bayes.draws import Draw, Draws, plan_draws
from nobrainer.inference.intensities import Histograms, Likelihood
from nobrainer.inference.predict import (
    OnLogits,
    Sampling,
    Scaling,
    TileResult,
    VolumePrediction,
)
from nobrainer.rounding import float32_products


@dataclass(frozen=True)
class Evidence:
    """How much the scan's own intensities count beside the network.

    weight: power of the densities of the classes' intensities, in (0, 1].
    shared: (C,) for each class the number of its histogram, see
        `nobrainer.inference.intensities.Histograms`.
    """

    weight: float
    shared: tuple[int, ...]


@dataclass(frozen=True)
class Predictor:
    """A trained network and how it is applied to a prepared scan.

    model: a model of the registry (see `nobrainer.models.registry`).
    n_classes: number of classes of the model's output.
    sampling: number and seed of the draws, and how the scan is cut up.
    device: device that the network runs on.
    dtype: number format that the network runs in; the statistics are float32.
    scaling: change of the logits that calibrates them; None leaves them as they are.
    evidence: how the scan's own intensities change the logits, before the scaling. It
        takes one more pass, of the posterior mean, unless what that pass finds is given
        (see `look_at`). None leaves them as they are.
    tf32: whether a GPU may round the products of float32 numbers, see
        `nobrainer.rounding.float32_products`.
    on_pass: called with (done, total) after each pass of a batch of windows.
    """

    model: nn.Module
    n_classes: int
    sampling: Sampling
    device: torch.device
    dtype: torch.dtype = torch.float32
    scaling: Scaling | None = None
    evidence: Evidence | Likelihood | None = None
    tf32: bool = False
    on_pass: Callable[[int, int], None] = lambda done, total: None

    @property
    def n_passes(self) -> int:
        """How many passes a scan gets: one per draw, or those of the posterior mean."""
        return len(self._plan())

    def __call__(
        self,
        image: np.ndarray,
        background: float,
        on_tile: Callable[[TileResult], None],
        *,
        on_logits: OnLogits | None = None,
    ) -> np.ndarray:
        """Predict a prepared scan and hand over each tile's statistics.

        Args:
            image: intensities (I, J, K), float32, preprocessed as in training.
            background: value of the endless field around the volume.
            on_tile: called once for each tile; the tiles cover the volume once.
            on_logits: called once for each draw and tile with the draw's number, where
                the tile lies, and its logits (C, i, j, k) before any scaling, float32,
                on the device or the CPU.

        Returns: (n_passes, n_classes) voxel counts of each draw's labels.
        """
        likelihood = self.look_at(image, background)
        return self._run(
            self._plan(), image, background, on_tile, on_logits, likelihood
        )

    def look_at(self, image: np.ndarray, background: float) -> Likelihood | None:
        """What the classes look like in a prepared scan, by one pass over it.

        Args:
            image, background: as for a prediction.

        Returns:
            What the intensities of this scan say; None where `evidence` is None or
            nothing can be learned from them.
        """
        if not isinstance(self.evidence, Evidence):
            return self.evidence
        histograms = Histograms(image, self.evidence.shared, self.device)
        means = plan_draws(self.model, self.sampling.seed, 0)
        first = replace(self, scaling=None, on_pass=lambda done, total: None)
        first._run(means, image, background, None, histograms.keep, None)
        return histograms.fit(self.evidence.weight)

    def _run(
        self,
        plan: list[Draw],
        image: np.ndarray,
        background: float,
        on_tile: Callable[[TileResult], None] | None,
        on_logits: OnLogits | None,
        likelihood: Likelihood | None,
    ) -> np.ndarray:
        """Predict a scan with the draws of a plan, see `__call__`."""
        prediction = VolumePrediction(
            Draws(self.model, self.device, self.dtype),
            plan,
            image,
            torch.from_numpy(image).to(self.device),
            background,
            self.sampling,
            self.scaling,
            self.n_classes,
            on_tile,
            self.on_pass,
            on_logits,
            likelihood,
        )
        model = self.model
        halo: int | None = model.halo  # type: ignore[assignment]
        with torch.inference_mode(), float32_products(tf32=self.tf32):
            if halo is None:
                return prediction.run_blended()
            stride, width = int(model.stride), int(model.width)  # type: ignore[arg-type]
            return prediction.run_exact(halo, stride, width)

    def _plan(self) -> list[Draw]:
        return plan_draws(self.model, self.sampling.seed, self.sampling.n_draws)
