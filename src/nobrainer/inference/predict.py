"""Apply draws to a whole volume, slab by slab, keeping statistics only."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from nobrainer import inference
from nobrainer.bayes.draws import Draw, Draws
from nobrainer.inference.intensities import Likelihood
from nobrainer.inference.logits import LastSteps
from nobrainer.inference.moments import RunningMoments, Statistics, statistics_bytes
from nobrainer.inference.stream import Stream
from nobrainer.inference.tiles import (
    NOWHERE,
    Box,
    Tile,
    around,
    choose_core,
    content_box,
    cut_slabs,
    dilate,
    in_reach,
    is_empty,
    outline,
    plan_tiles,
)
from nobrainer.inference.windows import Windows
from nobrainer.models.check import blended_window
from nobrainer.types import Shape3

MEMORY_BYTES = 1_500_000_000
"""Approximate limit for the statistics of a tile and the network's results on it."""
SLAB_BYTES = {"cpu": 8_000_000, "cuda": 256_000_000}
"""Size of a slab's widest result: it fits into a CPU's cache, and keeps a GPU busy."""


@dataclass(frozen=True)
class TileResult:
    """The statistics of one tile, on the CPU.

    where: index of the tile in the volume.
    label, variance, entropy, mutual_information: (i, j, k), see `Statistics`.
    probabilities, votes: (C, i, j, k), see `Statistics`.
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

    It is applied before the softmax of every draw, so that the mean over draws is
    calibrated.

    weight: factor of each class's logit (C,).
    bias: summand of each class's logit (C,).
    """

    weight: tuple[float, ...]
    bias: tuple[float, ...]

    def __call__(self, logits: Tensor) -> Tensor:
        """Calibrated logits (C, ...) from a network's logits (C, ...)."""
        shape = (-1, *[1] * (logits.ndim - 1))
        weight, bias = (
            logits.new_tensor(values).reshape(shape)
            for values in (self.weight, self.bias)
        )
        return logits * weight + bias


@dataclass(frozen=True)
class Sampling:
    """Which draws a volume is predicted with, and how much of it at a time.

    seed: seed from which every draw of the weights follows.
    n_draws: number of draws; 0 is one pass with the posterior mean (of each member of
        an ensemble).
    block_shape: voxels of a tile; None lets the memory decide. It does not change the
        result of a network of local operations. For the others it is the size of the
        blended windows.
    batch_size: number of slabs (for the others: windows) in one pass.
    """

    seed: int
    n_draws: int
    block_shape: Shape3 | None = None
    batch_size: int = 1


OnLogits = Callable[[int, tuple[slice, slice, slice], Tensor], None]


def slab_planes(
    core: Shape3, width: int, n_classes: int, device: torch.device, itemsize: int
) -> int:
    """How many planes of a tile are computed at a time, at least 1.

    Args:
        core: voxels of the tile along each axis.
        width: channels of the network at full resolution.
        n_classes: number of classes, the channels of its output.
        device: the device that computes.
        itemsize: size of one number, in bytes.
    """
    plane = core[1] * core[2] * max(width, n_classes) * itemsize
    return max(1, SLAB_BYTES[device.type] // max(1, plane))


@dataclass(frozen=True)
class _Work:
    """A tile, and how it is computed.

    tile: the tile.
    content: box, in what its output depends on, that is not background, or `NOWHERE`.
    rows: where the content is in each of its planes, see `outline`.
    planes: number of planes of a slab.
    slabs: the slabs of the tile, in order.
    parts: for each slab the part that may depend on the content, or `NOWHERE`.
    """

    tile: Tile
    content: Box
    rows: np.ndarray | None
    planes: int
    slabs: list[Box]
    parts: list[Box]


@dataclass(frozen=True)
class VolumePrediction:
    """The prediction of one volume, under way.

    draws: the plain network, which is set to one draw after the other.
    plan: the draws to make.
    image: intensities of the prepared scan, (I, J, K).
    scan: the same on the device that computes.
    background: value of the endless field around the volume.
    sampling: size of tiles and slabs.
    scaling: change of the logits that calibrates them; None leaves them as they are.
    n_classes: number of channels of the network's output.
    on_tile, on_pass, on_logits: see `nobrainer.inference.predictor.Predictor`; without
        on_tile there are no statistics and no counts.
    likelihood: what the scan's own intensities add to the logits; None adds nothing.
    streams: for each network used so far, what computes its layers slab by slab.
    """

    draws: Draws
    plan: list[Draw]
    image: np.ndarray
    scan: Tensor
    background: float
    sampling: Sampling
    scaling: Scaling | None
    n_classes: int
    on_tile: Callable[[TileResult], None] | None
    on_pass: Callable[[int, int], None]
    on_logits: OnLogits | None
    likelihood: Likelihood | None = None
    streams: dict[nn.Module, Stream | Windows] = field(default_factory=dict)

    def run_exact(self, halo: int, stride: int, width: int) -> np.ndarray:
        """Compute each tile around the content, and the field beyond it only once.

        Args:
            halo: how many voxels around an output voxel the network looks at.
            stride: step of the network's pooling grid, in voxels.
            width: channels of the network at full resolution.

        Returns: (n_passes, n_classes) voxel counts of each draw's labels.
        """
        device, itemsize = self.draws.device, self.draws.dtype.itemsize
        shape: Shape3 = self.image.shape
        box = dilate(content_box(self.image, self.background), halo, stride, shape)

        # Where the last layer is applied part by part, its result is never held.
        last_layer = self._stream(self.draws.network).last_layer
        n_outputs = self.n_classes if last_layer is None else 1

        def planes(core: Shape3) -> int:
            n = slab_planes(core, width, n_outputs, device, itemsize)
            return self.sampling.batch_size * n

        def fits(core: Shape3) -> bool:
            i, j, k = core
            stream = self._stream(self.draws.network)
            everywhere = ((-halo, i + halo), (-halo, j + halo), (-halo, k + halo))
            stream.plan(everywhere, ((0, i), (0, j), (0, k)), planes(core))
            statistics = statistics_bytes(self.n_classes) * i * j * k
            return stream.n_bytes + statistics <= MEMORY_BYTES

        extent = box.shape if all(box.shape) else shape
        core = self.sampling.block_shape or choose_core(extent, fits)
        full: list[_Work] = []
        rest: list[Tile] = []
        for tile in plan_tiles(shape, box, core):
            content = self._content(tile, halo, stride)
            if content == NOWHERE:
                rest.append(tile)
            else:
                work = self._work(tile, content, planes(tile.shape), halo + stride)
                full.append(work)
                for slab, inner in zip(work.slabs, work.parts, strict=True):
                    rest += map(Tile.of, around(inner, slab))
        n_slabs = sum(not is_empty(box) for work in full for box in work.parts)
        total = (n_slabs + bool(rest)) * len(self.plan)
        counts = np.zeros((len(self.plan), self.n_classes), np.int64)
        done = 0
        for work in full:
            moments: dict[Tile, RunningMoments] = defaultdict(RunningMoments)
            for n, part, seen, last in self._run(work):
                if self.on_tile is not None:
                    label = moments[part].update(seen, last).flatten()
                    found = torch.bincount(label, minlength=self.n_classes)
                    counts[n] += found.cpu().numpy()
                if self.on_logits is not None:
                    self.on_logits(n, part.where, last.unscaled(seen).cpu())
                done += 1
                self.on_pass(done, total)
            if self.on_tile is not None:
                for part in list(moments):
                    # What was handed over gives room to what others make of it.
                    self.on_tile(_result(moments.pop(part).result(), part))
        if rest:
            counts += self._fill(rest, stride, lambda n: self.on_pass(done + n, total))
        return counts

    def _fill(
        self, tiles: list[Tile], stride: int, on_draw: Callable[[int], None]
    ) -> np.ndarray:
        """Predict tiles that see background only: the output repeats with the grid."""
        if all(self._stream(d).is_constant for d in self.draws.networks):
            stride = 1
        pattern = Tile((0, 0, 0), (stride, stride, stride))
        phases = [[torch.arange(a, b) % stride for a, b in tile.box] for tile in tiles]
        times = np.zeros(pattern.shape, np.int64)
        for axes in phases:
            i, j, k = (np.bincount(phase, minlength=stride) for phase in axes)
            times += i[:, None, None] * j[:, None] * k
        counts = np.zeros((len(self.plan), self.n_classes), np.int64)
        moments = RunningMoments()
        whole = [pattern.box]
        work = _Work(pattern, NOWHERE, None, stride, whole, whole)
        for n, _, seen, last in self._run(work):
            label = moments.update(seen, last).cpu().numpy()
            np.add.at(counts[n], label, times)
            if self.on_logits is not None:
                logits = last.unscaled(seen).cpu()
                for tile, axes in zip(tiles, phases, strict=True):
                    self.on_logits(n, tile.where, _repeat(logits, axes))
            on_draw(n + 1)
        if self.on_tile is None:
            return counts
        statistics = [values.cpu() for values in moments.result()]
        for tile, axes in zip(tiles, phases, strict=True):
            repeated = (_repeat(values, axes) for values in statistics)
            self.on_tile(_result(Statistics(*repeated), tile))
        return counts

    def _run(self, work: "_Work") -> Iterator[tuple[int, Tile, Tensor, LastSteps]]:
        """Number of each draw, each part of a tile, and what makes its logits."""
        current: Stream | Windows | None = None
        for n, draw in enumerate(self.plan):
            stream = self._stream(self.draws.set(*draw).network)
            if stream is not current:
                if current is not None:
                    current.release()
                current = stream
                stream.plan(work.content, work.tile.box, work.planes, work.rows)
            made = stream.run(self.scan, self.background)
            for slab, part, seen in zip(work.slabs, work.parts, made, strict=True):
                if is_empty(part):
                    continue
                where = (
                    slice(start - origin, stop - origin)
                    for (start, stop), (origin, _) in zip(part, slab, strict=True)
                )
                tile, beyond = Tile.of(part), work.content == NOWHERE
                last = self._last(stream.last_layer, tile, beyond)
                yield n, tile, seen[0][:, *where], last

    def _stream(self, network: nn.Module) -> Stream | Windows:
        if network not in self.streams:
            how = network, self.draws.device, self.draws.dtype
            if getattr(network, "streams", False):
                self.streams[network] = Stream(*how)
            else:
                carried = {n: getattr(network, n) for n in ("halo", "stride", "width")}
                self.streams[network] = Windows(*how, **carried)
        return self.streams[network]

    def _work(self, tile: Tile, content: Box, planes: int, reach: int) -> "_Work":
        """How a tile is computed.

        Args:
            tile: the tile.
            content: box, in what its output depends on, that is not background.
            planes: number of planes of a slab.
            reach: how many voxels around itself a voxel depends on, at most.
        """
        rows = outline(self.image, self.background, content)
        slabs = [(edge, *tile.box[1:]) for edge in cut_slabs(tile.box, planes)]
        parts = [in_reach(slab, rows, content, reach) for slab in slabs]
        return _Work(tile, content, rows, planes, slabs, parts)

    def _content(self, tile: Tile, halo: int, stride: int) -> Box:
        """The box, in what a tile's output depends on, that is not background."""
        seen = dilate(tile, halo, stride, self.image.shape)
        found = content_box(self.image[seen.where], self.background)
        if not all(found.shape):
            return NOWHERE
        i, j, k = (
            (origin + a, origin + b)
            for origin, (a, b) in zip(seen.start, found.box, strict=True)
        )
        return i, j, k

    def run_blended(self) -> np.ndarray:
        """Blend overlapping windows (Gaussian weights) of a network that is not local.

        Each draw's whole volume is held at once; the result depends on the windows.

        Returns: (n_passes, n_classes) voxel counts of each draw's labels.

        Raises: InputError where the network takes windows of another shape alone.
        """
        whole = Tile((0, 0, 0), self.image.shape)
        window = self.scan[None, None].to(
            self.draws.dtype, memory_format=torch.channels_last_3d
        )
        counts = np.zeros((len(self.plan), self.n_classes), np.int64)
        moments = RunningMoments()
        for n, draw in enumerate(self.plan):
            network = self.draws.set(*draw).network
            roi = blended_window(network, self.image.shape, self.sampling.block_shape)
            logits = inference.blend_windows(
                network, window, roi, self.sampling.batch_size, self.background
            )
            last = self._last(None, whole)
            if self.on_tile is not None:
                label = moments.update(logits[0], last).flatten()
                found = torch.bincount(label, minlength=self.n_classes)
                counts[n] += found.cpu().numpy()
            if self.on_logits is not None:
                self.on_logits(n, whole.where, last.unscaled(logits[0]).cpu())
            self.on_pass(n + 1, len(counts))
        if self.on_tile is not None:
            self.on_tile(_result(moments.result(), whole))
        return counts

    def _last(
        self, layer: nn.Conv3d | None, area: Tile, beyond: bool = False
    ) -> LastSteps:
        """What makes logits of what a network's last layer sees.

        Args:
            layer: the last layer; None where what is seen are logits.
            area: where in the scan.
            beyond: whether that is in the field beyond it.
        """
        if self.likelihood is None:
            return LastSteps(layer, scaling=self.scaling)
        if beyond:
            seen = self.scan.new_full(area.shape, self.background)
        else:
            seen = self.scan[area.where]
        return LastSteps(layer, self.likelihood, seen, self.scaling)


def _repeat(pattern: Tensor, axes: Sequence[Tensor]) -> Tensor:
    """Values of a pattern (..., i, j, k) at the places that three axes span."""
    if pattern.shape[-3:].numel() == 1:
        # A view, which takes no memory.
        return pattern.expand(*pattern.shape[:-3], *(len(axis) for axis in axes))
    i, j, k = axes
    return pattern[..., i[:, None, None], j[:, None], k]


def _result(statistics: Statistics, area: Tile) -> TileResult:
    return TileResult(area.where, *(values.cpu().numpy() for values in statistics))
