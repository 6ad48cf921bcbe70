"""What a Zarr store says of its voxels: a NIfTI header, and OME-Zarr metadata.

The header lies as bytes in an array `nifti`, as nifti-zarr has it: it belongs to the
voxels as they are stored, with their shape, type, scaling and place in the world, and
keeps all else of the header that the scan came with. Arrays have their axes in the
order z, y, x, so that x varies fastest, as in a NIfTI file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from nobrainer.formats import open_image
from nobrainer.io.headers import new_header, set_forms
from nobrainer.volume import Geometry

HEADER_BYTES = 348
"""Length of a NIfTI-1 header."""

_MAGIC, _NIFTI_MAGIC = b"nz1", b"n+1"
_MILLIMETRE, _TIME_BITS = 2, 0xF8


def stored_header(
    source: Path,
    geometry: Geometry,
    dtype: np.dtype,
    scaling: tuple[float, float] = (1.0, 0.0),
) -> bytes:
    """The header of voxels in a store, which keeps what its source's header says.

    Args:
        source: file that the voxels come from; MGZ files have no NIfTI header.
        geometry: grid of the voxels as they are stored, in mm.
        dtype: type in which they are stored.
        scaling: slope and intercept from what is stored to what it means.

    Returns:
        A NIfTI-1 header of 348 bytes, little-endian, with the magic text of nifti-zarr.

    Raises:
        InputError: the source cannot be read.
    """
    found = open_image(source).header
    kept = new_header(geometry.affine)
    if isinstance(found, nib.Nifti1Header):
        codes = int(found["sform_code"]), int(found["qform_code"])
        # Of NIfTI-2, too; the check would refuse what is replaced below.
        kept = nib.Nifti1Header.from_header(found, check=False).as_byteswapped("<")
        place = geometry.affine
        set_forms(kept, place, place, codes if any(codes) else (1, 1))
    kept.set_data_dtype(dtype)
    kept.set_data_shape(geometry.shape)
    kept["pixdim"][1:4] = geometry.spacing_mm
    kept["xyzt_units"] = int(kept["xyzt_units"]) & _TIME_BITS | _MILLIMETRE
    kept["scl_slope"], kept["scl_inter"] = scaling
    kept["vox_offset"] = 0
    kept["magic"] = _MAGIC
    return bytes(kept.binaryblock)


def read_header(stored: bytes | np.ndarray) -> nib.Nifti1Header:
    """The header that `stored_header` gave, as nibabel has it.

    Args:
        stored: 348 bytes.
    """
    header = nib.Nifti1Header(bytes(stored), endianness="<", check=False)
    header["magic"] = _NIFTI_MAGIC
    return header


def ome_dataset(
    path: str, scale: Sequence[float], translation: Sequence[float] = ()
) -> dict[str, Any]:
    """What OME-Zarr says of one array of an image.

    Args:
        path: name of the array in its group.
        scale: distance of neighbours along each axis, in mm where the axis is one of
            space.
        translation: place of the first one, likewise; none for 0.
    """
    steps: list[dict[str, Any]] = [{"type": "scale", "scale": list(map(float, scale))}]
    if len(translation):
        place = list(map(float, translation))
        steps.append({"type": "translation", "translation": place})
    return {"path": path, "coordinateTransformations": steps}


def ome_metadata(
    name: str,
    axes: Sequence[str],
    datasets: Sequence[Mapping[str, Any]],
    *,
    labels: bool = False,
) -> dict[str, Any]:
    """The attributes that make a group of arrays an OME-Zarr image.

    Args:
        name: name of the image.
        axes: names of the axes: "x", "y", "z", and "scan" where there are several.
        datasets: the arrays, see `ome_dataset`, with the finest one first.
        labels: whether the voxels are labels.
    """
    space = {"type": "space", "unit": "millimeter"}
    kinds = {"scan": {"type": "scan"}}
    multiscale = {
        "name": name,
        "axes": [{"name": axis} | kinds.get(axis, space) for axis in axes],
        "datasets": list(datasets),
    }
    ome: dict[str, Any] = {"version": "0.5", "multiscales": [multiscale]}
    if labels:
        ome["image-label"] = {"source": {"image": "../../"}}
    return {"ome": ome}
