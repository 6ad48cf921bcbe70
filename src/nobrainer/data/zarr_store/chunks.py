"""How the arrays of a store lie in their files, and boxes of them.

Zarr reads these files, too. But a patch needs a few chunks, and what Zarr does around
them for any store and any layout takes several times as long as the chunks themselves.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO, Self

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc
from zarr.codecs import BytesCodec, ShardingCodec

from nobrainer.io.zarr_arrays import codecs
from nobrainer.types import Shape3

_CRC_BYTES = 4
_EMPTY = 2**64 - 1
"""Place of a chunk that holds nothing but the fill."""


@dataclass(frozen=True)
class Shards:
    """An array (scan, z, y, x) of which each scan is a file.

    A file holds its chunks in any order, then for each chunk where it begins and how
    many bytes it has, and the checksum of this index.

    chunk: voxels of a chunk along z, y, x.
    n_chunks: chunks of a file along z, y, x.
    dtype: type of the voxels.
    fill: value of the voxels of chunks that are not there.
    """

    chunk: Shape3
    n_chunks: Shape3
    dtype: np.dtype
    fill: int

    @classmethod
    def of(cls, array: zarr.Array) -> Self:
        """The layout of an array.

        Raises:
            ValueError: it is not the one in which `nobrainer` writes volumes.
        """
        _, *chunk = array.chunks
        _, *shard = array.shards or array.chunks
        _check_codecs(
            array,
            ShardingCodec(
                chunk_shape=array.chunks,
                codecs=(BytesCodec(), *codecs(array.dtype)),
            ),
        )
        k, j, i = chunk
        n_k, n_j, n_i = (n // size for n, size in zip(shard, chunk, strict=True))
        return cls((k, j, i), (n_k, n_j, n_i), array.dtype, int(array.fill_value))

    def read(self, path: Path, start: Shape3, stop: Shape3) -> np.ndarray:
        """Read a box of a scan.

        Args:
            path: path of the scan's file.
            start, stop: first voxel of the box along z, y, x, and the one after the
                last; the box lies within the scan.

        Raises:
            FileNotFoundError: the file is not there.
            OSError: it cannot be read.
            ValueError: it is damaged.
        """
        ends = list(zip(start, stop, self.chunk, strict=True))
        box = np.empty([b - a for a, b, _ in ends], self.dtype)
        with path.open("rb", buffering=0) as file:
            places, n_file = self._read_index(file), file.tell()
            for number in product(*(range(a // n, -(-b // n)) for a, b, n in ends)):
                begin, n_bytes = places[number].tolist()
                parts = list(map(_overlap, number, start, stop, self.chunk))
                inside, to = (tuple(part) for part in zip(*parts, strict=True))
                if begin == _EMPTY:
                    box[to] = self.fill
                    continue
                if begin + n_bytes > n_file:
                    raise ValueError("a chunk lies beyond its end")
                packed = os.pread(file.fileno(), n_bytes, begin)
                box[to] = unpack(packed, self.chunk, self.dtype)[inside]
        return box

    def _read_index(self, file: BinaryIO) -> np.ndarray:
        """Where each chunk begins in a file, and its bytes: (z, y, x, 2)."""
        n_bytes = 16 * math.prod(self.n_chunks) + _CRC_BYTES
        file.seek(-n_bytes, os.SEEK_END)
        index = _checked(file.read(n_bytes))
        return np.frombuffer(index, "<u8").reshape(*self.n_chunks, 2)


def check_rows(array: zarr.Array) -> None:
    """Check the layout of an array with a row, and a file, for each scan.

    Raises:
        ValueError: it is not the one in which `nobrainer` writes rows.
    """
    _check_codecs(array, BytesCodec(), *codecs(array.dtype))


def unpack(packed: bytes, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """The values of a chunk.

    Args:
        packed: its bytes in a file.
        shape: its shape.
        dtype: type of its values.

    Raises:
        ValueError: the bytes are damaged.
    """
    content = _checked(packed)
    # Blosc believes what its header says of the sizes.
    said = (
        int.from_bytes(content[4:8], "little"),
        int.from_bytes(content[12:16], "little"),
    )
    if said != (dtype.itemsize * math.prod(shape), len(content)):
        raise ValueError("a chunk has another size than the array says")
    return np.frombuffer(blosc.decompress(content), dtype).reshape(shape)


def _checked(content: bytes) -> bytes:
    """What stands before a checksum.

    Raises:
        ValueError: the two do not go together.
    """
    inside, crc = content[:-_CRC_BYTES], content[-_CRC_BYTES:]
    if google_crc32c.value(inside) != int.from_bytes(crc, "little"):
        raise ValueError("its checksum is wrong")
    return inside


def _overlap(number: int, start: int, stop: int, size: int) -> tuple[slice, slice]:
    """What a chunk shares with a box along one axis: in the chunk, and in the box."""
    first, last = max(start, number * size), min(stop, (number + 1) * size)
    return (
        slice(first - number * size, last - number * size),
        slice(first - start, last - start),
    )


def _check_codecs(array: zarr.Array, *expected: Any) -> None:
    found = array.metadata.to_dict()["codecs"]
    if found != tuple(codec.to_dict() for codec in expected):
        raise ValueError("its values are packed in another way than nobrainer does")
