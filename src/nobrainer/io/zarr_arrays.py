"""How the arrays of every Zarr group are packed, and what Zarr's errors say."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.errors import BaseZarrError

from nobrainer.errors import InputError, in_one_line

_DAMAGED = (BaseZarrError, OSError, RuntimeError, ValueError, KeyError, TypeError)


def codecs(dtype: np.dtype) -> tuple[Any, Any]:
    """The same bytes for the same voxels, with a checksum for each chunk."""
    packed = BloscCodec(
        typesize=dtype.itemsize, cname="zstd", clevel=5, shuffle="bitshuffle"
    )
    return packed, Crc32cCodec()


@contextmanager
def told(problem: str) -> Iterator[None]:
    """Say what could not be done, and why, where Zarr fails.

    Args:
        problem: the beginning of the message, which names the folder or file.

    Raises:
        InputError: something in the context could not be read or written.
    """
    try:
        yield
    except _DAMAGED as error:
        if isinstance(error, InputError):
            raise
        why = in_one_line(str(error)) or type(error).__name__
        raise InputError(f"{problem} ({why})") from error
