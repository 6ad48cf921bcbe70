"""Scans and label maps of which windows are read, one at a time."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage

from nobrainer.errors import InputError, in_one_line
from nobrainer.io.reading import UNREADABLE, read_geometry
from nobrainer.io.zarr_image import Box, ZarrImage
from nobrainer.volume import Geometry


@dataclass(frozen=True, eq=False)
class FileImage:
    """A NIfTI or MGZ file in place of a `ZarrImage`.

    Of a compressed file everything before the window is read as well.

    path: path of the file.
    geometry: its grid, in mm.
    """

    path: Path
    geometry: Geometry

    def read(self, start: Box, stop: Box) -> np.ndarray:
        """Read a box; see `ZarrImage.read`.

        Raises:
            InputError: the file cannot be read.
        """
        box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        try:
            image = nib.load(self.path)
            assert isinstance(image, SpatialImage)
            values = np.asarray(image.dataobj[box])
        except UNREADABLE as error:
            why = in_one_line(str(error))
            raise InputError(
                f"{self.path}: its voxels cannot be read: {why}"
            ) from error
        return values.reshape(values.shape[:3])


def open_windows(path: Path) -> ZarrImage | FileImage:
    """Open a scan or label map; its voxels stay unread.

    Args:
        path: path of a group that `nifti_to_zarr` made, or of a .nii, .nii.gz, .mgz or
            .mgh file.

    Raises:
        InputError: it cannot be read, or is not 3-D.
    """
    if path.is_dir():
        return ZarrImage.open(path)
    return FileImage(path, read_geometry(path))
