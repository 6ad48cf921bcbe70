"""Units and coordinates in a NIfTI header, and what results inherit of them."""

import nibabel as nib
import numpy as np

SYNTHETIC = "synthetic"
"""Beginning of a NIfTI header's description where nobody was scanned."""

# NIfTI keeps the unit of length in three bits of a field shared with time.
_LENGTH_BITS, _METRE, _MILLIMETRE, _MICROMETRE = 7, 1, 2, 3
_UNIT_BITS = 0xFF
_SCANNER_CODE = 1
# A header places voxels in the world twice: by a matrix (sform), and by a rotation, a
# place and the voxel sizes (qform).
_SFORM = ("sform_code", "srow_x", "srow_y", "srow_z")
_QFORM = (
    "qform_code",
    *("quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z"),
)


def inherit(header: nib.Nifti1Header) -> nib.Nifti1Header:
    """The header of a result, with the unit and the coordinates of its scan's header.

    Both forms of coordinates are inherited, and nothing else.
    """
    inherited = nib.Nifti1Header()
    # Numbers of NIfTI-2 are wider; a form that does not fit is not the one in use.
    with np.errstate(over="ignore", invalid="ignore"):
        for field in (*_SFORM, *_QFORM):
            inherited[field] = header[field]
        inherited["pixdim"][:4] = header["pixdim"][:4]
    units = int(header["xyzt_units"]) & _UNIT_BITS
    inherited["xyzt_units"] = units if units & _LENGTH_BITS else units | _MILLIMETRE
    return inherited


def new_header(affine: np.ndarray) -> nib.Nifti1Header:
    """The header for results of a source that has no NIfTI header.

    Args:
        affine: (4, 4), from voxels to RAS mm, for both forms of coordinates.
    """
    header = nib.Nifti1Header()
    header["xyzt_units"] = _MILLIMETRE
    set_forms(header, affine, affine, (_SCANNER_CODE, _SCANNER_CODE))
    return header


def move(header: nib.Nifti1Header, change: np.ndarray, affine: np.ndarray) -> None:
    """Set both forms of coordinates to another grid of the same scan.

    Args:
        header: the header, which is changed.
        change: (4, 4), from voxels of the new grid to those of the old one.
        affine: (4, 4), from voxels of the new grid to the world.
    """
    codes = int(header["sform_code"]), int(header["qform_code"])
    qform = header.get_qform() @ change if codes[1] else affine
    if codes == (0, 0):
        codes = _SCANNER_CODE, _SCANNER_CODE
    set_forms(header, affine, qform, codes)


def set_forms(
    header: nib.Nifti1Header,
    sform: np.ndarray,
    qform: np.ndarray,
    codes: tuple[int, int],
) -> None:
    """Set both forms of coordinates, without a qform where the grid is sheared.

    Args:
        header: the header, which is changed.
        sform: (4, 4), from voxels to the world.
        qform: (4, 4), likewise.
        codes: NIfTI codes of the sform and the qform.
    """
    header.set_sform(sform, codes[0])
    header.set_qform(qform, codes[1])
    if not np.allclose(header.get_qform(), qform, atol=1e-3):
        header["qform_code"] = 0


def unit_mm(header: nib.Nifti1Header) -> float:
    """Length of the header's unit in mm; 1 where the header names none."""
    unit = int(header["xyzt_units"]) & _LENGTH_BITS
    return {_METRE: 1e3, _MICROMETRE: 1e-3}.get(unit, 1.0)
