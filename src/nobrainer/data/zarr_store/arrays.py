"""The arrays of a store: made, written a scan at a time, and read a box at a time."""

import math
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import nibabel as nib
import numpy as np
import zarr

from nobrainer.data.zarr_store.chunks import Shards, check_rows, unpack
from nobrainer.data.zarr_store.table import (
    DAMAGED,
    FILL,
    FORMAT_VERSION,
    LISTED,
    MISSING,
    ScanRow,
)
from nobrainer.errors import InputError
from nobrainer.io.nifti_zarr import (
    HEADER_BYTES,
    ome_dataset,
    ome_metadata,
    read_header,
)
from nobrainer.io.zarr_arrays import codecs, told
from nobrainer.json_records import build_record
from nobrainer.provenance import checksum
from nobrainer.recipe import PreprocessConfig
from nobrainer.types import Shape3

# Measured: of 24, 32 and 48, this needs the least time for patches of 32 and of 64.
_CHUNK = 32
_AXES = ("scan", "z", "y", "x")
_IMAGES, _LABELS, _VOXELS = "images", "labels/values/0", "voxels"
_HEADERS = ("nifti", "labels/values/nifti")
_FILES = (
    *(f"{array}/c/{{}}/0/0/0" for array in (_IMAGES, _LABELS)),
    *(f"{array}/c/{{}}/0" for array in (_VOXELS, *_HEADERS)),
)
"""Of each scan: its image, its labels, the listed voxels, and the two headers."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """The arrays of one store.

    path: path of the store.
    preprocess: how its scans were prepared.
    images: int16 (scan, z, y, x), a shard for each scan.
    labels: int32 (scan, z, y, x), likewise.
    voxels: int32 (scan, `LISTED`), flat indices of voxels, label value by label value.
    headers: of images and of labels, uint8 (scan, 348).
    layouts: how images and labels lie in their files.
    """

    path: Path
    preprocess: PreprocessConfig
    images: zarr.Array
    labels: zarr.Array
    voxels: zarr.Array
    headers: tuple[zarr.Array, zarr.Array]
    layouts: tuple[Shards, Shards]

    @classmethod
    def create(cls, path: Path, preprocess: PreprocessConfig, shape: Shape3) -> None:
        """Make a store without scans, whole or not at all.

        Args:
            path: path of a folder, which is made; if it is there, it is empty.
            preprocess: how its scans will be prepared, with a voxel size.
            shape: voxels of the largest scan along R, A, S.

        Raises:
            InputError: the folder cannot be written to.
        """
        assert preprocess.spacing_mm is not None
        about = {"format_version": FORMAT_VERSION, "preprocess": asdict(preprocess)}
        new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with told(f"{path}: cannot be made"):
            spacing_mm = preprocess.spacing_mm
            scale = (1, *reversed(spacing_mm))
            ome = ome_metadata("images", _AXES, [ome_dataset(_IMAGES, scale)])
            root = zarr.create_group(new, attributes=ome | {"nobrainer": about})
            _create_volumes(root, _IMAGES, np.dtype(np.int16), FILL, shape)
            root.create_group("labels", attributes={"ome": _OME_LABELS})
            grid = [ome_dataset("0", scale)]
            ome = ome_metadata("labels", _AXES, grid, labels=True)
            root.create_group("labels/values", attributes=ome)
            _create_volumes(root, _LABELS, np.dtype(np.int32), 0, shape)
            _create_rows(root, _VOXELS, np.dtype(np.int32), -1, LISTED)
            for name in _HEADERS:
                _create_rows(root, name, np.dtype(np.uint8), 0, HEADER_BYTES)
            new.replace(path)

    @classmethod
    def open(cls, path: Path, *, writable: bool = False) -> Self:
        """Open a store that is there.

        Args:
            path: path of its folder.
            writable: whether scans will be written.

        Raises:
            InputError: there is no store, or one that this software does not know.
        """
        if not (path / "zarr.json").is_file():
            raise InputError(
                f"{path}: is no store: make one by `nobrainer data convert`"
            )
        with told(f"{path}: is no store that can be read"):
            root = zarr.open_group(path, mode="r+" if writable else "r", zarr_format=3)
            about = root.attrs.get("nobrainer")
        if not isinstance(about, dict) or not about.get("format_version"):
            raise InputError(
                f"{path}: is a Zarr group, but no store of nobrainer: make one by "
                "`nobrainer data convert`"
            )
        version = about["format_version"]
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise InputError(
                f"{path}: has format version {version}, this nobrainer reads up to "
                f"{FORMAT_VERSION}: upgrade nobrainer"
            )
        where = f"{path}: preprocess"
        preprocess = build_record(PreprocessConfig, about.get("preprocess"), where)
        arrays = []
        for name in (_IMAGES, _LABELS, _VOXELS, *_HEADERS):
            with told(f"{path}: its array {name} cannot be read"):
                array = root[name]
            if not isinstance(array, zarr.Array):
                raise InputError(f"{path}: {name} is no array: convert the scans again")
            arrays.append(array)
        images, labels, voxels, *headers = arrays
        with told(f"{path}: is no store that nobrainer made"):
            layouts = Shards.of(images), Shards.of(labels)
            check_rows(voxels)
        pair = headers[0], headers[1]
        return cls(path, preprocess, images, labels, voxels, pair, layouts)

    @property
    def largest(self) -> Shape3:
        """Voxels along R, A, S of the largest scan for which there is room."""
        _, k, j, i = self.images.shape
        return i, j, k

    def grow(self, n_scans: int) -> None:
        """Make room for this number of scans."""
        with told(f"{self.path}: cannot be written to"):
            for array in (self.images, self.labels, self.voxels, *self.headers):
                array.resize((max(n_scans, array.shape[0]), *array.shape[1:]))

    def write(
        self,
        index: int,
        image: np.ndarray,
        labels: np.ndarray,
        listed: Sequence[np.ndarray],
        headers: Sequence[bytes],
    ) -> None:
        """Write the voxels of one scan.

        Args:
            index: its place along the first axis.
            image: integers as they are stored, int16 (I, J, K).
            labels: label values, int32 (I, J, K).
            listed: for each label value flat indices of voxels, `LISTED` in all at
                most.
            headers: the NIfTI headers of the stored image and labels.

        Raises:
            InputError: the disk is full or cannot be written to.
        """
        row = np.full(LISTED, -1, np.int32)
        voxels = np.concatenate(listed)
        row[: len(voxels)] = voxels
        with told(f"{self.path}: cannot be written to"):
            # Zarr would read a file that is there, and stop where it is damaged.
            for file in _FILES:
                (self.path / file.format(index)).unlink(missing_ok=True)
            for array, data in ((self.images, image), (self.labels, labels)):
                whole = np.full(array.shape[1:], array.fill_value, data.dtype)
                k, j, i = data.T.shape
                whole[:k, :j, :i] = data.T
                array[index] = whole
            self.voxels[index] = row
            for array, header in zip(self.headers, headers, strict=True):
                array[index] = np.frombuffer(header, np.uint8)

    def _file(self, kind: int, row: ScanRow) -> Path:
        """A file of a scan, by its place in `_FILES`."""
        return Path(f"{self.path}/{_FILES[kind].format(row.index)}")

    def checksums(self, index: int) -> dict[str, str]:
        """The SHA-256 of each file of a scan, by its path in the store."""
        files = [file.format(index) for file in _FILES]
        return {
            file: checksum(self.path / file)
            for file in files
            # Of what is nothing but an array's fill there is no file.
            if (self.path / file).is_file()
        }

    def missing(self, row: ScanRow) -> Path | None:
        """The first file of a scan that is not there, None where all are."""
        # Zarr takes a file that is not there for one that holds nothing but its fill.
        # A label map of nothing but 0, which is the array's fill, has none.
        kinds = [0, 1, 2] if any(row.label_values) else [0, 2]
        files = [self._file(kind, row) for kind in kinds]
        return next((file for file in files if not file.is_file()), None)

    def read_image(self, row: ScanRow, start: Shape3, stop: Shape3) -> np.ndarray:
        """Read intensities; see `VoxelReader`.

        Raises:
            InputError: a file is missing or damaged.
        """
        stored = self._read_box(0, row, start, stop)
        return stored.astype(np.float32) * np.float32(row.slope) + np.float32(
            row.intercept
        )

    def read_labels(self, row: ScanRow, start: Shape3, stop: Shape3) -> np.ndarray:
        """Read label values; see `VoxelReader`.

        Raises:
            InputError: a file is missing or damaged.
        """
        if not any(row.label_values):  # There is no file then.
            return np.zeros(np.subtract(stop, start), self.layouts[1].dtype)
        return self._read_box(1, row, start, stop)

    def read_listed(self, row: ScanRow) -> list[np.ndarray]:
        """Read the listed voxels; see `VoxelReader`.

        Raises:
            InputError: a file is missing or damaged.
        """
        file = self._file(2, row)
        with _read_of(row, file):
            listed = unpack(file.read_bytes(), (LISTED,), self.voxels.dtype)
        ends = np.cumsum(row.listed)
        return np.split(listed[: ends[-1]], ends[:-1])

    def to_nifti(self, row: ScanRow) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
        """A scan and its labels with their headers, as they are stored.

        Args:
            row: the scan.

        Returns:
            The image, int16 with the scale in its header, and the label values, int32.

        Raises:
            InputError: a file is missing or damaged.
        """
        i, j, k = row.geometry.shape
        codes = self._read_box(0, row, (0, 0, 0), (i, j, k))
        values = self.read_labels(row, (0, 0, 0), (i, j, k))
        found = []
        for kind, data in ((3, codes), (4, values)):
            file = self._file(kind, row)
            with _read_of(row, file):
                raw = unpack(file.read_bytes(), (HEADER_BYTES,), np.dtype(np.uint8))
                header = read_header(raw)
            image = nib.Nifti1Image(data, header.get_best_affine(), header)
            # The new image has forgotten what its header said of the scale.
            image.header.set_slope_inter(*header.get_slope_inter())
            found.append(image)
        return found[0], found[1]

    def _read_box(
        self, kind: int, row: ScanRow, start: Shape3, stop: Shape3
    ) -> np.ndarray:
        """Read a box of the image (kind 0) or the labels (1) as they are stored."""
        file = self._file(kind, row)
        with _read_of(row, file):
            stored = self.layouts[kind].read(file, start[::-1], stop[::-1])
        return np.ascontiguousarray(stored.T)


_OME_LABELS = {"version": "0.5", "labels": ["values"]}


def _create_volumes(
    root: zarr.Group, name: str, dtype: np.dtype, fill: int, shape: Shape3
) -> zarr.Array:
    """Make the array of the volumes of all scans, a shard for each."""
    shard = _padded(shape)
    return root.create_array(
        name,
        shape=(0, *shard),
        shards=(1, *shard),
        chunks=(1, *(min(_CHUNK, side) for side in shard)),
        dtype=dtype,
        fill_value=fill,
        compressors=codecs(dtype),
        dimension_names=_AXES,
    )


def _create_rows(
    root: zarr.Group, name: str, dtype: np.dtype, fill: int, length: int
) -> None:
    """Make an array that has a row for each scan."""
    root.create_array(
        name,
        shape=(0, length),
        chunks=(1, length),
        dtype=dtype,
        fill_value=fill,
        compressors=codecs(dtype),
    )


def _padded(shape: Shape3) -> tuple[int, int, int]:
    """The size along z, y, x of an array that holds volumes of a shape (R, A, S)."""
    i, j, k = (
        size if size <= _CHUNK else math.ceil(size / _CHUNK) * _CHUNK for size in shape
    )
    return k, j, i


@contextmanager
def _read_of(row: ScanRow, file: Path) -> Iterator[None]:
    """Say what is wrong with a file of a scan that cannot be read."""
    of_scan = f"{file}: of scan {row.scan},"
    with told(f"{of_scan} {DAMAGED}"):
        try:
            yield
        except FileNotFoundError as error:
            raise InputError(f"{of_scan} {MISSING}") from error
