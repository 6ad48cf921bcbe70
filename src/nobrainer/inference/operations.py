"""The local operations of a network: what each one looks at, and how it is applied."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from nobrainer.bayes.drawn_layers import ChannelGate, ChannelMask, DrawnConv3d
from nobrainer.bayes.transfer import is_remote
from nobrainer.inference.tiles import Box

N = TypeVar("N", int, np.ndarray)
"""A voxel's index, or those of several voxels."""


@dataclass(frozen=True)
class Axis:
    """What an operation looks at along one axis.

    span: distance from the first to the last input voxel that an output voxel sees.
    stride: step of the input for a step of one output voxel.
    padding: voxels that are added before the input's first voxel.
    transposed: whether input and output change places, as in a transposed convolution.

    So output voxel o of a convolution sees the input voxels from o · stride - padding
    to o · stride - padding + span.
    """

    span: int = 0
    stride: int = 1
    padding: int = 0
    transposed: bool = False

    def needs(self, output: tuple[N, N]) -> tuple[N, N]:
        """The input voxels that some output voxels depend on."""
        return self._narrow(output) if self.transposed else self._widen(output)

    def reaches(self, seen: tuple[N, N]) -> tuple[N, N]:
        """The output voxels that depend on some input voxels."""
        return self._widen(seen) if self.transposed else self._narrow(seen)

    def _widen(self, interval: tuple[N, N]) -> tuple[N, N]:
        first, last = interval[0], interval[1] - 1
        start = first * self.stride - self.padding
        return start, last * self.stride - self.padding + self.span + 1

    def _narrow(self, interval: tuple[N, N]) -> tuple[N, N]:
        first, last = interval[0], interval[1] - 1
        start = -(-(first + self.padding - self.span) // self.stride)
        return start, (last + self.padding) // self.stride + 1


Axes = tuple[Axis, Axis, Axis]
_ONE_VOXEL: Axes = (Axis(), Axis(), Axis())

Run = Callable[[list[Tensor], Tensor | None], Tensor]
"""Applies an operation to its inputs. It may write the result into the second argument
where that is given."""


@dataclass(frozen=True)
class Operation:
    """An operation of a network.

    run: function that applies it.
    axes: what it looks at along each axis.
    pointwise: whether it has no kernel and looks at one voxel only. Then it can be
        applied right after the operation before it, without a copy in between.
    varies: whether it turns a constant input into a pattern.
    n_weights: number of weights in its kernel.
    layer: the layer, where it is a 1³ convolution of every voxel by itself.
    """

    run: Run
    axes: Axes = _ONE_VOXEL
    pointwise: bool = False
    varies: bool = False
    n_weights: int = 0
    layer: nn.Conv3d | None = None

    def needs(self, box: Box) -> Box:
        """The box of its input that a box of its output depends on."""
        i, j, k = (a.needs(edge) for a, edge in zip(self.axes, box, strict=True))
        return i, j, k

    def reaches(self, box: Box) -> Box:
        """The box of its output that depends on a box of its input."""
        i, j, k = (a.reaches(edge) for a, edge in zip(self.axes, box, strict=True))
        return i, j, k


def _hand_on(inputs: list[Tensor], out: Tensor | None) -> Tensor:
    return inputs[0]


IMAGE = Operation(_hand_on)
"""The operation at the start of a network, which takes the image's voxels as is."""


class Tracer(fx.Tracer):
    """Lists the operations of a network, without looking into the layers of draws."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module counts as one operation, whatever it is made of.

        Args:
            m: the module.
            module_qualified_name: its name in the network.
        """
        return isinstance(
            m, nn.BatchNorm3d | DrawnConv3d | ChannelMask | ChannelGate
        ) or super().is_leaf_module(m, module_qualified_name)


def find_operation(item: fx.Node, module: nn.Module | None) -> Operation | None:
    """Find the local operation that a traced item stands for.

    Args:
        item: item of the trace of a network.
        module: the layer that it calls, if it calls one.

    Returns:
        The operation; None where the item passes its input on unchanged.

    Raises:
        NotImplementedError: the operation is not known to be local.
    """
    # Dropout of single voxels is for training alone.
    if isinstance(module, nn.Identity | nn.Dropout):
        return None
    if isinstance(module, ChannelMask) and module.rate == 0:
        return None
    if isinstance(module, DrawnConv3d):
        size = module.weight.numel()
        axes = _axes(module)
        alone = axes == _ONE_VOXEL and module.groups == 1
        layer = module if alone else None
        run = partial(_convolve, module)
        return Operation(run, axes, n_weights=size, layer=layer)
    if isinstance(module, nn.ConvTranspose3d):
        size = module.weight.numel()
        run = partial(_convolve_transposed, module)
        return Operation(run, _axes(module), varies=True, n_weights=size)
    if isinstance(module, nn.ReLU) or item.target in (torch.relu, torch.relu_, F.relu):
        return Operation(_relu, pointwise=True)
    if isinstance(module, nn.PReLU | nn.BatchNorm3d | ChannelMask | ChannelGate):
        return Operation(partial(_apply, module), pointwise=True)
    if item.target in (operator.add, torch.add) and len(item.all_input_nodes) == 2:
        return Operation(_add, pointwise=True)
    if item.target is torch.cat and (1 in item.args or item.kwargs.get("dim") == 1):
        return Operation(_join, pointwise=True)
    factor = item.kwargs.get("scale_factor")
    if (
        item.target is F.interpolate
        and item.kwargs["mode"] == "nearest"
        and isinstance(factor, float)
        and factor.is_integer()
    ):
        axis = Axis(int(factor) - 1, int(factor), 0, transposed=True)
        return Operation(partial(_repeat, factor), (axis, axis, axis))
    raise NotImplementedError(f"{item.format_node()} is not known to be local")


def _axes(module: nn.Conv3d | nn.ConvTranspose3d) -> Axes:
    assert not isinstance(module.padding, str)
    i, j, k = (
        Axis(dilation * (size - 1), stride, padding, module.transposed)
        for size, stride, padding, dilation in zip(
            module.kernel_size,
            module.stride,
            module.padding,
            module.dilation,
            strict=True,
        )
    )
    return i, j, k


def _convolve(conv: DrawnConv3d, inputs: list[Tensor], out: Tensor | None) -> Tensor:
    return conv.convolve(inputs[0], (0, 0, 0))


def _convolve_transposed(
    conv: nn.ConvTranspose3d, inputs: list[Tensor], out: Tensor | None
) -> Tensor:
    return F.conv_transpose3d(
        inputs[0],
        conv.weight,
        conv.bias,
        conv.stride,
        groups=conv.groups,
        dilation=conv.dilation,
    )


def _relu(inputs: list[Tensor], out: Tensor | None) -> Tensor:
    (x,) = inputs
    return torch.clamp_min(x, 0, out=out)


def _add(inputs: list[Tensor], out: Tensor | None) -> Tensor:
    x, y = inputs
    return torch.add(x, y, out=out)


def _join(inputs: list[Tensor], out: Tensor | None) -> Tensor:
    return torch.cat(inputs, 1)


def _repeat(factor: float, inputs: list[Tensor], out: Tensor | None) -> Tensor:
    x, times = inputs[0], int(factor)
    if is_remote(x.device):
        return F.interpolate(x, scale_factor=factor)
    # Copying whole rows of voxels was measured three times faster than `interpolate`.
    voxels = x.movedim(1, -1)
    b, i, j, k, c = voxels.shape
    rows = torch.cat([voxels[..., None, :]] * times, -2).view(b, i, 1, j, 1, -1)
    repeated = rows.expand(b, i, times, j, times, rows.shape[-1])
    return repeated.reshape(b, times * i, times * j, times * k, c).movedim(-1, 1)


def _apply(module: nn.Module, inputs: list[Tensor], out: Tensor | None) -> Tensor:
    return module(inputs[0])
