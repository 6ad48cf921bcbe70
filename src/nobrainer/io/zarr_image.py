"""A scan as a Zarr group with coarser levels, and back to the same NIfTI file.

The group holds an array for each level and nothing else, with the axes in the order of
the NIfTI file and the values as the file stores them. Its attributes hold the bytes
that stand before the voxels in the file: the header, and whatever extends it.
"""

import os
import secrets
import shutil
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import file_digest
from pathlib import Path
from typing import Any, Self

import nibabel as nib
import numpy as np
from nibabel.volumeutils import apply_read_scaling
from zarr import Array, Group, create_group, open_group

from nobrainer import __version__
from nobrainer.checks import check_count
from nobrainer.errors import InputError
from nobrainer.formats import ImageFile, open_image, parse_nifti
from nobrainer.io import pyramid
from nobrainer.io.headers import new_header, unit_mm
from nobrainer.io.reading import read_geometry
from nobrainer.io.writing import write_nifti
from nobrainer.io.zarr_arrays import codecs, told
from nobrainer.types import Shape3
from nobrainer.volume import Geometry

_PROVENANCE, _HEADER = "nobrainer_provenance", "nifti_header"
_VOXEL_OFFSET = 352
"""Where voxels begin in a NIfTI-1 file that nothing extends."""


Box = Sequence[int] | np.ndarray
"""Three numbers of voxels, one along each axis: where a box begins or ends."""


@dataclass(frozen=True, eq=False)
class ZarrImage:
    """A level of a scan that `nifti_to_zarr` wrote; voxels are read as they are needed.

    path: path of the group.
    array: the values as they are stored, (I, J, K).
    header: the NIfTI header of this level.
    head: that header and what stands behind it in a file, before the voxels.
    """

    path: Path
    array: Array
    header: nib.Nifti1Header
    head: bytes

    @classmethod
    def open(cls, path: Path, level: int = 0) -> Self:
        """Open a scan; its voxels stay unread.

        Args:
            path: path of the group.
            level: number of the level; 0 is the scan itself.

        Raises:
            InputError: there is no such group or level, or it is damaged.
        """
        if not (path / "zarr.json").is_file():
            raise InputError(f"{path}: is no Zarr group: make one by nifti_to_zarr")
        with told(f"{path}: is no Zarr group that can be read"):
            group = open_group(path, mode="r", zarr_format=3)
            head = group.attrs.get(_HEADER)
        if not isinstance(head, str):
            raise InputError(
                f"{path}: is a Zarr group, but nifti_to_zarr has not made it (scans of "
                "a store come back by `nobrainer data export`)"
            )
        with told(f"{path}: level {level} is damaged"):
            check_count("level", level, 0, len(list(group.array_keys())) - 1)
            return cls._read(path, group, level, b64decode(head, validate=True))

    @classmethod
    def _read(cls, path: Path, group: Group, level: int, head: bytes) -> Self:
        header = parse_nifti(path, head)
        whole, array = _three(_array(group, 0).shape), _array(group, level)
        kind, found = header.get_data_dtype(), array.dtype
        if header.get_data_shape()[:3] != whole or kind.str[1:] != found.str[1:]:
            raise ValueError("the array is not that of the header")
        if array.shape != pyramid.shape_at(whole, level):
            raise ValueError("its shape is not that of the level")
        # Zarr takes a file that is not there for one that holds nothing but its fill.
        if not path.joinpath(str(level), "c/0/0/0").is_file():
            raise ValueError("its voxels are missing")
        if level:
            size = len(header.binaryblock)
            pyramid.coarsen(header, whole, level)
            head = header.binaryblock + head[size:]
        return cls(path, array, header, head)

    @property
    def geometry(self) -> Geometry:
        """The grid of the level, in mm."""
        affine = self.header.get_best_affine()
        affine[:3] *= unit_mm(self.header)
        return Geometry(_three(self.array.shape), affine)

    def read(self, start: Box, stop: Box) -> np.ndarray:
        """Read a box; of the file on disk only the chunks that it meets.

        Args:
            start, stop: first voxel of the box along each axis, and the one after its
                last.

        Returns:
            The values with slope and intercept applied, (i, j, k).

        Raises:
            InputError: the voxels are missing or damaged.
        """
        slope, intercept = self.header.get_slope_inter()
        return apply_read_scaling(self.read_stored(start, stop), slope, intercept)

    def read_stored(self, start: Box, stop: Box) -> np.ndarray:
        """Read a box of the values as they are stored; see `read`."""
        box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        with told(f"{self.path}: its voxels are damaged"):
            return np.asarray(self.array[box])


def nifti_to_zarr(
    nii: str | os.PathLike[str],
    zarr: str | os.PathLike[str],
    chunk_shape: Sequence[int] = (64, 64, 64),
    levels: int = 1,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a scan or label map as a Zarr group, from which windows can be read.

    Each voxel of a coarser level takes one of the values of 2 x 2 x 2 voxels: the most
    frequent one where they have four or fewer, as labels do, else one of the two in the
    middle. Ties are drawn, alike in every call.

    Args:
        nii: path of a .nii, .nii.gz, .mgz or .mgh file with one volume.
        zarr: path of the group, a folder that is made.
        chunk_shape: voxels of a chunk along each axis of the file.
        levels: number of arrays. "0" is the scan itself, and each further one has half
            the voxels of the one before along each axis.
        overwrite: whether a Zarr group that is there is replaced.

    Returns:
        The path of the group.

    Raises:
        InputError: the file cannot be read or is not 3-D, an argument is out of range,
            or the group is there already or cannot be written.
    """
    source, path = Path(nii), Path(zarr)
    sides = _check_chunk(chunk_shape)
    geometry = read_geometry(source)
    check_count("levels", levels, 1, pyramid.most_levels(geometry.shape))
    if os.path.lexists(path) and not (overwrite and (path / "zarr.json").is_file()):
        raise InputError(f"{path}: exists already: choose another name or overwrite it")
    file = open_image(source)
    head, values = file.read_stored()
    attributes = {
        _PROVENANCE: _provenance(source, sides, levels),
        _HEADER: b64encode(_new_head(file) if file.header is None else head).decode(
            "ascii"
        ),
    }
    attributes |= pyramid.describe(path.name, geometry, levels)
    new, old = (path.with_name(f".{path.name}.{secrets.token_hex(4)}") for _ in "ab")
    try:
        with told(f"{path}: cannot be written"):
            values = values.reshape(geometry.shape)
            _write_levels(new, attributes, values, sides, levels)
            if path.exists():
                path.replace(old)
            new.replace(path)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return path


def zarr_to_nifti(
    zarr: str | os.PathLike[str],
    nii: str | os.PathLike[str],
    level: int = 0,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a level of a scan that `nifti_to_zarr` wrote as a NIfTI file.

    Level 0 gives the file that the group was made of, but for its compression: each
    voxel and each byte of the header. An MGZ file comes back as a NIfTI file.

    Args:
        zarr: path of the group.
        nii: path of the file, .nii or .nii.gz.
        level: number of the level; 0 is the scan itself.
        overwrite: whether a file that is there is replaced.

    Returns:
        The path of the file.

    Raises:
        InputError: there is no such group or level, it is damaged, or the file is there
            already or cannot be written.
    """
    image = ZarrImage.open(Path(zarr), level)
    values = image.read_stored((0, 0, 0), image.array.shape)
    stored = values.astype(image.header.get_data_dtype())
    return write_nifti(image.head, stored, nii, overwrite=overwrite)


def _check_chunk(chunk_shape: Sequence[int]) -> Shape3:
    sides = np.asarray(chunk_shape)
    if sides.shape != (3,) or sides.dtype.kind not in "iu" or sides.min() < 1:
        raise InputError(
            f"chunk_shape must be three whole numbers >= 1, got {chunk_shape!r}"
        )
    return _three(sides)


def _array(group: Group, level: int) -> Array:
    array = group[str(level)]
    if not isinstance(array, Array):
        raise ValueError("it is no array")
    return array


def _three(shape: Box) -> Shape3:
    i, j, k = shape
    return int(i), int(j), int(k)


def _write_levels(
    path: Path,
    attributes: dict[str, Any],
    values: np.ndarray,
    chunk_shape: Shape3,
    levels: int,
) -> None:
    """Write a group whose arrays each lie in one file of chunks."""
    # The order of bytes is the array's own; the header says that of the file.
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    group = create_group(path, attributes=attributes)
    for level in range(levels):
        if level:
            values = pyramid.halve(values)
        chunk = tuple(np.minimum(chunk_shape, values.shape).tolist())
        n_chunks = -(-np.array(values.shape) // chunk)
        array = group.create_array(
            str(level),
            shape=values.shape,
            chunks=chunk,
            shards=tuple((n_chunks * chunk).tolist()),
            dtype=values.dtype,
            compressors=codecs(values.dtype),
            dimension_names=pyramid.AXES,
            # What is not there is missing, not empty.
            config={"write_empty_chunks": True},
        )
        array[...] = values


def _new_head(file: ImageFile) -> bytes:
    """The bytes before the voxels of a NIfTI file with the voxels of an MGZ file."""
    header = new_header(file.affine)
    header.set_data_dtype(file.dtype.newbyteorder("<"))
    header.set_data_shape(file.shape)
    header["vox_offset"] = _VOXEL_OFFSET
    return header.binaryblock.ljust(_VOXEL_OFFSET, b"\0")


def _provenance(source: Path, chunk_shape: Shape3, levels: int) -> dict[str, Any]:
    """From which file and in which way a group was made, and when."""
    with source.open("rb") as file:
        checksum = file_digest(file, "sha256").hexdigest()
    return {
        "tool": "nobrainer.io.nifti_to_zarr",
        "nobrainer_version": __version__,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "source_file": source.name,
        "source_sha256": checksum,
        "chunk_shape": list(chunk_shape),
        "levels": levels,
    }
