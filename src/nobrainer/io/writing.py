"""Write results and texts into files, whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal.igzip import IGzipFile

from nobrainer.errors import InputError, in_one_line
from nobrainer.formats import GZIPPED, find_suffix
from nobrainer.io.headers import move, new_header, unit_mm
from nobrainer.io.order import reverse_order
from nobrainer.volume import Volume

_MGH_TYPES = (np.uint8, np.int16, np.int32, np.float32)
"""Types of the values that MGZ files can hold."""


def to_nibabel(data: np.ndarray, like: Volume, *, copy: bool = True) -> nib.Nifti1Image:
    """Make an image of a result, with the coordinates of the scan it belongs to.

    Args:
        data: (I, J, K) or (I, J, K, C); integers and booleans count as labels.
        like: the volume whose grid, unit, sform and qform the image gets.
        copy: whether the image has its values for itself, in the order of a file, which
            makes it quick to write; else it may share them with `data`.

    Returns:
        The image: labels in the smallest unsigned type that fits, all else in float32.

    Raises:
        InputError: the data are not on the grid of `like`, or a label is negative.
    """
    if data.shape[:3] != like.data.shape:
        raise InputError(
            f"{like.source}: result of shape {data.shape} is not on the grid of "
            f"shape {like.data.shape}: restore it first"
        )
    if data.dtype.kind in "bui":
        if data.min() < 0:
            raise InputError(f"{like.source}: labels to write must not be negative")
        dtype = np.min_scalar_type(int(data.max()))
    else:
        dtype = np.dtype(np.float32)
    stored = reverse_order(data, dtype) if copy else data.astype(dtype, copy=False)
    header = (like.header or new_header(like.affine)).copy()
    header.set_data_dtype(stored.dtype)
    header.set_data_shape(stored.shape)
    affine = like.affine.copy()
    affine[:3] /= unit_mm(header)
    present = header.get_best_affine()
    if not np.allclose(present, affine, rtol=1e-5, atol=1e-5):
        move(header, np.linalg.inv(present) @ affine, affine)
    # The affine as the header rounds it, so that a file reads back the same.
    return nib.Nifti1Image(stored, header.get_best_affine(), header)


def in_steps(image: nib.Nifti1Image, step: float) -> nib.Nifti1Image:
    """Round an image of real numbers, so that its file takes less room.

    Args:
        image: the image, with values that need no scaling.
        step: a power of 2, at least 2**-24 of the largest value. The low bits of
            float32 numbers that are multiples of it are 0, and compress to nothing.

    Returns:
        An image whose values differ by at most half a step: the nearest multiples of
        the step, but none above the largest value there was.
    """
    values = np.asanyarray(image.dataobj)
    if not values.any():
        return image
    rounded = values / step
    np.rint(rounded, out=rounded)
    rounded *= step
    np.minimum(rounded, values.max(), out=rounded)
    return nib.Nifti1Image(rounded, image.affine, image.header)


def write(
    image: nib.Nifti1Image, path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write an image whole or not at all.

    Args:
        image: the image, see `to_nibabel`.
        path: path of the file in a directory that exists; its end, .nii, .nii.gz, .mgz
            or .mgh, decides the format.
        overwrite: whether a file that is there is replaced.

    Returns:
        The path.

    Raises:
        InputError: the suffix is unknown, the file exists, it cannot be written, or
            MGZ cannot hold its values.
    """
    path = Path(path)
    suffix = find_suffix(path)
    _check_free(path, overwrite)
    stored = _to_mgh(image, path) if suffix in (".mgz", ".mgh") else image
    with (
        _replacing(path, suffix) as temporary,
        _opened(temporary, suffix in GZIPPED) as file,
    ):
        stored.to_stream(file)
    return path


def write_nifti(
    head: bytes,
    values: np.ndarray,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> Path:
    """Write a NIfTI file of its bytes, whole or not at all.

    Args:
        head: the header, and all else that stands before the voxels.
        values: the voxels as the file stores them, (I, J, K).
        path: path of the file in a directory that exists, .nii or .nii.gz.
        overwrite: whether a file that is there is replaced.

    Returns:
        The path.

    Raises:
        InputError: the suffix is another one, the file exists, or it cannot be written.
    """
    path = Path(path)
    suffix = find_suffix(path)
    if suffix not in (".nii", ".nii.gz"):
        raise InputError(f"{path}: holds a NIfTI header: name it .nii or .nii.gz")
    _check_free(path, overwrite)
    with (
        _replacing(path, suffix) as temporary,
        _opened(temporary, suffix in GZIPPED) as file,
    ):
        file.write(head)
        file.write(values.tobytes(order="F"))
    return path


def write_text(
    text: str, path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write a text file in UTF-8, whole or not at all.

    Args:
        text: the text. Lines end in a line feed on every system; bytes of a file name
            that are not UTF-8 become escapes.
        path: path of the file, in a directory that exists.
        overwrite: whether a file that is there is replaced.

    Returns:
        The path.

    Raises:
        InputError: the file exists, or it cannot be written.
    """
    data = text.encode("utf-8", errors="backslashreplace")
    return write_bytes(data, path, overwrite=overwrite)


def write_bytes(
    data: bytes, path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write bytes, such as those of a picture, whole or not at all.

    Args:
        data: the bytes.
        path: path of the file, in a directory that exists.
        overwrite: whether a file that is there is replaced.

    Returns:
        The path.

    Raises:
        InputError: the file exists, or it cannot be written.
    """
    path = Path(path)
    _check_free(path, overwrite)
    with _replacing(path) as temporary:
        temporary.write_bytes(data)
    return path


def _check_free(path: Path, overwrite: bool) -> None:
    if os.path.exists(path) and not overwrite:
        raise InputError(f"{path}: exists already: choose another name or overwrite it")


@contextmanager
def _opened(path: Path, is_gzipped: bool) -> Iterator[Any]:
    """A new file, compressed by ISA-L, which was measured 3 to 6 times as fast."""
    with path.open("wb") as file:
        if not is_gzipped:
            yield file
            return
        # Name and time are left out, so that the same image gives the same bytes.
        with IGzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as zipped:
            yield zipped


@contextmanager
def _replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """Yield a new path beside `path`, whose file takes its place at the end."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        why = error.strerror or in_one_line(str(error))
        raise InputError(
            f"{path}: cannot be written: {why}: check the directory, its permissions "
            "and the free space"
        ) from error
    finally:
        if os.path.exists(temporary):
            temporary.unlink()


def _to_mgh(image: nib.Nifti1Image, path: Path) -> nib.MGHImage:
    """The image as MGZ stores it: in millimetres, in one of four types."""
    data = np.asanyarray(image.dataobj)
    if data.dtype not in _MGH_TYPES:
        stored = data.astype(np.int32 if data.dtype.kind in "bui" else np.float32)
        if data.dtype.kind in "bui" and not np.array_equal(stored, data):
            raise InputError(f"{path}: MGZ holds 32-bit integers: write .nii.gz")
        data = stored
    affine = image.affine.copy()
    affine[:3] *= unit_mm(image.header)
    return nib.MGHImage(data, affine)
