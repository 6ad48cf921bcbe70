"""NIfTI and MGH files, whose header is checked against what the file holds.

nibabel reads the fields of the headers, but not the voxels: it would allocate all the
memory that a header claims before it looks at the file, and would not read a compressed
file up to the checksum at its end.
"""

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from isal.igzip import IGzipFile
from isal.igzip_lib import IsalError
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from nibabel.wrapstruct import WrapStructError

from nobrainer.errors import InputError, in_one_line
from nobrainer.memory import require_memory
from nobrainer.naming import SUFFIXES

# Errors of nibabel for headers in which random bytes were changed, as observed.
_ODD_HEADER = (
    HeaderDataError,
    WrapStructError,
    ArithmeticError,
    KeyError,
    TypeError,
    ValueError,
)
_LONGEST_HEADER = Nifti2Header.template_dtype.itemsize
_MGH_SUFFIXES = (".mgz", ".mgh")
_MGH_HEADER_BYTES = 284
_MGH_FLAG_BYTE = 28
_CIFTI_INTENTS = range(3000, 3100)
_QUATERNION = ("quatern_b", "quatern_c", "quatern_d")
GZIPPED = (".nii.gz", ".mgz")
"""Suffixes of files that are compressed."""
_GZIP_MAGIC = b"\x1f\x8b"
# The best that Deflate can do: 258 bytes for two bits.
_MOST_INFLATION = 1032
_CHUNK_BYTES = 4 * 2**20
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True, eq=False)
class ImageFile:
    """An image file of which only the header has been read.

    path: path of the file.
    is_gzipped: whether the file is compressed.
    shape, dtype: shape and type of the voxels as stored.
    offset: byte at which the voxels begin, after decompression.
    slope, intercept: factor and summand that turn stored values into intensities; None
        where the header has none.
    affine: (4, 4), from voxels to the header's unit of length.
    header: the header, None where it is not NIfTI's.
    is_oriented: whether the header says how the axes lie in space; where not, `affine`
        is what readers of the format agree to take.
    """

    path: Path
    is_gzipped: bool
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    slope: float | None
    intercept: float | None
    affine: np.ndarray
    header: Nifti1Header | None
    is_oriented: bool

    def read(self) -> np.ndarray:
        """Read the voxel values, with slope and intercept applied.

        A compressed file is read to its end, where its checksum is.

        Returns:
            An array of the shape `shape`.

        Raises:
            InputError: the file is damaged, holds fewer voxels than its header says,
                or is too large for the memory.
        """
        # The values as stored; where scaled, in float64; and as kept, in float32.
        is_scaled = (self.slope or 1, self.intercept or 0) != (1, 0)
        values = self._read_stored(12 if is_scaled else 4)
        with np.errstate(over="ignore", invalid="ignore"):
            return apply_read_scaling(values, self.slope, self.intercept)

    def read_stored(self) -> tuple[bytes, np.ndarray]:
        """Read the file as it is, without applying slope and intercept.

        Returns:
            The bytes that stand before the voxels, and the values as stored, of the
            shape `shape`.

        Raises:
            InputError: as for `read`.
        """
        values = self._read_stored(0)
        opened = IGzipFile(self.path) if self.is_gzipped else self.path.open("rb")
        with _reading(self.path), opened as stream:
            return stream.read(self.offset), values

    def _read_stored(self, more_bytes: int) -> np.ndarray:
        """The values as stored, where there is memory for `more_bytes` a voxel too."""
        n_voxels = math.prod(self.shape)
        n_bytes = n_voxels * self.dtype.itemsize
        most = self.path.stat().st_size
        if self.is_gzipped:
            most *= _MOST_INFLATION
        if self.offset + n_bytes > most:
            raise self._too_short(most, "at most " if self.is_gzipped else "")
        require_memory(str(self.path), n_bytes + n_voxels * more_bytes, "read it")
        with _reading(self.path):
            raw = self._inflated(n_bytes) if self.is_gzipped else self._plain(n_bytes)
        return raw.view(self.dtype).reshape(self.shape, order="F")

    def _plain(self, n_bytes: int) -> np.ndarray:
        content = np.fromfile(self.path, np.uint8, n_bytes, offset=self.offset)
        if content.size < n_bytes:
            raise self._too_short(self.offset + content.size)
        return content

    def _inflated(self, n_bytes: int) -> np.ndarray:
        # The system provides this memory only as it is filled.
        content = np.empty(n_bytes, np.uint8)
        with IGzipFile(self.path) as stream:
            skipped = filled = 0
            while part := stream.read(min(self.offset - skipped, _CHUNK_BYTES)):
                skipped += len(part)
            room = memoryview(content.data)
            while count := stream.readinto(room[filled : filled + _CHUNK_BYTES]):
                filled += count
            while stream.read(_CHUNK_BYTES):
                pass
        if filled < n_bytes:
            raise self._too_short(skipped + filled)
        return content

    def _too_short(self, held_bytes: int, most: str = "") -> InputError:
        shape = " x ".join(map(str, self.shape))
        needed = self.offset + math.prod(self.shape) * self.dtype.itemsize
        return _damaged(
            self.path,
            f"its header says {shape} voxels of {self.dtype.name}, which end at byte "
            f"{needed}, and it holds {most}{held_bytes} bytes",
        )


def open_image(path: Path) -> ImageFile:
    """Read the header of a .nii, .nii.gz, .mgh or .mgz file, and nothing else.

    Whether the file is compressed is decided by its first bytes, not by its name.

    Raises:
        InputError: the file is not there, is no file, is empty, or its header cannot
            be used.
    """
    size_bytes = require_file(path)
    suffix = find_suffix(path)
    if size_bytes == 0:
        raise InputError(f"{path}: is empty (0 bytes): copy or export it again")
    with _reading(path):
        with path.open("rb") as file:
            start = file.read(_LONGEST_HEADER)
        is_gzipped = start.startswith(_GZIP_MAGIC)
        if is_gzipped:
            with IGzipFile(path) as stream:
                start = stream.read(_LONGEST_HEADER)
    with _parsing(path):
        if suffix in _MGH_SUFFIXES:
            return _open_mgh(path, start, is_gzipped)
        return _open_nifti(path, start, is_gzipped)


def parse_nifti(path: Path, start: bytes) -> Nifti1Header:
    """The header at the beginning of a NIfTI file.

    Args:
        path: what messages name.
        start: the beginning of the file, 540 bytes where there are so many.

    Raises:
        InputError: the header cannot be used.
    """
    with _parsing(path):
        header = _open_nifti(path, start, is_gzipped=False).header
    assert header is not None
    return header


def find_suffix(path: Path) -> str:
    """The suffix of an image file's name, in small letters.

    Raises:
        InputError: the suffix is none of `SUFFIXES`.
    """
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise InputError(
        f"{path}: unknown suffix: give a .nii, .nii.gz, .mgz or .mgh file (convert "
        f"DICOM with dcm2niix first)"
    )


def check_stream(path: Path) -> None:
    """Read a compressed file to its end, so that its checksum is compared.

    Raises:
        InputError: the file is damaged or cut short.
    """
    with _reading(path), IGzipFile(path) as stream:
        while stream.read(_CHUNK_BYTES):
            pass


def require_file(path: Path) -> int:
    """Check that something is there to be read, and that reading it will end.

    Returns:
        The size of the file in bytes.

    Raises:
        InputError: nothing is there, or it is a directory, a pipe or a device.
    """
    try:
        found = path.stat()
    except FileNotFoundError as error:
        if path.is_symlink():
            raise _dangling(path) from error
        raise InputError(f"{path}: no such file: check the path") from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    for is_kind, kind in _KINDS:
        if is_kind(found.st_mode):
            raise InputError(
                f"{path}: is {kind}: give image files, one by one (convert DICOM with "
                "dcm2niix first)"
            )
    return found.st_size


def _open_mgh(path: Path, start: bytes, is_gzipped: bool) -> ImageFile:
    if len(start) < _MGH_HEADER_BYTES:
        raise _unlike(path, "MGH", start)
    header = MGHHeader(start[:_MGH_HEADER_BYTES], check=False)
    # Newer programs keep an intent above the lowest byte.
    if int(header["version"]) & 0xFF != 1:
        raise _unlike(path, "MGH", start)
    (has_orientation,) = np.frombuffer(start, ">i2", 1, _MGH_FLAG_BYTE)
    if has_orientation <= 0:
        # FreeSurfer's rule: coronal slices, LIA, of 1 mm, about the origin.
        header["delta"] = 1
        header["Mdc"] = [[-1, 0, 0], [0, 0, -1], [0, 1, 0]]
        header["Pxyz_c"] = 0
    return ImageFile(
        path=path,
        is_gzipped=is_gzipped,
        shape=tuple(map(int, header.get_data_shape())),
        dtype=header.get_data_dtype(),
        offset=_MGH_HEADER_BYTES,
        slope=None,
        intercept=None,
        affine=header.get_affine(),
        header=None,
        is_oriented=bool(has_orientation > 0),
    )


def _open_nifti(path: Path, start: bytes, is_gzipped: bool) -> ImageFile:
    kinds = (Nifti1Header, Nifti2Header)
    kind = next((kind for kind in kinds if kind.may_contain_header(start)), None)
    if kind is None:
        raise _unlike(path, "NIfTI", start)
    header = kind(start[: kind.template_dtype.itemsize])
    if int(header["intent_code"]) in _CIFTI_INTENTS:
        raise InputError(
            f"{path}: holds CIFTI data, of points on a surface and grey voxels, not a "
            f"volume: give a NIfTI volume"
        )
    if header["magic"].item() != kind.single_magic:
        raise _unusable(path, "it is the header of a pair of .hdr and .img files")
    offset = header.get_data_offset()
    if offset < header.sizeof_hdr:
        raise _unusable(path, f"its voxels begin at byte {offset}, inside the header")
    _shorten_quaternion(header)
    slope, intercept = header.get_slope_inter()
    return ImageFile(
        path=path,
        is_gzipped=is_gzipped,
        shape=header.get_data_shape(),
        dtype=header.get_data_dtype(),
        offset=offset,
        slope=slope,
        intercept=intercept,
        affine=header.get_best_affine(),
        header=header,
        is_oriented=is_oriented(header),
    )


def is_oriented(header: Nifti1Header) -> bool:
    """Whether a NIfTI header says how the axes lie in space.

    Source: by the standard, a code of 0 says that the sform or the qform is not given.
    """
    return bool(int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0)


def _shorten_quaternion(header: Nifti1Header) -> None:
    """Scale a qform's quaternion to length 1 where rounding made it longer.

    Source: the NIfTI-1 reference library does so (nifti_quatern_to_mat44).
    """
    stored = np.array([header[field] for field in _QUATERNION], dtype=float)
    length = np.linalg.norm(stored)
    if length**2 - 1 > abs(header.quaternion_threshold):
        for field, value in zip(_QUATERNION, stored / length, strict=True):
            header[field] = value


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn an error of reading a file into one line that names the file."""
    try:
        yield
    except (OSError, EOFError, IsalError) as error:  # type: ignore[misc]
        raise _unreadable(path, error) from error


@contextmanager
def _parsing(path: Path) -> Iterator[None]:
    """Turn an error of nibabel over a header into one line that names the file."""
    try:
        # What overflows here shows in the affine, which is checked later.
        with np.errstate(all="ignore"):
            yield
    except InputError:
        raise
    except _ODD_HEADER as error:
        raise _unusable(path, in_one_line(str(error))) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, PermissionError):
        return InputError(f"{path}: permission denied: make it readable (chmod u+r)")
    if isinstance(error, OSError) and error.strerror:
        return InputError(f"{path}: cannot be read: {error.strerror}: check the path")
    return _damaged(path, in_one_line(str(error)))


def _damaged(path: Path, why: str) -> InputError:
    return InputError(
        f"{path}: not an image that can be read, damaged or cut short: {why}: copy or "
        f"export it again"
    )


def _unusable(path: Path, why: str) -> InputError:
    return InputError(
        f"{path}: its header cannot be used: {why}: correct it or export the image "
        f"again"
    )


def _unlike(path: Path, format_name: str, start: bytes) -> InputError:
    """The error for a file that does not begin with a header."""
    if b"annex/objects/" in start:
        return InputError(f"{path}: stands for a file that is not here: {_ANNEX}")
    if start.startswith(b"version https://git-lfs"):
        return InputError(
            f"{path}: stands for a file that is not here: get it with `git lfs pull`"
        )
    return InputError(
        f"{path}: not an image that can be read, it does not begin like {format_name}: "
        f"give a .nii, .nii.gz, .mgz or .mgh file"
    )


_ANNEX = "get it with `git annex get` or `datalad get`"


def _dangling(path: Path) -> InputError:
    target = os.readlink(path)
    do = _ANNEX if "annex/objects/" in Path(target).as_posix() else "correct the link"
    return InputError(
        f"{path}: is a link to {target}, and the content is not there: {do}"
    )
