"""The header of voxels in a store keeps what the scan's own says."""

import nibabel as nib
import numpy as np
import pytest

from nobrainer.io.nifti_zarr import read_header, stored_header
from nobrainer.volume import Geometry

GRID = Geometry((4, 5, 6), np.diag([2.0, 3.0, 4.0, 1.0]) + np.eye(4, k=3) * 7)


def header_of(image, path, **asked):
    nib.save(image, path)
    stored = stored_header(path, GRID, np.dtype(np.int16), **asked)
    assert (len(stored), stored[344:348]) == (348, b"nz1\0")
    return read_header(np.frombuffer(stored, np.uint8))


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_all_but_the_grid_is_kept(kind, tmp_path):
    image = kind(np.zeros((3, 3, 3), np.uint8), np.eye(4))
    image.header["descrip"] = b"MPRAGE of Ann"
    image.header["cal_max"] = 900
    image.header["intent_code"] = 1002
    image.set_sform(np.eye(4), 4)
    image.set_qform(np.eye(4), 1)
    image.header.set_xyzt_units("meter", "sec")
    found = header_of(image, tmp_path / "a.nii", scaling=(0.25, -3.0))
    assert bytes(found["descrip"].item()) == b"MPRAGE of Ann"
    assert (found["cal_max"], found["intent_code"]) == (900, 1002)
    assert (found["sform_code"], found["qform_code"]) == (4, 1)
    assert found.get_xyzt_units() == ("mm", "sec")
    assert found.get_data_shape() == (4, 5, 6)
    assert found.get_data_dtype() == np.int16
    assert found.get_slope_inter() == (0.25, -3.0)
    assert found.get_zooms() == (2, 3, 4)
    assert np.array_equal(found.get_sform(), GRID.affine)
    assert np.allclose(found.get_qform(), GRID.affine, atol=1e-5)


def test_an_mgz_gets_a_header(tmp_path):
    image = nib.MGHImage(np.zeros((3, 3, 3), np.uint8), np.eye(4))
    found = header_of(image, tmp_path / "a.mgz")
    assert np.array_equal(found.get_best_affine(), GRID.affine)
    assert found.get_xyzt_units()[0] == "mm"
    assert found.get_slope_inter() == (1, 0)
    assert found.get_data_shape() == (4, 5, 6)
