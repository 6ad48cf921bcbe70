"""Find out before training whether a network can do what is asked of it.

A user's own network is measured like those of the registry, because the `halo` and
`stride` that it states decide how a volume is predicted.
"""

import copy
import logging
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import pyro
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._mode_utils import no_dispatch

from nobrainer.bayes.draws import realise
from nobrainer.errors import InputError
from nobrainer.models.registry import FAILURES, first_line
from nobrainer.types import Shape3

T = TypeVar("T")

BLENDED_SIDE = 96
"""Side of a window in voxels, for networks that are not local."""
_FAR = 128
"""How far beyond the stated halo a network's true reach is searched for, in voxels."""
_TOLERANCE = 1e-3
"""Difference that counts as rounding, as a fraction of the output's spread."""


class _Imagination(FakeTensorMode):
    """Tensors without numbers, but for `linspace`, whose numbers are its arguments'.

    Networks read rates of dropout from it, one for each block.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is not torch.ops.aten.linspace.default:
            return super().__torch_dispatch__(func, types, args, kwargs)
        with no_dispatch():
            numbers = func(*args, **kwargs)
        return self.fake_tensor_converter.from_real_tensor(
            self, numbers, make_constant=True
        )


@contextmanager
def imagined() -> Iterator[None]:
    """Give the tensors that are made inside a shape, but no numbers.

    A network of any size is then built and applied at once: nothing is allocated,
    computed or drawn, and random states stay as they are.
    """
    # PyTorch logs what it cannot do, and then raises an error that says it as well.
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        # Pyro's checks of a distribution's parameters would need numbers.
        with _Imagination(), pyro.validation_enabled(False):
            yield
    finally:
        log.setLevel(before)


def blended_window(
    network: nn.Module, volume: Shape3, block_shape: Shape3 | None
) -> Shape3:
    """The windows in which a network without a halo is applied to a volume.

    Args:
        network: a network with a `stride`, and a `window` if it takes that one alone.
        volume: voxels of the volume along each axis.
        block_shape: voxels of a window along each axis, as the user asks for it; None
            takes the network's own, or `BLENDED_SIDE`, and fewer where the volume has
            fewer, but two steps of the pooling.

    Returns: voxels along each axis, multiples of the stride.
    Raises: InputError where the network takes windows of another shape alone.
    """
    own: Shape3 | None = getattr(network, "window", None)
    if own is not None:
        if block_shape not in (None, own):
            raise _wants_window(own, block_shape)
        return own
    stride: int = network.stride  # type: ignore[assignment]
    sides = block_shape or [min(BLENDED_SIDE, max(n, 2 * stride)) for n in volume]
    i, j, k = (-(-side // stride) * stride for side in sides)
    return i, j, k


def _wants_window(own: Shape3, given: Sequence[int]) -> InputError:
    """The error for patches or windows that a network of one shape does not take."""
    return InputError(
        f"the network takes images of {_sides(own)} voxels alone, and block_shape is "
        f"{_sides(given)}: give the same, or build the network with another img_size"
    )


def check_block(network: nn.Module, block_shape: Shape3) -> None:
    """Check that a network's pooling divides a block evenly.

    Args:
        network: a network with a `stride`.
        block_shape: voxels of the block along each axis.

    Raises: InputError where a side is no multiple of the stride, or the network takes
        images of another shape alone.
    """
    own: Shape3 | None = getattr(network, "window", None)
    if own not in (None, block_shape):
        raise _wants_window(own, block_shape)
    stride: int = network.stride  # type: ignore[assignment]
    if any(side % stride for side in block_shape):
        down = [max(stride, side // stride * stride) for side in block_shape]
        up = [-(-side // stride) * stride for side in block_shape]
        near = " or ".join(dict.fromkeys(_sides(block) for block in (down, up)))
        raise InputError(
            f"block_shape must be multiples of {stride}, the grid of the network's "
            f"pooling, got {_sides(block_shape)}: give {near}, or fewer levels"
        )


def check_patch(network: nn.Module, block_shape: Shape3) -> None:
    """Check that a network can be trained on patches of a block's shape.

    Args:
        network: a network with a `stride`.
        block_shape: voxels of a patch along each axis.

    Raises: InputError where pooling does not divide the block evenly, or leaves a
        single voxel.
    """
    check_block(network, block_shape)
    stride: int = network.stride  # type: ignore[assignment]
    if all(side == stride for side in block_shape):
        raise InputError(
            f"block_shape must be more than {stride} voxels wide, which pooling makes "
            f"one, got {_sides(block_shape)}: give longer sides or fewer "
            "levels"
        )


def check_training(
    build: Callable[[], nn.Module],
    block_shape: Shape3,
    batch_sizes: Sequence[int],
    n_classes: int,
) -> None:
    """Check that a network takes batches of patches, forward and backward.

    Args:
        build: function that makes the network.
        block_shape: voxels of a patch along each axis.
        batch_sizes: the sizes, in patches, that the batches of an epoch have.
        n_classes: number of classes, which the network must have as output channels.

    Raises: InputError where a batch fails, or gives logits of another shape.
    """

    def step(size: int) -> tuple[int, ...]:
        logits = build().train()(torch.zeros(size, 1, *block_shape))
        logits.float().sum().backward()
        return tuple(logits.shape)

    for size in batch_sizes:
        given = f"a batch of {size} patches of block_shape {_sides(block_shape)}"
        try:
            shape = _try(partial(step, size))
        except FAILURES as error:
            raise InputError(
                f"{given} cannot be trained on: {first_line(error)}: give a larger "
                "block_shape, or another batch_size (an epoch's last batch is what is "
                "left of its patches)"
            ) from error
        wanted = (size, n_classes, *block_shape)
        if shape != wanted:
            raise InputError(
                f"the network makes {shape} of {given}, and should make {wanted}: "
                "logits of each class and voxel"
            )


def count_channels(network: nn.Module, image: Tensor) -> int:
    """Number of channels that a network makes of an image.

    Args:
        network: the network, which is left as it is.
        image: (1, C, I, J, K), of a shape that the network takes.

    Raises: InputError where it does not take the image, or changes its shape.
    """
    # A copy without numbers, where that is possible.
    for device in ("meta", "cpu"):
        plain = copy.deepcopy(network).eval().to(device)
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                made = plain(image.to(device))
            break
        except FAILURES as error:
            problem = error
    else:
        raise InputError(
            f"the network does not take an image of shape {tuple(image.shape)}: "
            f"{first_line(problem)}"
        ) from problem
    if not isinstance(made, Tensor) or made.shape[2:] != image.shape[2:]:
        shape = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise InputError(
            f"the network makes {shape} of an image {tuple(image.shape)}, and should "
            "make logits of each class and voxel"
        )
    return made.shape[1]


def check_window(build: Callable[[], nn.Module]) -> None:
    """Check that a network without a halo takes the windows that are blended.

    Args:
        build: function that makes the network.

    Raises: InputError where it cannot be applied to such a window.
    """
    network = build()
    if network.halo is not None:
        return
    side = BLENDED_SIDE
    shape = (1, 1, *blended_window(network, (side, side, side), None))
    try:
        with torch.no_grad():
            _try(lambda: build().eval()(torch.zeros(shape)))
    except FAILURES as error:
        raise InputError(
            f"a network without a halo is applied to windows of {_sides(shape[2:])} "
            f"voxels, which this one does not take: {first_line(error)}: give it a "
            "halo, or a stride of which its windows are multiples"
        ) from error


def _try(step: Callable[[], T]) -> T:
    """Run a step without numbers if that is possible, otherwise with real ones."""
    try:
        with imagined():
            return step()
    except FAILURES:
        with torch.random.fork_rng():
            return step()


def check_reach(network: nn.Module) -> None:
    """Check that a network looks no further than its halo says.

    Prediction relies on it: volumes are cut into windows that begin on the grid of
    `stride` and overlap by `halo`.

    Args:
        network: a network with a `stride` and a `halo`; a halo of None always passes.

    Raises: InputError where the halo or the stride is wrong.
    """
    halo: int | None = network.halo  # type: ignore[assignment]
    if halo is None:
        return
    stride: int = network.stride  # type: ignore[assignment]
    plain = realise(network, None)
    try:
        with torch.no_grad():
            for axis in range(3):
                _check_halo(plain, axis, halo, stride)
                _check_stride(plain, axis, halo, stride)
    except InputError:
        raise
    except FAILURES as error:
        raise InputError(
            f"the network says stride={stride}, and does not take every window whose "
            f"sides are multiples of that: {first_line(error)}: correct its stride"
        ) from error


def _check_halo(network: nn.Module, axis: int, halo: int, stride: int) -> None:
    if _is_local(network, axis, halo, stride):
        return
    further = range(halo, halo + _FAR, stride)
    place = bisect_left(
        further, True, key=lambda reach: _is_local(network, axis, reach, stride)
    )
    reach = f"{further[place]} voxels" if place < len(further) else "the whole window"
    raise InputError(
        f"the network says halo={halo}, and it looks at {reach} beyond its core along "
        f"axis {axis}: correct its halo, or set it to None to have windows blended"
    )


def _is_local(network: nn.Module, axis: int, halo: int, stride: int) -> bool:
    """Whether a core's output is free of what lies further than `halo` from it.

    NaN is put there, because it goes through every operation, whatever the weights.
    """
    margin = halo + _FAR // stride * stride
    shape = [2 * stride] * 3
    shape[axis] = 2 * margin + stride
    image = torch.full(shape, torch.nan)
    image.narrow(axis, margin - halo, stride + 2 * halo).fill_(0)
    made: Tensor = network(image[None, None]).narrow(2 + axis, margin, stride)
    return not made.isnan().any()


def _check_stride(network: nn.Module, axis: int, halo: int, stride: int) -> None:
    """Raise unless a window gives the same output when it is moved by one stride."""
    shape = [2 * stride] * 3
    shape[axis] = 2 * halo + 2 * stride
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made = network(image[None, None])
    moved = network(image.roll(-stride, axis)[None, None])
    here = made.narrow(2 + axis, halo + stride, stride)
    there = moved.narrow(2 + axis, halo, stride)
    if (here - there).abs().max() > _TOLERANCE * made.std():
        raise InputError(
            f"the network says stride={stride}, and what it makes of a window changes "
            "when that is moved by as many voxels: correct its stride, or set its halo "
            "to None to have windows blended"
        )


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put weights into a network after checking that they are its own.

    Args:
        network: the network, which is changed in place.
        weights: tensors by their names in the network's `state_dict`.

    Raises: InputError where one is missing, unknown, of another shape or number format,
        or not finite, or where a variance is below 0.
    """
    state = network.state_dict()
    for name in dict.fromkeys([*state, *weights]):
        if name not in weights:
            raise InputError(f"{name!r} is missing from the weights")
        if name not in state:
            raise InputError(f"{name!r} is among the weights, but not in the network")
        own, given = state[name], weights[name]
        if (own.dtype, own.shape) != (given.dtype, given.shape):
            raise InputError(
                f"{name!r} is {_kind(given)} in the weights, {_kind(own)} in the "
                "network"
            )
        if not given.isfinite().all():
            raise InputError(f"{name!r} holds NaN or infinity")
        if name.endswith("running_var") and (given < 0).any():
            raise InputError(f"{name!r} holds variances below 0")
    network.load_state_dict(weights)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _sides(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
