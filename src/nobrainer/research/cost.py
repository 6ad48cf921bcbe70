"""What a run will take of memory and time, before it starts.

Its size is counted; what a size costs on this machine is learned from the runs that
were done.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nobrainer import models
from nobrainer.bayes.draws import is_stochastic, plan_draws
from nobrainer.bayes.ensemble import EnsembleNetwork
from nobrainer.bayes.layers import StochasticLayer
from nobrainer.errors import InputError
from nobrainer.inference.moments import statistics_bytes
from nobrainer.inference.predict import slab_planes
from nobrainer.inference.tiles import round_up
from nobrainer.models.check import BLENDED_SIDE, check_block, imagined
from nobrainer.research.journal import Row, Size
from nobrainer.types import Shape3

PROCESS_BYTES, BYTES_PER_ACTIVATION, BYTES_PER_PARAMETER = 7.2e8, 4.7, 45.0
"""What the peak of memory is made of, before the rows tell better figures.

Measured for trainings of bayesian_vnet with 4 to 32 filters on 2 to 4 levels (CPU,
float32, Adam). A parameter takes more than its four bytes: its gradient, Adam's two
averages, the drawn weight and the graph of its KL.
"""
_PLANES = 5
"""Numbers held where windows are blended: for each voxel of a window and channel at
full resolution, and for each voxel of the scan and class."""
_SLABS = 8
"""Slabs held at once, at full resolution, where it is done slab by slab, besides the
planes that later layers look back at."""
_NOISE = 0.1
"""Expected relative error of a measured row."""
_DOUBT = 0.5
"""Expected relative error of the slopes that are assumed."""


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to take; None for what no row has measured yet.

    memory_bytes: at its peak.
    step_s: of one optimiser step.
    judge_s: of judging it on all scans and draws.
    """

    memory_bytes: float | None
    step_s: float | None
    judge_s: float | None


def count_size(
    model: str,
    model_args: Mapping[str, Any],
    *,
    n_classes: int,
    batch_size: int,
    block_shape: Shape3,
    judge_shapes: Sequence[Shape3],
    n_draws: int,
) -> Size:
    """Count a network and its work without building or applying it.

    Activations are what is held at once: what the layers give for a training batch,
    or what judging the largest scan holds, whichever is more. Of an ensemble,
    whose members are trained one after the other, they and the step's operations are
    those of its largest member; parameters are those of all.

    Args:
        model, model_args: of `nobrainer.models.build`.
        n_classes: of the dataset.
        batch_size, block_shape: of a training batch; the block in voxels.
        judge_shapes: voxels of each scan that it is judged on, once prepared.
        n_draws: that it is judged with; a deterministic model makes one pass.

    Raises:
        InputError: a model, argument or block that cannot be.
    """
    with imagined():
        network = models.build(model, **{"n_classes": n_classes, **model_args})
        members = (
            list(network.members) if isinstance(network, EnsembleNetwork) else [network]
        )
        steps = [_count_step(member, batch_size, block_shape) for member in members]
        plan = plan_draws(network, 0, n_draws if is_stochastic(network) else 0)
        judged = [
            [_count_judging(member, shape, n_classes) for shape in judge_shapes]
            for member in members
        ]
    return Size(
        parameters=sum(p.numel() for p in network.parameters() if p.requires_grad),
        activations=max(held for counts in (steps, *judged) for held, _ in counts),
        step_flop=max(flop for _, flop in steps),
        judge_flop=sum(flop for draw in plan for _, flop in judged[draw.member]),
    )


def check_patch(network: nn.Module, block_shape: Shape3) -> None:
    """Raise `InputError` for a block that pooling does not take or makes one voxel."""
    check_block(network, block_shape)
    stride: int = network.stride  # type: ignore[assignment]
    if all(side == stride for side in block_shape):
        raise InputError(
            f"block_shape must be more than {stride} voxels wide, which pooling makes "
            f"one, got {'x'.join(map(str, block_shape))}: give longer sides or fewer "
            "levels"
        )


def forecast(rows: Iterable[Row], size: Size) -> Forecast | None:
    """What a run of this size will take, learned from the rows; None before any.

    The peak of memory is a base and slopes times activations and parameters; the
    seconds of a step, and of judging, are a base and a slope times the operations.
    Each law is fitted to relative errors, with no part below 0 and the slopes drawn to
    what is assumed: of memory the figures above, of time the median of the rows. So
    one row tells the base of memory or the speed of the machine, and many rows
    overrule what is assumed.

    Runs that did not end well used at least the memory that was seen.

    Args:
        rows: of a study; those without sizes or measured figures teach nothing.
        size: of the run to come.
    """
    sized = [(row, row.size) for row in rows if row.size is not None]
    done = [(row, found) for row, found in sized if row.state == "done"]
    memory = _predict(
        [(_held(found), row.peak_memory_bytes) for row, found in done],
        _held(size),
        at_least=[
            (_held(found), row.peak_memory_bytes)
            for row, found in sized
            if row.state not in ("done", "running")
        ],
    )
    step_s = _predict_time(
        [(found.step_flop, _step_s(row.figures)) for row, found in done],
        size.step_flop,
    )
    judge_s = _predict_time(
        [(found.judge_flop, row.figures.get("judge_s", 0.0)) for row, found in done],
        size.judge_flop,
    )
    if memory is step_s is judge_s is None:
        return None
    return Forecast(memory, step_s, judge_s)


def why_not(
    forecast: Forecast | None,
    *,
    memory_bytes: int | None,
    seconds: float | None,
    train_s: float | None,
    n_steps: int | None,
) -> str | None:
    """Why a run should not start, in words; None where nothing speaks against it.

    Args:
        forecast: of the run; None says nothing.
        memory_bytes: that it may use; None for no limit.
        seconds: that are left for training and judging; None for no limit.
        train_s: at which its training is ended; None where its steps end it.
        n_steps: of the optimiser at most, those of all members of an ensemble.
    """
    if forecast is None:
        return None
    needs = forecast.memory_bytes
    if needs is not None and memory_bytes is not None and needs > memory_bytes:
        return (
            f"it would use about {needs / 1e9:.1f} GB of memory, "
            f"{memory_bytes / 1e9:.1f} GB are allowed"
        )
    if seconds is None:
        return None
    step_s, judging = forecast.step_s or 0.0, forecast.judge_s or 0.0
    ends = [] if train_s is None else [train_s]
    if n_steps is not None and forecast.step_s is not None:
        ends.append(step_s * n_steps)
    # Training looks at the clock after each step.
    training = max(step_s, min(ends, default=0.0))
    if training + judging <= seconds:
        return None
    return (
        f"it would take about {training + judging:.0f} s, {training:.0f} of training "
        f"and {judging:.0f} of judging: {seconds:.0f} s are left"
    )


Features = tuple[float, ...]
"""What a law is linear in."""
Measured = Sequence[tuple[Features, float]]
"""Features of rows, and what was measured."""


def _held(size: Size) -> Features:
    """Bytes of memory by the default figures."""
    return (
        PROCESS_BYTES,
        BYTES_PER_ACTIVATION * size.activations,
        BYTES_PER_PARAMETER * size.parameters,
    )


def _step_s(figures: Mapping[str, float]) -> float:
    """Measured seconds of a step; 0 where that was not measured."""
    n_steps = figures.get("steps", 0.0)
    return figures.get("train_s", 0.0) / n_steps if n_steps > 0 else 0.0


def _predict_time(measured: Sequence[tuple[float, float]], flop: float) -> float | None:
    """Seconds for some operations, from (operations, seconds) of rows."""
    points = _usable([((x,), y) for x, y in measured if x > 0])
    if not points:
        return None
    speed = float(np.median([y / x for (x,), y in points]))
    return _predict([((speed * x,), y) for (x,), y in points], (speed * flop,))


def _predict(
    measured: Measured, at: Features, *, at_least: Measured = ()
) -> float | None:
    """A law's value `at` some features whose slopes should be 1; None without rows.

    Args:
        measured: what the law is fitted to.
        at_least: the same, where the value may be more.
    """
    points, bounds = _usable(measured), _usable(at_least)
    if not points:
        return None
    # Nothing takes less than what is smaller in everything.
    least = [y for x, y in bounds if all(np.less_equal(x, at))]
    while True:
        law = _fit(points)
        above = [(x, y) for x, y in bounds if law @ (1.0, *x) < y]
        if not above:
            return max([float(law @ (1.0, *at)), *least])
        # What was seen of them is the best guess.
        points = points + above
        bounds = [bound for bound in bounds if bound not in above]


def _usable(rows: Measured) -> list[tuple[Features, float]]:
    return [
        (x, float(y)) for x, y in rows if y > 0 and all(map(math.isfinite, (*x, y)))
    ]


def _fit(points: Measured) -> np.ndarray:
    """Base and slopes, all >= 0.

    Maximum a posteriori with Gaussian errors: `_NOISE` of the measured values, `_DOUBT`
    of the slopes, which should be 1; any base is as likely.
    """
    x = np.array([features for features, _ in points])
    y = np.array([value for _, value in points])
    # In this unit, no unknown is tiny or huge.
    base = y.mean()
    rows = np.column_stack([np.full(len(x), base), x]) / (_NOISE * y)[:, None]
    assumed = np.eye(x.shape[1] + 1)[1:] / _DOUBT
    law, _ = nnls(
        np.vstack([rows, assumed]),
        np.concatenate([np.full(len(y), 1 / _NOISE), assumed.sum(1)]),
    )
    law[0] *= base
    return law


def _count_step(
    network: nn.Module, batch_size: int, block_shape: Shape3
) -> tuple[int, float]:
    """Outputs of all layers, and operations, of the forward pass of a batch."""
    check_patch(network, block_shape)
    activations = 0

    def add(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal activations
        activations += output.numel()

    hooks = [
        layer.register_forward_hook(add)
        for layer in network.modules()
        # A stochastic layer has its posteriors inside.
        if isinstance(layer, StochasticLayer) or not [*layer.children()]
    ]
    flop = _count_flop(network.train(), (batch_size, 1, *block_shape))
    for hook in hooks:
        hook.remove()
    return activations, flop


def _count_flop(network: nn.Module, shape: tuple[int, ...]) -> float:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.empty(shape))
    return float(counter.get_total_flops())


def _count_judging(
    network: nn.Module, shape: Shape3, n_classes: int
) -> tuple[int, float]:
    """Numbers held, and operations, of a draw on a scan that has no empty margin."""
    voxels, width = math.prod(shape), int(network.width)  # type: ignore[arg-type]
    if network.halo is None:
        side = round_up(BLENDED_SIDE, int(network.stride))
        # A quarter of neighbouring windows is in both.
        windows = math.prod(-(-max(0, n - side) // (side * 3 // 4)) + 1 for n in shape)
        flop = windows * _count_flop(network.eval(), (1, 1, side, side, side))
        return _PLANES * (width * side**3 + n_classes * voxels), flop
    stride, halo = int(network.stride), int(network.halo)  # type: ignore[arg-type]
    side = 2 * stride
    per_voxel = _count_flop(network.eval(), (1, 1, side, side, side)) / side**3
    # Some is computed beyond the scan's edges: about as if it were that much wider.
    flop = per_voxel * math.prod(n + halo // 4 for n in shape)
    planes = slab_planes(shape, width, n_classes, torch.device("cpu"), itemsize=4)
    slabs = _SLABS * min(planes, shape[0]) + 2 * halo
    buffers = width * shape[1] * shape[2] * slabs
    return buffers + statistics_bytes(n_classes) * voxels // 4, flop
