"""How exactly a GPU multiplies the float32 numbers of convolutions and matrices."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.backends import cuda, cudnn


@contextmanager
def float32_products(*, tf32: bool = False) -> Iterator[None]:
    """Say inside how float32 numbers are multiplied, and give back what was said.

    By default PyTorch lets convolutions round them to TF32, with 10 bits for the digits
    in place of 23, and matrix products not. This setting is that of the whole process.

    Args:
        tf32: whether both may round to TF32; otherwise neither does.
    """
    before = cudnn.allow_tf32, cuda.matmul.allow_tf32
    cudnn.allow_tf32 = cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        cudnn.allow_tf32, cuda.matmul.allow_tf32 = before
