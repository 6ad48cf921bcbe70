"""Scans and label maps in and out: NIfTI and MGZ files, and objects in memory.

What enters here is checked here, once: the rest of the package may rely on three
axes, finite values and an affine in millimetres that can be inverted.
"""

import os
import secrets
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal.igzip import IGzipFile
from nibabel.spatialimages import SpatialImage

from nobrainer.errors import InputError
from nobrainer.formats import check_stream, find_suffix, open_image
from nobrainer.memory import memory_for
from nobrainer.volume import Geometry, Volume

ImageSource = str | os.PathLike[str] | SpatialImage | tuple[Any, Any]

SYNTHETIC = "synthetic"
"""With this a NIfTI header's description begins where nobody was scanned."""

_GZIPPED = (".nii.gz", ".mgz")
_MGH_TYPES = (np.uint8, np.int16, np.int32, np.float32)
# What nibabel was seen to raise on images in memory whose file is damaged or gone.
_UNREADABLE = (OSError, EOFError, ValueError, TypeError, zlib.error)
# NIfTI keeps the unit of length in three bits of a field shared with time.
_LENGTH_BITS, _METRE, _MILLIMETRE, _MICROMETRE = 7, 1, 2, 3
_UNIT_BITS = 0xFF
_SCANNER_CODE = 1
# What places voxels in the world, twice: as a matrix, and as a rotation, a place and
# the voxel sizes.
_SFORM = ("sform_code", "srow_x", "srow_y", "srow_z")
_QFORM = (
    "qform_code",
    *("quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z"),
)
# Beyond these a header is wrong, and what is computed from it loses every digit.
_SMALLEST_MM, _FARTHEST_MM = 1e-6, 1e6
# Rounding of stored labels, for example by a slope in single precision.
_LABEL_ROUNDING = 1e-3


@dataclass(frozen=True, eq=False)
class _Opened:
    """A source whose grid and type are checked and whose values are still unread."""

    name: str
    read: Callable[[], np.ndarray]
    dtype: np.dtype
    geometry: Geometry
    header: nib.Nifti1Header


def read_image(source: ImageSource) -> Volume:
    """Read a scan.

    Args:
        source: path of a .nii, .nii.gz, .mgz or .mgh file, nibabel image, or
            (array (I, J, K), affine (4, 4)).

    Returns:
        A volume of its own float32 data, slope and intercept applied.

    Raises:
        InputError: the source cannot be read, its checksum differs, it is too large
            for the memory, is not one real 3-D volume with an invertible affine, holds
            NaN or infinity, or is constant.
    """
    opened = _open(source)
    # What overflows is reported as infinity.
    with memory_for(opened.name), np.errstate(over="ignore"):
        data = _values(opened).astype(np.float32, order="C")
    low, high = _finite_range(data, opened.name)
    if low == high:
        raise InputError(
            f"{opened.name}: constant, every voxel is {low:g}: check that the scan "
            f"was written completely"
        )
    return Volume(data, opened.geometry.affine, opened.name, opened.header)


def read_labels(source: ImageSource) -> Volume:
    """Read a label map; whole numbers stored as floats are accepted.

    Values within 0.001 of a whole number are rounded to it: single precision and
    slopes store 24 as 24.000002 or 17 as 17.0003.

    Args:
        source: as for `read_image`.

    Returns:
        A volume of its own data, the smallest of uint8, uint16, int32 that fits.

    Raises:
        InputError: as `read_image`, but constant maps pass; or a label is negative,
            fractional or beyond 32 bits.
    """
    opened = _open(source)
    with memory_for(opened.name):
        values = _values(opened)
        _finite_range(values, opened.name)
        if values.dtype.kind == "f":
            values = _whole(values, opened)
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
    """What messages call a source: its path, or what it is where it has none."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, SpatialImage):
        return source.get_filename() or "image in memory"
    return "array"


def read_geometry(source: ImageSource) -> Geometry:
    """Read the grid alone, from the header: the voxels and the checksum stay unread.

    Args:
        source: as for `read_image`.

    Returns:
        Shape and affine (voxel to RAS mm).

    Raises:
        InputError: the header cannot be read or describes no usable 3-D volume.
    """
    return _open(source).geometry


def is_synthetic(source: ImageSource) -> bool:
    """Whether a scan's header says that it is synthetic; see `SYNTHETIC`.

    Args:
        source: as for `read_image`; of a file the header alone is read.

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


def to_nibabel(data: np.ndarray, like: Volume) -> nib.Nifti1Image:
    """Wrap a result for the grid of `like`.

    Args:
        data: (I, J, K) or (I, J, K, C); integers and booleans are labels.
        like: the volume whose grid, units, sform and qform the image gets.

    Returns:
        Labels in the smallest unsigned type that fits, all else in float32.

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
        stored = data.astype(np.min_scalar_type(int(data.max())))
    else:
        stored = data.astype(np.float32)
    header = (like.header or _new_header(like.affine)).copy()
    header.set_data_dtype(stored.dtype)
    header.set_data_shape(stored.shape)
    affine = like.affine.copy()
    affine[:3] /= _millimetres(header)
    present = header.get_best_affine()
    if not np.allclose(present, affine, rtol=1e-5, atol=1e-5):
        _move(header, np.linalg.inv(present) @ affine, affine)
    # In the header's precision, so that the affine is the one that files read as.
    return nib.Nifti1Image(stored, header.get_best_affine(), header)


def write(
    image: nib.Nifti1Image, path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write an image whole or not at all.

    Args:
        image: what `to_nibabel` returns.
        path: ends in .nii, .nii.gz, .mgz or .mgh, which decides the format. The
            directory must exist.
        overwrite: replace a file that is there.

    Returns:
        The path.

    Raises:
        InputError: the suffix is unknown, the file exists, it cannot be written, or
            MGZ cannot hold its values.
    """
    path = Path(path)
    suffix = find_suffix(path)
    if os.path.exists(path) and not overwrite:
        raise InputError(f"{path}: exists already: choose another name or overwrite it")
    stored = _to_mgh(image, path) if suffix in (".mgz", ".mgh") else image
    with _replacing(path, suffix) as temporary:
        if suffix in _GZIPPED:
            _save_gzipped(stored, temporary)
        else:
            nib.save(stored, temporary)
    return path


def write_text(
    text: str, path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write a text file in UTF-8, whole or not at all.

    Args:
        text: its lines end in a line feed on every system. Bytes of a name that are
            not UTF-8 become escapes.
        path: its directory must exist.
        overwrite: replace a file that is there.

    Returns:
        The path.

    Raises:
        InputError: the file exists, or it cannot be written.
    """
    path = Path(path)
    if os.path.exists(path) and not overwrite:
        raise InputError(f"{path}: exists already: choose another name or overwrite it")
    with _replacing(path) as temporary:
        temporary.write_text(
            text, encoding="utf-8", errors="backslashreplace", newline="\n"
        )
    return path


def _save_gzipped(image: nib.Nifti1Image | nib.MGHImage, path: Path) -> None:
    """What `nib.save` writes, compressed by ISA-L: measured 3 to 6 times faster."""
    # Without name and time, so that the same image gives the same bytes.
    with (
        path.open("wb") as file,
        IGzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as zipped,
    ):
        image.to_stream(zipped)


@contextmanager
def _replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """A file beside `path` to write into, which then takes its place."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror or _one_line(error)}: check "
            f"the directory, its permissions and the free space"
        ) from error
    finally:
        if os.path.exists(temporary):
            temporary.unlink()


def _open(source: ImageSource) -> _Opened:
    """Open any kind of source and check its grid and its type of value."""
    values: Any
    name = source_name(source)
    if isinstance(source, tuple) and len(source) == 2:
        values, affine = np.asarray(source[0]), source[1]
        header, read = None, values.view
    elif isinstance(source, SpatialImage):
        values, affine, header = source.dataobj, source.affine, source.header
        read = partial(_read_lazily, source, name)
    elif isinstance(source, str | os.PathLike):
        values = open_image(Path(source))
        affine, header, read = values.affine, values.header, values.read
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
        matrix = _placed(affine, _millimetres(header), name)
        inherited = _inherited(header)
    else:
        matrix = _placed(affine, 1, name)
        inherited = _new_header(matrix)
    return _Opened(name, read, values.dtype, Geometry(shape, matrix), inherited)


def _values(opened: _Opened) -> np.ndarray:
    """The values (I, J, K), without trailing axes of one voxel."""
    return opened.read().reshape(opened.geometry.shape)


def _read_lazily(image: SpatialImage, name: str) -> np.ndarray:
    """The values of an image that nibabel may not have read from its file yet."""
    file = getattr(image.dataobj, "file_like", None)
    if isinstance(file, str) and file.lower().endswith(_GZIPPED):
        check_stream(Path(file))
    try:
        return np.asanyarray(image.dataobj)
    except _UNREADABLE as error:
        raise InputError(
            f"{name}: its voxels cannot be read: {_one_line(error)}: load it again"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


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
        raise InputError(f"{wrong}: {_one_line(error)}") from error
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


def _whole(values: np.ndarray, opened: _Opened) -> np.ndarray:
    """Labels stored as floats, rounded where they are whole but for rounding."""
    rounded = np.rint(values)
    fractional = np.abs(values - rounded) > _LABEL_ROUNDING
    if fractional.any():
        digits = np.format_float_positional(values[fractional][0], trim="-")
        is_scaled = opened.dtype.kind in "bui"
        raise InputError(
            f"{opened.name}: holds label {digits}: labels must be whole numbers; "
            + (
                "the header's slope scales them, so save the map again as integers"
                if is_scaled
                else "resample label maps with nearest neighbour"
            )
        )
    return rounded


def _inherited(header: nib.Nifti1Header) -> nib.Nifti1Header:
    """What results inherit: the unit and both forms of coordinates, nothing else."""
    inherited = nib.Nifti1Header()
    # NIfTI-2 is wider; a form that does not fit is not the one that is in use.
    with np.errstate(over="ignore", invalid="ignore"):
        for field in (*_SFORM, *_QFORM):
            inherited[field] = header[field]
        inherited["pixdim"][:4] = header["pixdim"][:4]
    units = int(header["xyzt_units"]) & _UNIT_BITS
    inherited["xyzt_units"] = units if units & _LENGTH_BITS else units | _MILLIMETRE
    return inherited


def _new_header(affine: np.ndarray) -> nib.Nifti1Header:
    """The same for a source that has no NIfTI header: both forms are its affine."""
    header = nib.Nifti1Header()
    header["xyzt_units"] = _MILLIMETRE
    _set_forms(header, affine, affine, (_SCANNER_CODE, _SCANNER_CODE))
    return header


def _move(header: nib.Nifti1Header, change: np.ndarray, affine: np.ndarray) -> None:
    """Put both forms onto another grid of the same scan.

    `change` (4, 4) leads from voxels of the new grid to those of the old one.
    """
    codes = int(header["sform_code"]), int(header["qform_code"])
    qform = header.get_qform() @ change if codes[1] else affine
    if codes == (0, 0):
        codes = _SCANNER_CODE, _SCANNER_CODE
    _set_forms(header, affine, qform, codes)


def _set_forms(
    header: nib.Nifti1Header,
    sform: np.ndarray,
    qform: np.ndarray,
    codes: tuple[int, int],
) -> None:
    """Set both forms; the qform is left unknown where it cannot say what is sheared."""
    header.set_sform(sform, codes[0])
    header.set_qform(qform, codes[1])
    if not np.allclose(header.get_qform(), qform, atol=1e-3):
        header["qform_code"] = 0


def _millimetres(header: nib.Nifti1Header) -> float:
    """Length of the header's unit."""
    unit = int(header["xyzt_units"]) & _LENGTH_BITS
    return {_METRE: 1e3, _MICROMETRE: 1e-3}.get(unit, 1.0)


def _to_mgh(image: nib.Nifti1Image, path: Path) -> nib.MGHImage:
    """The image as MGZ stores it: in millimetres, in one of four types."""
    data = np.asanyarray(image.dataobj)
    if data.dtype not in _MGH_TYPES:
        stored = data.astype(np.int32 if data.dtype.kind in "bui" else np.float32)
        if data.dtype.kind in "bui" and not np.array_equal(stored, data):
            raise InputError(f"{path}: MGZ holds 32-bit integers: write .nii.gz")
        data = stored
    affine = image.affine.copy()
    affine[:3] *= _millimetres(image.header)
    return nib.MGHImage(data, affine)
