"""Scans and label maps from files and from memory, and every check of them."""

import os
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage

from nobrainer.errors import InputError, in_one_line
from nobrainer.formats import GZIPPED, check_stream, is_oriented, open_image
from nobrainer.io.headers import SYNTHETIC, inherit, new_header, unit_mm
from nobrainer.io.missing import fill_missing
from nobrainer.io.order import reverse_order
from nobrainer.memory import memory_for
from nobrainer.volume import Geometry, Volume

ImageSource = str | os.PathLike[str] | SpatialImage | tuple[Any, Any]
"""A path, a nibabel image, or an array (I, J, K) with its affine (4, 4)."""

UNREADABLE = (OSError, EOFError, ValueError, TypeError, zlib.error)
"""Errors of nibabel for images whose file is damaged or gone, as observed."""
# Beyond these a header is wrong, and what is computed from it loses every digit.
_SMALLEST_MM, _FARTHEST_MM = 1e-6, 1e6
# Labels are off whole numbers where a slope in single precision rounds them.
_LABEL_ROUNDING = 1e-3


@dataclass(frozen=True, eq=False)
class _Opened:
    """A source whose grid and type are checked, and whose values are still unread.

    name: name of the source in messages.
    read: function that reads the values, in any shape of the right size.
    dtype: type of the values as stored.
    geometry: shape, and affine in millimetres.
    header: header that results inherit.
    is_file: whether it comes from a file.
    is_oriented: whether its file says how the axes lie in space; arrays and images that
        were made in memory do by their affine.
    """

    name: str
    read: Callable[[], np.ndarray]
    dtype: np.dtype
    geometry: Geometry
    header: nib.Nifti1Header
    is_file: bool
    is_oriented: bool


def read_image(source: ImageSource) -> Volume:
    """Read a scan; voxels that are NaN become background, see `fill_missing`.

    Args:
        source: path of a .nii, .nii.gz, .mgz or .mgh file, nibabel image, or
            (array (I, J, K), affine (4, 4)).

    Returns:
        A volume with data of its own, float32, with slope and intercept applied.

    Warns: a file does not say how its axes lie in space, or some voxels are NaN.

    Raises:
        InputError: the source cannot be read, its checksum differs, it is too large
            for the memory, is not one real 3-D volume with an invertible affine, holds
            infinity or NaN in more than 99 % of its voxels, is constant, or is a file
            with a mask or a single slice.
    """
    opened = _open(source)
    if opened.is_file and min(opened.geometry.shape) < 2:
        raise InputError(
            f"{opened.name}: is one voxel thick, shape {opened.geometry.shape}: give a "
            "volume, not a slice"
        )
    # What overflows is reported as infinity.
    with memory_for(opened.name), np.errstate(over="ignore"):
        values, dtype = _values(opened), np.dtype(np.float32)
        if values.flags.c_contiguous:
            data = values.astype(dtype)
        else:
            data = reverse_order(values.T, dtype).T
        is_whole = not np.isnan(data.min())
        n_missing, fill = (0, 0.0) if is_whole else fill_missing(data)
    low, high = _finite_range(data, opened.name)
    if low == high:
        raise InputError(
            f"{opened.name}: constant, every voxel is {low:g}: check that the scan "
            f"was written completely"
        )
    if opened.is_file and not ((data > low) & (data < high)).any():
        raise InputError(
            f"{opened.name}: holds two values alone, {low:g} and {high:g}, as a mask "
            "does: give the scan itself"
        )
    if not opened.is_oriented:
        warnings.warn(
            f"{opened.name}: its header does not say how the head lies (NIfTI: "
            f"sform_code and qform_code are 0): {opened.geometry.orientation} is "
            "taken, and left and right may be swapped: convert the DICOM files again "
            "with dcm2niix, or correct the header",
            stacklevel=2,
        )
    if n_missing:
        warnings.warn(
            f"{opened.name}: {n_missing} of {data.size} voxels "
            f"({n_missing / data.size:.2%}) are NaN, as tools that move or mask a scan "
            f"write them: they are taken for background, of intensity {fill:g}. If "
            "some lie inside the head, what is found there cannot be trusted: fill "
            "these from their neighbours, or give the scan as it was before",
            stacklevel=2,
        )
    return Volume(data, opened.geometry.affine, opened.name, opened.header)


def read_labels(source: ImageSource) -> Volume:
    """Read a label map; whole numbers stored as floats are accepted.

    Values within 0.001 of a whole number are rounded to it: single precision and
    slopes store 24 as 24.000002 or 17 as 17.0003.

    Args:
        source: as for `read_image`.

    Returns:
        A volume with data of its own, in the smallest of uint8, uint16 and int32 that
        fits.

    Raises:
        InputError: as for `read_image`, though a map may be constant; or a label is
            negative, fractional or beyond 32 bits.
    """
    opened = _open(source)
    with memory_for(opened.name):
        values = _values(opened)
        _finite_range(values, opened.name)
        if values.dtype.kind == "f":
            is_scaled = opened.dtype.kind in "bui"
            values = round_labels(values, opened.name, is_scaled)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > np.iinfo(np.int32).max:
        raise InputError(
            f"{opened.name}: holds label {low if low < 0 else high}: labels must "
            f"be from 0 to {np.iinfo(np.int32).max}; relabel the map"
        )
    dtype = next(t for t in (np.uint8, np.uint16, np.int32) if high <= np.iinfo(t).max)
    data = values.astype(dtype, order="C")
    return Volume(data, opened.geometry.affine, opened.name, opened.header)


def source_name(source: ImageSource) -> str:
    """The name of a source in messages: its path or, without one, its kind."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, SpatialImage):
        return source.get_filename() or "image in memory"
    return "array"


def read_geometry(source: ImageSource) -> Geometry:
    """Read only the grid, from the header; voxels and checksum stay unread.

    Args:
        source: as for `read_image`.

    Returns:
        Shape and affine (from voxels to RAS mm).

    Raises:
        InputError: the header cannot be read or describes no usable 3-D volume.
    """
    return _open(source).geometry


def is_synthetic(source: ImageSource) -> bool:
    """Whether a scan's header says that it is synthetic; see `SYNTHETIC`.

    Args:
        source: as for `read_image`; of a file only the header is read.

    Raises:
        InputError: the file cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        header = open_image(Path(source)).header
    else:
        header = getattr(source, "header", None)
    if not isinstance(header, nib.Nifti1Header):
        return False
    return bytes(header["descrip"].item()).startswith(SYNTHETIC.encode())


def _open(source: ImageSource) -> _Opened:
    """Open any kind of source and check its grid and its type of value."""
    values: Any
    name, is_file, oriented = source_name(source), False, True
    if isinstance(source, tuple) and len(source) == 2:
        if isinstance(source[0], str | os.PathLike):
            raise InputError(
                f"a tuple is (array, affine), got {str(source[0])!r} in it: give one "
                "path, or a list of paths"
            )
        values, affine = np.asarray(source[0]), source[1]
        header, read = None, values.view
    elif isinstance(source, SpatialImage):
        values, affine, header = source.dataobj, source.affine, source.header
        read = partial(_read_lazily, source, name)
        is_file = bool(source.get_filename())
        if is_file and isinstance(header, nib.Nifti1Header):
            oriented = is_oriented(header)
    elif isinstance(source, str | os.PathLike):
        values = open_image(Path(source))
        affine, header, read = values.affine, values.header, values.read
        is_file, oriented = True, values.is_oriented
    elif isinstance(source, np.ndarray):
        raise InputError(
            "an array alone does not say how large its voxels are and where they lie: "
            "give (array, affine), or the image that it comes from"
        )
    else:
        raise InputError(
            f"cannot read a {type(source).__name__}: give a path, a nibabel image or "
            f"(array, affine)"
        )
    if values.dtype.kind not in "buif":
        kind = {"V": "colours (RGB)", "c": "complex numbers"}.get(values.dtype.kind)
        raise InputError(
            f"{name}: holds {kind or values.dtype}: give one real number per voxel"
        )
    shape = _three_axes(values.shape, name)
    if isinstance(header, nib.Nifti1Header):
        matrix = _placed(affine, unit_mm(header), name)
        inherited = inherit(header)
    else:
        matrix = _placed(affine, 1, name)
        inherited = new_header(matrix)
    geometry = Geometry(shape, matrix)
    return _Opened(name, read, values.dtype, geometry, inherited, is_file, oriented)


def _values(opened: _Opened) -> np.ndarray:
    """The values (I, J, K), without trailing axes of one voxel."""
    return opened.read().reshape(opened.geometry.shape)


def _read_lazily(image: SpatialImage, name: str) -> np.ndarray:
    """The values of an image that nibabel may not have read from its file yet."""
    file = getattr(image.dataobj, "file_like", None)
    if isinstance(file, str) and file.lower().endswith(GZIPPED):
        check_stream(Path(file))
    try:
        return np.asanyarray(image.dataobj)
    except UNREADABLE as error:
        raise InputError(
            f"{name}: its voxels cannot be read: {in_one_line(str(error))}: load it "
            "again"
        ) from error


def _three_axes(shape: tuple[int, ...], name: str) -> tuple[int, int, int]:
    """The shape without trailing axes of one voxel."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if min(shape, default=1) < 1:
        raise InputError(f"{name}: has no voxels, shape {shape}: export it again")
    if len(shape) != 3:
        raise InputError(
            f"{name}: is {len(shape)}-D with shape {shape}, must be 3-D: give one "
            f"volume, one channel"
        )
    i, j, k = shape
    return int(i), int(j), int(k)


def _placed(affine: Any, unit_mm: float, name: str) -> np.ndarray:
    """The affine as a (4, 4) float64 array of its own, in millimetres."""
    wrong = f"{name}: affine is not an invertible (4, 4) voxel-to-world matrix"
    try:
        matrix = np.array(affine, dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError(f"{wrong}: {in_one_line(str(error))}") from error
    if matrix.shape != (4, 4):
        raise InputError(f"{wrong}: its shape is {matrix.shape}")
    if not np.isfinite(matrix).all() or not np.allclose(matrix[3], (0, 0, 0, 1)):
        raise InputError(f"{wrong}: correct the header's sform or qform")
    with np.errstate(over="ignore"):
        matrix[:3] *= unit_mm
        lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if lengths.max() > _FARTHEST_MM or 0 < lengths.min() < _SMALLEST_MM:
        shown = " x ".join(f"{length:g}" for length in lengths)
        raise InputError(
            f"{name}: its voxels measure {shown} mm: correct the header's sform, "
            f"qform, voxel sizes or unit"
        )
    volume = abs(np.linalg.det(matrix[:3, :3]))
    if lengths.min() == 0 or volume <= 1e-6 * lengths.prod():
        raise InputError(f"{wrong}: it is singular; correct the header's sform")
    if (farthest := np.abs(matrix[:3, 3]).max()) > _FARTHEST_MM:
        raise InputError(
            f"{name}: its first voxel lies {farthest:g} mm from the origin: correct "
            f"the header's sform or qform"
        )
    return matrix


def _finite_range(values: np.ndarray, name: str) -> tuple[float, float]:
    """The smallest and the largest value, both finite."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite((low, high)).all():
        bad = int(values.size - np.isfinite(values).sum())
        raise InputError(
            f"{name}: holds NaN or infinity in {bad} voxels: replace them, for "
            f"example by 0"
        )
    return low, high


def round_labels(values: np.ndarray, name: str, is_scaled: bool) -> np.ndarray:
    """Labels stored as floats, rounded, where they are whole numbers but for 0.001.

    Args:
        values: label values, (I, J, K).
        name: what messages call them.
        is_scaled: whether a slope made floats of integers.

    Raises:
        InputError: they are no whole numbers.
    """
    rounded = np.rint(values)
    fractional = np.abs(values - rounded) > _LABEL_ROUNDING
    if fractional.any():
        digits = np.format_float_positional(values[fractional][0], trim="-")
        raise InputError(
            f"{name}: holds label {digits}: labels must be whole numbers; "
            + (
                "the header's slope scales them, so save the map again as integers"
                if is_scaled
                else "resample label maps with nearest neighbour"
            )
        )
    return rounded
