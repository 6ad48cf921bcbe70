"""Apply draws to a whole volume, tile by tile, keeping statistics only."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from nobrainer.bayes.draws import Draw, Draws, plan_draws
from nobrainer.inference.moments import RunningMoments, Statistics
from nobrainer.inference.tiles import (
    Tile,
    choose_core,
    content_box,
    dilate,
    plan_tiles,
    read_window,
    round_up,
)
from nobrainer.types import Shape3

MEMORY_BYTES = 4_000_000_000
"""What the activations and statistics of one window may take at most, roughly."""
CACHE_BYTES = 100_000_000
"""Activations of a window up to which a CPU was measured to be fastest."""


@dataclass(frozen=True)
class TileResult:
    """The statistics of one core, on the CPU.

    `where` indexes the volume; the arrays have the core's shape (i, j, k), and
    `probabilities` and `votes` (C, i, j, k). See `Statistics` for their meaning.
    """

    where: tuple[slice, slice, slice]
    label: np.ndarray
    variance: np.ndarray
    entropy: np.ndarray
    mutual_information: np.ndarray
    probabilities: np.ndarray
    votes: np.ndarray


@dataclass(frozen=True)
class Scaling:
    """A change of the logits that calibrates them: logits · weight + bias.

    One number a class each. It comes before every draw's softmax, so it is the mean
    over draws that is calibrated.
    """

    weight: tuple[float, ...]
    bias: tuple[float, ...]


@dataclass(frozen=True)
class Sampling:
    """How a volume is predicted.

    seed: of the draws.
    n_samples: number of draws; 0 is one pass with the posterior mean (of each
        member of an ensemble).
    block_shape: core voxels per tile, rounded up to the pooling grid; None lets the
        memory decide. It does not change the result of a network of local
        operations. For the others it is the size of the blended windows.
    batch_size: windows per pass.
    scaling: what calibrates the logits; None leaves them.
    """

    seed: int
    n_samples: int
    block_shape: Shape3 | None = None
    batch_size: int = 1
    scaling: Scaling | None = None


OnLogits = Callable[[int, tuple[slice, slice, slice], Tensor], None]


def predict_volume(
    model: nn.Module,
    image: np.ndarray,
    sampling: Sampling,
    *,
    n_classes: int,
    background: float,
    device: torch.device,
    dtype: torch.dtype,
    on_tile: Callable[[TileResult], None],
    on_pass: Callable[[int, int], None] = lambda done, total: None,
    on_logits: OnLogits | None = None,
) -> np.ndarray:
    """Predict a preprocessed volume and hand over each tile's statistics.

    Args:
        model: a model of the registry (see `nobrainer.models.registry`).
        image: (I, J, K), preprocessed as in training.
        sampling: draws and tiling.
        n_classes: classes of the model's output.
        background: value of the endless field around the volume.
        device, dtype: where and in which number format the network runs; the
            statistics are float32.
        on_tile: called once for each tile; the tiles cover the volume once.
        on_pass: called with (done, total) after each pass of a batch of windows.
        on_logits: called once for each draw and tile with the draw's number, where
            the tile lies, and its logits (C, i, j, k) before any scaling, float32.

    Returns: (n_draws, n_classes) voxel counts of each draw's labels.
    """
    work = _Work(
        Draws(model, device, dtype),
        plan_draws(model, sampling.seed, sampling.n_samples),
        image,
        sampling,
        n_classes,
        background,
        on_logits,
    )
    halo: int | None = model.halo  # type: ignore[assignment]
    stride: int = model.stride  # type: ignore[assignment]
    shape: Shape3 = image.shape
    if halo is None:
        return work.run_blended(stride, on_tile, on_pass)
    box = dilate(content_box(image, background), halo, shape)
    if sampling.block_shape is None:
        # About six float32 tensors each, of activations and of statistics.
        activations, statistics = 24 * int(model.width), 24 * n_classes  # type: ignore[arg-type]
        core = choose_core(
            box.shape,
            stride,
            halo,
            fast_voxels=CACHE_BYTES // activations,
            max_voxels=MEMORY_BYTES // (activations + statistics),
        )
    else:
        i, j, k = (round_up(b, stride) for b in sampling.block_shape)
        core = (i, j, k)
    return work.run_exact(
        core, halo, plan_tiles(shape, box, core, stride), on_tile, on_pass
    )


@dataclass(frozen=True)
class _Work:
    """One volume's prediction."""

    draws: Draws
    plan: list[Draw]
    image: np.ndarray
    sampling: Sampling
    n_classes: int
    background: float
    on_logits: OnLogits | None

    @torch.inference_mode()
    def run_exact(
        self,
        core: Shape3,
        halo: int,
        tiles: list[Tile],
        on_tile: Callable[[TileResult], None],
        on_pass: Callable[[int, int], None],
    ) -> np.ndarray:
        """Compute every tile from its window; windows of background only once."""
        counts = np.zeros((len(self.plan), self.n_classes), np.int64)

        def window_of(tile: Tile) -> np.ndarray:
            return read_window(self.image, tile, core, halo, self.background)

        empty: list[Tile] = []
        full: list[Tile] = []
        for tile in tiles:
            # The window may be larger than what the tile's own result looks at.
            seen = read_window(self.image, tile, tile.shape, halo, self.background)
            (empty if (seen == self.background).all() else full).append(tile)
        batches = [
            full[n : n + self.sampling.batch_size]
            for n in range(0, len(full), self.sampling.batch_size)
        ]
        total = (len(batches) + bool(empty)) * len(self.plan)
        done = 0

        def passes(windows: np.ndarray, areas: list[Tile]) -> Statistics:
            nonlocal done
            moments = RunningMoments()
            for n, network in enumerate(self._networks()):
                logits = network(self._tensor(windows))
                inner = (slice(halo, halo + c) for c in core)
                logits = logits[:, :, *inner].float()
                label = self._take(n, logits, areas, moments)
                for row, area in zip(
                    label.expand(len(areas), *core), areas, strict=True
                ):
                    counts[n] += self._count(row, area)
                done += 1
                on_pass(done, total)
            return moments.result()

        for batch in batches:
            statistics = passes(np.stack([window_of(t) for t in batch]), batch)
            for n, tile in enumerate(batch):
                on_tile(_crop(statistics, n, tile))
        if empty:
            window = np.full([c + 2 * halo for c in core], self.background, np.float32)
            statistics = passes(window[None], empty)
            for tile in empty:
                on_tile(_crop(statistics, 0, tile))
        return counts

    @torch.inference_mode()
    def run_blended(
        self,
        stride: int,
        on_tile: Callable[[TileResult], None],
        on_pass: Callable[[int, int], None],
    ) -> np.ndarray:
        """Blend overlapping windows (Gaussian weights) of a network that is not local.

        Each draw's whole volume is held at once; the result depends on the windows.
        """
        block = self.sampling.block_shape or (96, 96, 96)
        roi = [round_up(b, stride) for b in block]
        i, j, k = self.image.shape
        whole = Tile((0, 0, 0), (i, j, k))
        window = read_window(self.image, whole, (i, j, k), 0, self.background)
        counts = np.zeros((len(self.plan), self.n_classes), np.int64)
        moments = RunningMoments()
        for n, network in enumerate(self._networks()):
            logits = sliding_window_inference(
                self._tensor(window[None]),
                roi,
                self.sampling.batch_size,
                network,
                overlap=0.25,
                mode="gaussian",
                cval=self.background,
            )
            assert isinstance(logits, Tensor)
            label = self._take(n, logits.float(), [whole], moments)
            counts[n] += self._count(label[0], whole)
            on_pass(n + 1, len(counts))
        on_tile(_crop(moments.result(), 0, whole))
        return counts

    def _take(
        self, n: int, logits: Tensor, areas: list[Tile], moments: RunningMoments
    ) -> Tensor:
        """Add draw `n` of some tiles to the statistics; returns its labels.

        One row of logits may serve several tiles (those of nothing but background).
        """
        if self.on_logits is not None:
            rows = logits.expand(len(areas), *logits.shape[1:])
            for row, area in zip(rows, areas, strict=True):
                i, j, k = area.shape
                self.on_logits(n, area.where, row[:, :i, :j, :k].cpu())
        if self.sampling.scaling is not None:
            weight, bias = (
                logits.new_tensor(values)[:, None, None, None]
                for values in (self.sampling.scaling.weight, self.sampling.scaling.bias)
            )
            logits = logits * weight + bias
        return moments.update(torch.softmax(logits, 1))

    def _networks(self) -> Iterator[nn.Module]:
        for draw in self.plan:
            yield self.draws.set(*draw).network

    def _tensor(self, windows: np.ndarray) -> Tensor:
        x = torch.from_numpy(windows[:, None]).to(self.draws.device, self.draws.dtype)
        return x.contiguous(memory_format=torch.channels_last_3d)

    def _count(self, label: Tensor, tile: Tile) -> np.ndarray:
        i, j, k = tile.shape
        inside = label[:i, :j, :k].flatten()
        return torch.bincount(inside, minlength=self.n_classes).cpu().numpy()


def _crop(statistics: Statistics, n: int, tile: Tile) -> TileResult:
    """Row `n` of the statistics, without what lies outside of the volume."""
    i, j, k = tile.shape
    return TileResult(
        tile.where, *(s[n][..., :i, :j, :k].cpu().numpy() for s in statistics)
    )
