"""How large a network and its work are, counted without building or applying it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nobrainer import models
from nobrainer.bayes.draws import is_stochastic, plan_draws
from nobrainer.bayes.ensemble import EnsembleNetwork
from nobrainer.bayes.layers import StochasticLayer
from nobrainer.inference.moments import statistics_bytes
from nobrainer.inference.predict import slab_planes
from nobrainer.inference.tiles import round_up
from nobrainer.models.check import BLENDED_SIDE, check_patch, imagined
from nobrainer.research.journal import Size
from nobrainer.types import Shape3

_PLANES = 5
"""Numbers held where windows are blended: for each voxel of a window and channel at
full resolution, and for each voxel of the scan and class."""
_SLABS = 8
"""Slabs held at once, at full resolution, where it is done slab by slab, besides the
planes that later layers look back at."""


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
        model: name of a registered model.
        model_args: arguments of the model.
        n_classes: number of classes, background among them.
        batch_size: number of patches in a training batch.
        block_shape: voxels of a patch along each axis.
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
