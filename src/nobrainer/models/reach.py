"""How far the output of convolutions looks, along one axis.

Each function takes the voxels of an output, as (first, last), and gives those of the
input that they depend on. Kernels are odd, and padded by half their width.
"""

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
