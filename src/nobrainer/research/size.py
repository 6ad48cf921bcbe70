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
from nobrainer.inference.slabs import slab_planes
from nobrainer.models.check import blended_window, check_patch, imagined
from nobrainer.research.journal import Size
from nobrainer.types import Shape3

_PLANES = 5
"""Numbers held where windows are blended: for each voxel of a window and channel at
full resolution, and for each voxel of the scan and class."""
_SLABS = 8
"""Slabs of the scan, at full resolution, that prediction slab by slab holds at once,
besides the planes that later layers look back at."""


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

    Activations are the numbers that are held at once: the outputs of all layers for a
    training batch, or what judging the largest scan holds, whichever is more. The
    members of an ensemble are trained one after the other: for an ensemble, the
    activations and the operations of a step are those of its largest member, while
    the parameters of all members are added up.

    Args:
        model: name of a registered model.
        model_args: arguments of the model, by name; the number of classes is added.
        n_classes: number of classes, background among them.
        batch_size: number of patches in a training batch.
        block_shape: voxels of a patch along each axis.
        judge_shapes: shape in voxels of each scan that the network is judged on,
            after preparation.
        n_draws: number of draws of the weights by which it is judged; a deterministic
            model makes one pass.

    Returns: the counts, for an ensemble as described above.

    Raises:
        InputError: the model is unknown, refuses an argument, or cannot take patches
            of this shape.
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
    """Count the outputs and the operations of all layers for one training batch."""
    check_patch(network, block_shape)
    activations = 0

    def add(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal activations
        activations += output.numel()

    hooks = [
        layer.register_forward_hook(add)
        for layer in network.modules()
        # The modules inside a stochastic layer are its posteriors, not layers.
        if isinstance(layer, StochasticLayer) or not [*layer.children()]
    ]
    flop = _count_flop(network.train(), (batch_size, 1, *block_shape))
    for hook in hooks:
        hook.remove()
    return activations, flop


def _count_flop(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Count the floating-point operations of one forward pass."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.empty(shape))
    return float(counter.get_total_flops())


def _count_judging(
    network: nn.Module, shape: Shape3, n_classes: int
) -> tuple[int, float]:
    """Count the numbers held and the operations of one draw on a whole scan.

    Prediction leaves out an empty margin; here the scan is taken to have none.
    """
    voxels, width = math.prod(shape), int(network.width)  # type: ignore[arg-type]
    if network.halo is None:
        window = blended_window(network, shape, None)
        # Neighbouring windows overlap by a quarter of their side.
        windows = math.prod(
            -(-max(0, n - side) // (side * 3 // 4)) + 1
            for n, side in zip(shape, window, strict=True)
        )
        flop = windows * _count_flop(network.eval(), (1, 1, *window))
        held = width * math.prod(window) + n_classes * voxels
        return _PLANES * held, flop
    stride, halo = int(network.stride), int(network.halo)  # type: ignore[arg-type]
    side = 2 * stride
    per_voxel = _count_flop(network.eval(), (1, 1, side, side, side)) / side**3
    # Layers also compute a margin around each slab: about as much work as if the scan
    # were a quarter of the halo wider along each axis.
    flop = per_voxel * math.prod(n + halo // 4 for n in shape)
    planes = slab_planes(shape, width, n_classes, itemsize=4)
    slabs = _SLABS * min(planes, shape[0]) + 2 * halo
    buffers = width * shape[1] * shape[2] * slabs
    return buffers + statistics_bytes(n_classes) * voxels // 4, flop
