"""Boxes of an array, read from its files: what Zarr reads, and what is refused."""

import google_crc32c
import numpy as np
import pytest
import zarr
from numcodecs import blosc

from nobrainer.data.zarr_store import Arrays
from nobrainer.data.zarr_store.chunks import Shards, unpack
from nobrainer.errors import InputError
from nobrainer.recipe import PreprocessConfig

SHAPE = (40, 33, 70)  # along R, A, S: two, two and three chunks


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Two scans, of which the second has chunks that hold nothing but the fill."""
    path = tmp_path_factory.mktemp("stores") / "s.zarr"
    Arrays.create(path, PreprocessConfig(spacing_mm=(1.0, 1.0, 1.0)), SHAPE)
    arrays = Arrays.open(path, writable=True)
    arrays.grow(2)
    rng = np.random.default_rng(0)
    for index in range(2):
        image = rng.integers(-(2**15), 2**15, SHAPE, np.int16)
        labels = rng.integers(0, 2**31, SHAPE, np.int32)
        if index == 1:
            image[:, :, 32:], labels[:32] = -(2**15), 0
        arrays.write(index, image, labels, [np.arange(3)], [b"\0" * 348] * 2)
    return arrays


def test_boxes_are_those_that_zarr_reads(arrays):
    rng = np.random.default_rng(1)
    for array, files in ((arrays.images, "images"), (arrays.labels, "labels/values/0")):
        layout = Shards.of(array)
        assert (layout.chunk, layout.n_chunks) == ((32, 32, 32), (3, 2, 2))
        for index in range(2):
            path = arrays.path / files / f"c/{index}/0/0/0"
            for _ in range(10):
                ends = rng.integers(0, [SHAPE[::-1]] * 2, endpoint=True)
                start, stop = map(tuple, np.sort(ends, axis=0).tolist())
                found = layout.read(path, start, stop)
                box = tuple(map(slice, start, stop))
                expected = np.asarray(array[(index, *box)])
                assert found.dtype == expected.dtype
                assert np.array_equal(found, expected)


def test_chunks_of_other_sizes_are_refused():
    """Although their checksum is right."""

    def packed(values, more=b""):
        content = blosc.compress(values, b"zstd", 5) + more
        return content + google_crc32c.value(content).to_bytes(4, "little")

    values = np.arange(8, dtype=np.int32)
    two, kind = (2, 2, 2), values.dtype
    assert np.array_equal(unpack(packed(values), two, kind), values.reshape(two))
    for wrong in (packed(values[:7]), packed(values, b"more"), b""):
        with pytest.raises(ValueError, match="another size than the array says"):
            unpack(wrong, two, kind)
    for cut in (packed(values)[:-1], b"abc"):
        with pytest.raises(ValueError, match="its checksum is wrong"):
            unpack(cut, two, kind)


def test_a_file_that_was_cut_is_damaged(arrays, tmp_path):
    layout = Shards.of(arrays.images)
    content = (arrays.path / "images/c/0/0/0/0").read_bytes()
    n_index = 16 * 3 * 2 * 2 + 4
    (tmp_path / "begin").write_bytes(content[:-1])
    with pytest.raises(ValueError, match="its checksum is wrong"):
        layout.read(tmp_path / "begin", (0, 0, 0), (1, 1, 1))
    (tmp_path / "end").write_bytes(content[-n_index:])
    with pytest.raises(ValueError, match="a chunk lies beyond its end"):
        layout.read(tmp_path / "end", (0, 0, 0), (1, 1, 1))
    (tmp_path / "nothing").write_bytes(b"")
    with pytest.raises(OSError):
        layout.read(tmp_path / "nothing", (0, 0, 0), (1, 1, 1))


def test_values_that_are_packed_in_another_way_are_refused(arrays, tmp_path):
    array = zarr.create_array(tmp_path / "a", shape=(1, 8, 8, 8), dtype="int16")
    with pytest.raises(ValueError, match="packed in another way"):
        Shards.of(array)
    path = arrays.path / "voxels" / "zarr.json"
    whole = path.read_text()
    path.write_text(whole.replace('"little"', '"big"'))
    with pytest.raises(InputError, match=r"s\.zarr: is no store that nobrainer made"):
        Arrays.open(arrays.path)
    path.write_text(whole)
    assert Arrays.open(arrays.path).largest == (64, 64, 96)
