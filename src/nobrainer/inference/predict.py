"""Apply draws to a whole volume, slab by slab, keeping statistics only."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from nobrainer import inference
from nobrainer.bayes.draws import Draw, Draws
from nobrainer.bayes.transfer import is_remote
from nobrainer.inference.field import Field
from nobrainer.inference.intensities import Likelihood
from nobrainer.inference.logits import LastSteps
from nobrainer.inference.moments import RunningMoments, Statistics
from nobrainer.inference.slabs import MEMORY_BYTES, Slabs, slab_planes
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
from nobrainer.inference.windows import Windows, is_local, make_stream
from nobrainer.models.check import blended_window
from nobrainer.types import Shape3

_CPU = torch.device("cpu")
_PIECE_BYTES = 16_000_000
"""Probabilities of a single draw that are handed over at a time, on a CPU. Blocks of
more than 32 MiB glibc would take from the system every time, which clears each page."""


@dataclass(frozen=True)
class TileResult:
    """The statistics of one tile, each of which leaves the device when it is asked for.

    where: index of the tile in the volume.
    statistics: the statistics, on the device that computed them.
    """

    where: tuple[slice, slice, slice]
    statistics: Statistics

    @property
    def is_uniform(self) -> bool:
        """Whether all voxels are known to be alike, as those of an empty field are."""
        return not any(self.statistics.label.stride())

    @property
    def first_voxel(self) -> "TileResult":
        """The statistics of the first voxel alone, (1, 1, 1)."""
        i, j, k = (slice(edge.start, edge.start + 1) for edge in self.where)
        first = (values[..., :1, :1, :1] for values in self.statistics)
        return TileResult((i, j, k), Statistics(*first))

    @cached_property
    def label(self) -> np.ndarray:
        """(i, j, k), see `Statistics`, like the others."""
        return _numbers(self.statistics.label)

    @cached_property
    def variance(self) -> np.ndarray:
        """(i, j, k)."""
        return _numbers(self.statistics.variance)

    @cached_property
    def entropy(self) -> np.ndarray:
        """(i, j, k)."""
        return _numbers(self.statistics.entropy)

    @cached_property
    def mutual_information(self) -> np.ndarray:
        """(i, j, k)."""
        return _numbers(self.statistics.mutual_information)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(C, i, j, k)."""
        return _numbers(self.statistics.probabilities)

    @cached_property
    def votes(self) -> np.ndarray:
        """(C, i, j, k)."""
        return _numbers(self.statistics.votes)


def _numbers(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()


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

    def on(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """What makes calibrated logits (C, n) of a network's logits (C, n).

        Args:
            device: device of the logits.
        """
        weight, bias = torch.tensor(
            [self.weight, self.bias], dtype=torch.float32, device=device
        )[..., None]
        return lambda logits: logits * weight + bias


@dataclass(frozen=True)
class Sampling:
    """Which draws a volume is predicted with, and how much of it at a time.

    seed: seed from which every draw of the weights follows.
    n_draws: number of draws; 0 is one pass with the posterior mean (of each member of
        an ensemble).
    block_shape: voxels of a tile; None lets the memory decide. It does not change the
        result of a network of local operations. For the others it is the size of the
        blended windows.
    batch_size: on a CPU the number of slabs (for the others: of windows) in one pass.
    memory_bytes: approximate limit for what a prediction holds on the device that
        computes. It does not change the result of a network of local operations.
    """

    seed: int
    n_draws: int
    block_shape: Shape3 | None = None
    batch_size: int = 1
    memory_bytes: int = MEMORY_BYTES


OnLogits = Callable[[int, tuple[slice, slice, slice], Tensor], None]


@dataclass(frozen=True)
class _Work:
    """A tile, and how it is computed.

    tile: the tile.
    content: box, in what its output depends on, that is not background, or `NOWHERE`.
    rows: where the content is in each of its planes, see `outline`; None where that
        does not matter.
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
    _streams: dict[nn.Module, Stream | Windows] = field(default_factory=dict)
    _field_streams: dict[nn.Module, Stream | Windows] = field(default_factory=dict)
    _last_steps: dict[torch.device, LastSteps] = field(default_factory=dict)

    def run_exact(self, halo: int, stride: int, width: int) -> np.ndarray:
        """Compute each tile around the content, and the field beyond it only once.

        Args:
            halo: how many voxels around an output voxel the network looks at.
            stride: step of the network's pooling grid, in voxels.
            width: channels of the network at full resolution.

        Returns: (n_passes, n_classes) voxel counts of each draw's labels.
        """
        shape: Shape3 = self.image.shape
        box = dilate(content_box(self.image, self.background), halo, stride, shape)
        slabs = Slabs(
            self._stream(self.draws.network),
            halo,
            width,
            self.n_classes,
            len(self.plan),
            self.draws.device,
            self.draws.dtype.itemsize,
            self.sampling.batch_size,
            self.sampling.memory_bytes,
        )
        extent = box.shape if all(box.shape) else shape
        core = self.sampling.block_shape or choose_core(extent, slabs.fit)
        full: list[_Work] = []
        rest: list[Tile] = []
        for tile in plan_tiles(shape, box, core):
            content = self._content(tile, halo, stride)
            if content == NOWHERE:
                rest.append(tile)
            else:
                planes = slabs.planes(tile.shape)
                work = self._work(tile, content, planes, halo + stride)
                full.append(work)
                for slab, inner in zip(work.slabs, work.parts, strict=True):
                    rest += map(Tile.of, around(inner, slab))
        n_slabs = sum(not is_empty(box) for work in full for box in work.parts)
        passes = _Passes((n_slabs + bool(rest)) * len(self.plan), self.on_pass)
        counts = np.zeros((len(self.plan), self.n_classes), np.int64)
        field = self._field(rest, stride) if rest else None

        def run_field(n: int) -> None:
            if field is not None:
                counts[n] += self._run_field(n, field)
                passes.add()

        for number, work in enumerate(full):
            # The weights of a draw that are there serve the field as well.
            on_draw = run_field if number == 0 else _nothing
            counts += self._gather(self._run_tile(work, passes, on_draw))
        if not full:
            for n, draw in enumerate(self.plan):
                self.draws.set(*draw)
                run_field(n)
        if field is not None and self.on_tile is not None:
            for tile, statistics in field.results():
                self.on_tile(TileResult(tile.where, statistics))
        return counts

    def _gather(
        self,
        made: Iterator[tuple[int, Tile, Tensor, LastSteps]],
    ) -> np.ndarray:
        """Hand over the statistics of a tile, and return the counts of its labels.

        Args:
            made: the number of each draw, each part, what the last layer sees there and
                what makes logits of it.
        """
        moments: dict[Tile, RunningMoments] = defaultdict(RunningMoments)
        counts: dict[int, Tensor] = {}

        def hand_over(part: Tile) -> None:
            assert self.on_tile is not None
            self.on_tile(TileResult(part.where, moments.pop(part).result()))

        for n, part, seen, last in made:
            if self.on_tile is not None:
                moments[part].update(seen, last)
                found = moments[part].counts
                counts[n] = counts[n] + found if n in counts else found
                if len(self.plan) == 1:
                    hand_over(part)
            if self.on_logits is not None:
                self.on_logits(n, part.where, last.unscaled(seen))
        for part in list(moments):
            # What was handed over gives room to what others make of it.
            hand_over(part)
        if not counts:
            return np.zeros((len(self.plan), self.n_classes), np.int64)
        # One copy from the device for all draws.
        return torch.stack([counts[n] for n in sorted(counts)]).cpu().numpy()

    def _run_tile(
        self, work: "_Work", passes: "_Passes", on_draw: Callable[[int], None]
    ) -> Iterator[tuple[int, Tile, Tensor, LastSteps]]:
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
                for edge in cut_slabs(part, self._planes_at_once(part)):
                    tile = Tile.of((edge, *part[1:]))
                    where = (
                        slice(start - origin, stop - origin)
                        for (start, stop), (origin, _) in zip(
                            tile.box, slab, strict=True
                        )
                    )
                    last = self._last(stream.last_layer, self.scan[tile.where])
                    yield n, tile, seen[0][:, *where], last
                passes.add()
            on_draw(n)
        if current is not None:
            # Its results know each other, so that their memory would stay for long.
            current.release()

    def _planes_at_once(self, part: Box) -> int:
        """How many planes of a part of a tile make statistics of their own.

        Those of several draws stay until all are made.
        """
        shape = Tile.of(part).shape
        if len(self.plan) > 1 or is_remote(self.draws.device):
            return shape[0]
        return slab_planes(shape, 1, self.n_classes, 4, _PIECE_BYTES)

    def _field(self, tiles: list[Tile], stride: int) -> Field:
        """The field beyond the content, whose tiles see background only."""
        streams = [self._field_stream(network) for network in self.draws.networks]
        if all(stream.is_constant for stream in streams):
            stride = 1
        field = Field(tiles, stride)
        for stream in streams:
            stream.plan(NOWHERE, field.pattern.box, stride)
        return field

    def _run_field(self, n: int, field: Field) -> np.ndarray:
        """Add the draw that is set, number n, to the field; its counts of labels."""
        stream = self._field_stream(self.draws.network)
        (seen,) = next(stream.run(self.scan, self.background))
        intensities = seen.new_full(
            field.pattern.shape, self.background, dtype=torch.float32
        )
        last = self._last(stream.last_layer, intensities)
        counts = field.add(seen, last)
        if self.on_logits is not None:
            for tile, logits in field.spread(last.unscaled(seen).cpu()):
                self.on_logits(n, tile.where, logits)
        return counts

    def _stream(self, network: nn.Module) -> Stream | Windows:
        """What applies a network to the content of the volume."""
        if network not in self._streams:
            how = self.draws.device, self.draws.dtype
            twin = self.draws.on_cpu[network]
            self._streams[network] = make_stream(network, *how, twin)
        return self._streams[network]

    def _field_stream(self, network: nn.Module) -> Stream | Windows:
        """What applies a network to the field, whose few voxels stay on the CPU."""
        if network not in self._field_streams:
            how = self.draws.device, self.draws.dtype
            twin = self.draws.on_cpu[network]
            if is_remote(self.draws.device) and is_local(network):
                made = make_stream(twin, _CPU, torch.float32, twin)
            else:
                made = make_stream(network, *how, twin)
            self._field_streams[network] = made
        return self._field_streams[network]

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
        # A GPU would take more steps for less work, of which it has too little.
        seen = None if is_remote(self.draws.device) else rows
        return _Work(tile, content, seen, planes, slabs, parts)

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
            last = self._last(None, self.scan)
            if self.on_tile is not None:
                moments.update(logits[0], last)
                counts[n] = moments.counts.cpu().numpy()
            if self.on_logits is not None:
                self.on_logits(n, whole.where, last.unscaled(logits[0]))
            self.on_pass(n + 1, len(counts))
        if self.on_tile is not None:
            self.on_tile(TileResult(whole.where, moments.result()))
        return counts

    def _last(self, layer: nn.Conv3d | None, intensities: Tensor) -> LastSteps:
        """What makes logits of what a network's last layer sees.

        Args:
            layer: the last layer; None where what is seen are logits.
            intensities: those of the scan there.
        """
        device = intensities.device
        if device not in self._last_steps:
            likelihood, scaling = self.likelihood, self.scaling
            self._last_steps[device] = LastSteps(
                None,
                None if likelihood is None else likelihood.to(device),
                None,
                None if scaling is None else scaling.on(device),
            )
        return replace(self._last_steps[device], layer=layer, intensities=intensities)


class _Passes:
    """Tells of every pass how many are done, and of how many."""

    def __init__(self, total: int, on_pass: Callable[[int, int], None]) -> None:
        self._done, self._total, self._on_pass = 0, total, on_pass

    def add(self) -> None:
        """One more is done."""
        self._done += 1
        self._on_pass(self._done, self._total)


def _nothing(n: int) -> None:
    """The field beyond the content is predicted once, not with every tile."""
