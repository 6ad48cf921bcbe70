"""Run a network of local operations over a box of an endless field, slab by slab.

A volume is taken to lie in an endless field of its background value. Each result
inside the network is then one constant per channel everywhere but in a box: that of
the volume's content, widened by what the operations so far look at. Of this, only
another box is wanted: that of the output, widened by what the operations to come look
at. Every operation computes where the two meet, a few planes at a time along the first
axis, and keeps the planes that later ones look back at. So no voxel is computed twice
or for nothing, padding never enters, and memory holds a few slabs of each result
instead of whole volumes.
"""

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from nobrainer.bayes.draws import ChannelGate, ChannelMask, DrawnConv3d

Interval = tuple[int, int]
Box = tuple[Interval, Interval, Interval]
"""Voxels [start, stop) along each axis, in voxels of the grid that the box is on."""

NOWHERE: Box = ((0, 0), (0, 0), (0, 0))

_SLACK = 1.5
"""How much larger buffers are than they need be: they move their planes less often."""


@dataclass(frozen=True)
class _Axis:
    """What an operation looks at along one axis.

    Output voxel o of a convolution sees the input voxels from o · stride - padding to
    `span` further. For a transposed one the two change places.
    """

    span: int = 0
    stride: int = 1
    padding: int = 0
    transposed: bool = False

    def needs(self, output: Interval) -> Interval:
        """The input that some output depends on."""
        return self._narrow(output) if self.transposed else self._widen(output)

    def reaches(self, seen: Interval) -> Interval:
        """The output that depends on some input."""
        return self._widen(seen) if self.transposed else self._narrow(seen)

    def _widen(self, interval: Interval) -> Interval:
        first, last = interval[0], interval[1] - 1
        start = first * self.stride - self.padding
        return start, last * self.stride - self.padding + self.span + 1

    def _narrow(self, interval: Interval) -> Interval:
        first, last = interval[0], interval[1] - 1
        start = -(-(first + self.padding - self.span) // self.stride)
        return start, (last + self.padding) // self.stride + 1


_POINTWISE = (_Axis(), _Axis(), _Axis())

Run = Callable[[list[Tensor], Tensor | None], Tensor]
"""Applies an operation to its inputs; may write into the second argument, if given."""


@dataclass(eq=False)
class _Node:
    """A result inside the network, and the operation that makes it.

    run, inputs, axes: the operation; the image has none.
    varies: the operation makes a pattern, not a constant, of a constant.
    weights: of the operation's kernel.
    users: the operations that look at the result.
    stored: it is kept in a buffer with some of the field around it. One that a single
        pointwise operation uses up at once is not.
    active: where it may differ from its constant; None means everywhere.
    wanted: where its users look.
    box: where it is computed; the rest of what is wanted is the constant.
    planes: of the buffer along the first axis.
    channels, fill: its channels and its constant, (1, C, 1, 1, 1).
    buffer, first: (1, C, planes, j, k), and which plane comes first in it.
    done: up to which plane it is computed.
    latest: what was computed last, where it is not stored.
    """

    run: Run | None = None
    inputs: Sequence["_Node"] = ()
    axes: tuple[_Axis, _Axis, _Axis] = _POINTWISE
    varies: bool = False
    weights: int = 0
    users: list["_Node"] = field(default_factory=list)
    stored: bool = True
    active: Box | None = None
    wanted: Box = NOWHERE
    box: Box = NOWHERE
    planes: int = 0
    fill: Tensor = field(default_factory=lambda: torch.zeros(1, 1, 1, 1, 1))
    buffer: Tensor | None = None
    first: int = 0
    done: int = 0
    latest: Tensor | None = None

    def needs(self, box: Box) -> Box:
        """What the operation looks at to make a box."""
        i, j, k = (a.needs(edge) for a, edge in zip(self.axes, box, strict=True))
        return i, j, k

    def view(self, box: Box) -> Tensor:
        """A box of the stored result."""
        assert self.buffer is not None
        (a, b), *others = box
        within = [
            slice(start - origin, stop - origin)
            for (start, stop), (origin, _) in zip(others, self.wanted[1:], strict=True)
        ]
        return self.buffer[:, :, a - self.first : b - self.first, *within]


class Stream:
    """A plain network made ready to run over boxes.

    Args:
        network: what `nobrainer.bayes.draws.Draws` makes; its weights may be set to
            another draw between two runs.
        device, dtype: of the network.

    Raises `NotImplementedError` for an operation that is not known to be local.
    """

    def __init__(
        self, network: nn.Module, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._device, self._dtype = device, dtype
        self._nodes = _read(network)
        self._goals: list[dict[_Node, int]] = []
        # For the number of channels.
        self._set_fills(0.0)

    def plan(self, content: Box, core: Box, planes: int) -> list[Interval]:
        """Choose what each operation computes.

        Args:
            content: where the image may differ from the background; `NOWHERE` if
                nowhere.
            core: where the output is wanted.
            planes: of the output at a time.

        Returns: the slabs of `core` along the first axis, in order.
        """
        start, stop = core[0]
        slabs = [(n, min(n + planes, stop)) for n in range(start, stop, planes)]
        _place(self._nodes, content, core)
        self._goals = _schedule(self._nodes, slabs)
        self.release()
        return slabs

    def release(self) -> None:
        """Give back the memory of the buffers; the plan stays."""
        for node in self._nodes:
            node.buffer = None

    @property
    def is_constant(self) -> bool:
        """Whether the output is one constant where there is nothing but background.

        It may else be a pattern that repeats with the pooling grid.
        """
        return not any(node.varies for node in self._nodes)

    @property
    def n_bytes(self) -> int:
        """Memory of the buffers as planned."""
        numbers = sum(math.prod(_shape(node)) for node in self._nodes if node.planes)
        return numbers * self._dtype.itemsize

    @property
    def flop(self) -> int:
        """Multiplications and additions of the convolutions as planned."""
        total = 0
        for node in self._nodes:
            # A transposed kernel is applied to every voxel of its input.
            at = node.needs(node.box) if node.axes[0].transposed else node.box
            voxels = math.prod(stop - start for start, stop in at)
            total += 0 if _is_empty(node.box) else 2 * node.weights * voxels
        return total

    def run(self, image: Tensor, background: float) -> Iterator[Tensor]:
        """The network's output on each slab, (1, C, i, j, k), good until the next.

        Args:
            image: (I, J, K), whose first voxel is the origin of all boxes.
            background: the field around it.
        """
        self._set_fills(background)
        for node in self._nodes:
            node.done = node.box[0][0]
            if node.planes:
                if node.buffer is None:
                    node.buffer = torch.empty(
                        _shape(node),
                        device=self._device,
                        dtype=self._dtype,
                        memory_format=torch.channels_last_3d,
                    )
                node.buffer.copy_(node.fill.expand(_shape(node)))
                node.first = node.wanted[0][0]
        for goals in self._goals:
            for node in self._nodes:
                if node.planes:
                    _make_room(node, goals)
                if goals[node] > node.done:
                    box = ((node.done, goals[node]), *node.box[1:])
                    _advance(node, box, image)
            output = self._nodes[-1].latest
            assert output is not None
            yield output

    def _set_fills(self, background: float) -> None:
        """Compute the constants of all results."""
        image, *others = self._nodes
        image.fill = torch.full(
            (1, 1, 1, 1, 1), background, device=self._device, dtype=self._dtype
        )
        for node in others:
            assert node.run is not None
            seen = [1 if axis.transposed else axis.span + 1 for axis in node.axes]
            fills = [
                source.fill.expand(-1, -1, *seen).contiguous(
                    memory_format=torch.channels_last_3d
                )
                for source in node.inputs
            ]
            # A copy, because an operation may return its input.
            node.fill = node.run(fills, None)[:, :, :1, :1, :1].clone()


class Windows:
    """A network of which only its halo is known, run on windows as a whole.

    Args:
        network, device, dtype: as of `Stream`.
        halo, stride, width: of the network, see `nobrainer.models.registry`.
    """

    is_constant = False

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        *,
        halo: int,
        stride: int,
        width: int,
    ) -> None:
        self._network, self._device, self._dtype = network, device, dtype
        self._halo, self._stride, self._width = halo, stride, width
        self._core: Box = NOWHERE
        self._slabs: list[Interval] = []

    def plan(self, content: Box, core: Box, planes: int) -> list[Interval]:
        """As of `Stream`."""
        start, stop = core[0]
        self._core = core
        self._slabs = [(n, min(n + planes, stop)) for n in range(start, stop, planes)]
        return self._slabs

    @property
    def n_bytes(self) -> int:
        """About six results of the network's width."""
        voxels = math.prod(b - a for a, b in self._window())
        return 6 * self._width * voxels * self._dtype.itemsize

    def release(self) -> None:
        """As of `Stream`; nothing is kept."""

    def run(self, image: Tensor, background: float) -> Iterator[Tensor]:
        """As of `Stream`."""
        window = self._window()
        x = torch.full(
            (1, 1, *(b - a for a, b in window)),
            background,
            device=self._device,
            dtype=self._dtype,
        )
        seen = [
            (max(a, 0), min(b, n))
            for (a, b), n in zip(window, image.shape, strict=True)
        ]
        if all(a < b for a, b in seen):
            target = [
                slice(a - origin, b - origin)
                for (a, b), (origin, _) in zip(seen, window, strict=True)
            ]
            x[:, :, *target] = image[tuple(slice(*edge) for edge in seen)]
        inner = [
            slice(a - origin, b - origin)
            for (a, b), (origin, _) in zip(self._core, window, strict=True)
        ]
        made = self._network(x.to(memory_format=torch.channels_last_3d))[:, :, *inner]
        for a, b in self._slabs:
            yield made[:, :, a - self._core[0][0] : b - self._core[0][0]]

    def _window(self) -> Box:
        """The core on the pooling grid, and the halo around it."""
        i, j, k = (
            (
                a // self._stride * self._stride - self._halo,
                -(-b // self._stride) * self._stride + self._halo,
            )
            for a, b in self._core
        )
        return i, j, k


def _read(network: nn.Module) -> list[_Node]:
    """The network's operations in the order of their use, the image first."""
    made: dict[fx.Node, _Node] = {}
    nodes: list[_Node] = []
    for item in _Tracer().trace(network).nodes:
        if item.op == "output":
            break
        inputs = [made[source] for source in item.all_input_nodes]
        module = (
            network.get_submodule(str(item.target))
            if item.op == "call_module"
            else None
        )
        if isinstance(module, nn.Identity) or (
            isinstance(module, ChannelMask) and module.rate == 0
        ):
            (made[item],) = inputs
            continue
        node = _Node() if item.op == "placeholder" else _operation(item, module)
        node.inputs = inputs
        for source in inputs:
            source.users.append(node)
        made[item] = node
        nodes.append(node)
    for node in nodes[1:]:
        pointwise = [user.axes is _POINTWISE for user in node.users]
        node.stored = pointwise not in ([], [True])
    return nodes


class _Tracer(fx.Tracer):
    """Takes the layers of draws as they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(
            m, nn.BatchNorm3d | DrawnConv3d | ChannelMask | ChannelGate
        ) or super().is_leaf_module(m, module_qualified_name)


def _operation(item: fx.Node, module: nn.Module | None) -> _Node:
    if isinstance(module, DrawnConv3d):
        size = module.weight.numel()
        return _Node(partial(_convolve, module), axes=_axes(module), weights=size)
    if isinstance(module, nn.ConvTranspose3d):
        size = module.weight.numel()
        run = partial(_convolve_transposed, module)
        return _Node(run, axes=_axes(module), varies=True, weights=size)
    if isinstance(module, nn.ReLU) or item.target in (torch.relu, torch.relu_, F.relu):
        return _Node(_relu)
    if isinstance(module, nn.PReLU | nn.BatchNorm3d | ChannelMask | ChannelGate):
        return _Node(partial(_apply, module))
    if item.target in (operator.add, torch.add) and len(item.all_input_nodes) == 2:
        return _Node(_add)
    if item.target is torch.cat and (1 in item.args or item.kwargs.get("dim") == 1):
        return _Node(_join)
    factor = item.kwargs.get("scale_factor")
    if (
        item.target is F.interpolate
        and item.kwargs["mode"] == "nearest"
        and isinstance(factor, float)
        and factor.is_integer()
    ):
        axis = _Axis(int(factor) - 1, int(factor), 0, transposed=True)
        return _Node(partial(_repeat, factor), axes=(axis, axis, axis))
    raise NotImplementedError(f"{item.format_node()} is not known to be local")


def _axes(module: nn.Conv3d | nn.ConvTranspose3d) -> tuple[_Axis, _Axis, _Axis]:
    assert not isinstance(module.padding, str)
    i, j, k = (
        _Axis(dilation * (size - 1), stride, padding, module.transposed)
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
    return F.interpolate(inputs[0], scale_factor=factor)


def _apply(module: nn.Module, inputs: list[Tensor], out: Tensor | None) -> Tensor:
    return module(inputs[0])


def _is_empty(box: Box) -> bool:
    return any(start >= stop for start, stop in box)


def _hull(boxes: Sequence[Box]) -> Box:
    """The least box that holds some boxes; `NOWHERE` where there are none."""
    if not boxes:
        return NOWHERE
    i, j, k = (
        (min(start for start, _ in edges), max(stop for _, stop in edges))
        for edges in zip(*boxes, strict=True)
    )
    return i, j, k


def _place(nodes: Sequence[_Node], content: Box, core: Box) -> None:
    """Set where each result is active, wanted and computed."""
    image, *others = nodes
    image.active = content
    for node in others:
        seen = [source.active for source in node.inputs if source.active is not None]
        node.active = None
        if len(seen) == len(node.inputs) and not node.varies:
            hull = _hull([box for box in seen if not _is_empty(box)])
            i, j, k = (a.reaches(edge) for a, edge in zip(node.axes, hull, strict=True))
            node.active = NOWHERE if _is_empty(hull) else (i, j, k)
    nodes[-1].wanted = nodes[-1].box = core
    for node in reversed(nodes[:-1]):
        node.wanted = _hull(
            [user.needs(user.box) for user in node.users if not _is_empty(user.box)]
        )
        node.box = node.wanted
        if node.stored and node.active is not None:
            i, j, k = (
                (max(a, c), min(b, d))
                for (a, b), (c, d) in zip(node.wanted, node.active, strict=True)
            )
            node.box = NOWHERE if _is_empty((i, j, k)) else (i, j, k)


def _schedule(
    nodes: Sequence[_Node], slabs: Sequence[Interval]
) -> list[dict[_Node, int]]:
    """Up to which plane each result is computed, slab by slab; sets `planes`."""
    done = {node: node.box[0][0] for node in nodes}
    schedule = []
    for node in nodes:
        node.planes = 0
    for _, stop in slabs:
        goals = {nodes[-1]: stop}
        for node in reversed(nodes[:-1]):
            start, end = node.box[0]
            top = _top(node, goals)
            goals[node] = min(max(top, start), end)
            if node.stored and not _is_empty(node.wanted):
                node.planes = max(node.planes, top - _lowest(node, done))
        schedule.append(goals)
        done = goals
    for node in nodes:
        start, end = node.wanted[0]
        node.planes = min(int(_SLACK * node.planes), end - start)
    return schedule


def _top(node: _Node, goals: Mapping[_Node, int]) -> int:
    """Up to which plane a result's users look to reach their goals."""
    looks = [
        user.axes[0].needs((goals[user] - 1, goals[user]))[1]
        for user in node.users
        if goals[user] > user.box[0][0]
    ]
    return max(looks, default=node.wanted[0][0])


def _lowest(node: _Node, done: Mapping[_Node, int]) -> int:
    """The first plane of a result that its users have still to look at."""
    looks = [
        user.axes[0].needs((done[user], done[user] + 1))[0]
        for user in node.users
        if done[user] < user.box[0][1]
    ]
    return min(looks, default=node.wanted[0][1])


def _shape(node: _Node) -> tuple[int, ...]:
    others = (stop - start for start, stop in node.wanted[1:])
    return (1, node.fill.shape[1], node.planes, *others)


def _make_room(node: _Node, goals: Mapping[_Node, int]) -> None:
    """Drop planes that nobody will look at where the next ones would not fit."""
    assert node.buffer is not None
    if _top(node, goals) <= node.first + node.planes:
        return
    lowest = _lowest(node, {user: user.done for user in node.users})
    end, step = node.first + node.planes, lowest - node.first
    # In steps, because source and target must not overlap.
    for plane in range(lowest, end, step):
        n = min(step, end - plane)
        source = node.buffer[:, :, plane - node.first :][:, :, :n]
        node.buffer[:, :, plane - lowest :][:, :, :n] = source
    node.first = lowest
    # Beyond what is computed lies the field.
    node.buffer[:, :, max(0, node.box[0][1] - lowest) :] = node.fill


def _advance(node: _Node, box: Box, image: Tensor) -> None:
    """Compute a box of a result."""
    target = node.view(box) if node.stored else None
    out = target
    if node.run is None:
        made = image[tuple(slice(*edge) for edge in box)]
    else:
        needed = node.needs(box)
        inputs = []
        for source in node.inputs:
            latest = source.view(needed) if source.stored else source.latest
            assert latest is not None
            inputs.append(latest)
        if node.axes is _POINTWISE and not node.stored and not node.inputs[0].stored:
            # Nobody else uses it.
            out = inputs[0]
        made = node.run(inputs, out)
        if node.axes[0].transposed:
            # What it makes of the needed input may begin before the box.
            begin = (
                start - (first * axis.stride - axis.padding)
                for (start, _), (first, _), axis in zip(
                    box, needed, node.axes, strict=True
                )
            )
            sizes = (stop - start for start, stop in box)
            cut = (slice(b, b + n) for b, n in zip(begin, sizes, strict=True))
            made = made[:, :, *cut]
    if target is None:
        node.latest = made
    elif made is not target:
        target.copy_(made)
    node.done = box[0][1]
