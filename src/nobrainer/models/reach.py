"""How far the output of convolutions looks, along one axis.

Each function of a convolution takes the voxels of an output, as (first, last), and
gives those of the input that they depend on. Kernels are odd, and padded by half their
width.
"""

from collections.abc import Sequence

from nobrainer.checks import MOST_FILTERS, MOST_LEVELS, check_count, shorten
from nobrainer.errors import InputError

Span = tuple[int, int]


def before(seen: Span, kernel: int, stride: int = 1, dilation: int = 1) -> Span:
    """What a convolution looks at.

    Args:
        seen: voxels of its output.
        kernel: width of its kernel.
        stride: step of the input for a step of one output voxel.
        dilation: distance of neighbours in the kernel, in voxels.
    """
    margin = kernel // 2 * dilation
    return seen[0] * stride - margin, seen[1] * stride + margin


def before_transposed(seen: Span, kernel: int, stride: int) -> Span:
    """What a transposed convolution looks at.

    Args:
        seen: voxels of its output.
        kernel: width of its kernel.
        stride: voxels of the output for a step of one input voxel.
    """
    margin = kernel // 2
    return -((margin - seen[0]) // stride), (seen[1] + margin) // stride


def halo_of(seen: Span, stride: int) -> int:
    """How far beyond a core of one step of the pooling grid a network looks.

    Args:
        seen: voxels of the image that the core from 0 to stride - 1 depends on.
        stride: step of the pooling grid, in voxels.

    Returns: a multiple of the stride, since windows begin on the pooling grid.
    """
    reach = max(0, -seen[0], seen[1] - (stride - 1))
    return -(-reach // stride) * stride


def hull(one: Span, other: Span) -> Span:
    """All voxels from the first to the last of two spans."""
    return min(one[0], other[0]), max(one[1], other[1])


def check_kernel(name: str, size: object) -> None:
    """Check that the width of a kernel is a whole, odd number.

    Args:
        name: what the message calls it.
        size: its width in voxels.

    Raises:
        InputError: it is anything else.
    """
    check_count(name, size, 1)
    if isinstance(size, int) and size % 2 == 0:
        raise InputError(f"{name} must be odd, got {size}")


def check_levels(
    channels: Sequence[int], strides: Sequence[int] | None
) -> tuple[int, ...]:
    """The steps between the levels of a network.

    Args:
        channels: filters of each level.
        strides: step from each level to the next one, in voxels; None makes each 2.

    Raises:
        InputError: these are not whole numbers in their range, or the steps are not
            one fewer than the levels.
    """
    for name, numbers in (("channels", channels), ("strides", strides or ())):
        if isinstance(numbers, str) or not isinstance(numbers, Sequence):
            raise InputError(f"{name} must list whole numbers, got {shorten(numbers)}")
        for number in numbers:
            check_count(f"each of {name}", number, 1, MOST_FILTERS)
    check_count("number of channels", len(channels), 2, MOST_LEVELS)
    steps = (2,) * (len(channels) - 1) if strides is None else tuple(strides)
    if len(steps) != len(channels) - 1:
        raise InputError(
            f"strides must be {len(channels) - 1} numbers, one fewer than channels, "
            f"got {list(steps)}"
        )
    return steps
