"""Results lie in the world where their scan lies, for every reader."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from images import LAS, counting, save
from nobrainer import io
from nobrainer.volume import Volume, conform


@pytest.mark.parametrize(
    ("sform_code", "qform_code"), [(1, 1), (2, 1), (4, 0), (0, 1), (0, 0)]
)
def test_the_header_inherits_units_and_codes_but_no_scaling(
    tmp_path, sform_code, qform_code
):
    image = nib.Nifti1Image(counting(), LAS)
    image.header.set_slope_inter(0.5, 10)
    image.header["cal_max"] = 300
    image.header["descrip"] = b"Jane Doe"
    image.set_sform(LAS, sform_code)
    image.set_qform(LAS, qform_code)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "in.nii")
    native = nib.load(tmp_path / "in.nii")

    volume = io.read_image(tmp_path / "in.nii")
    result = io.to_nibabel(np.zeros(volume.data.shape, np.uint8), volume)
    header = nib.load(io.write(result, tmp_path / "out.nii.gz")).header
    assert header.get_xyzt_units() == ("mm", "sec")
    assert (header["sform_code"], header["qform_code"]) == (sform_code, qform_code)
    np.testing.assert_allclose(header.get_best_affine(), native.affine, atol=1e-5)
    np.testing.assert_array_equal(result.affine, header.get_best_affine())
    scaling = gzip.decompress((tmp_path / "out.nii.gz").read_bytes())[112:120]
    np.testing.assert_array_equal(np.frombuffer(scaling, np.float32), (1, 0))
    assert header["cal_max"] == 0
    assert header["descrip"] == b""


def test_unknown_units_become_mm():
    image = nib.Nifti1Image(counting(), LAS)
    image.header["xyzt_units"] = 0
    volume = io.read_image(image)
    header = io.to_nibabel(volume.data, volume).header
    assert header.get_xyzt_units() == ("mm", "unknown")


def test_a_header_without_codes_does_not_lose_another_grid(tmp_path):
    volume = io.read_image(save(tmp_path / "a.nii", affine=None))
    moved = Volume(volume.data, LAS, volume.source, volume.header)
    result = io.to_nibabel(volume.data, moved)
    np.testing.assert_allclose(result.affine, LAS)
    assert (result.header["sform_code"], result.header["qform_code"]) == (1, 1)


def test_qform_agrees_with_sform_and_is_unknown_where_it_cannot():
    tilt = np.deg2rad(30)
    oblique = LAS.copy()
    oblique[:3, :3] = [
        [-1, 0, 0],
        [0, 1.5 * np.cos(tilt), -2 * np.sin(tilt)],
        [0, 1.5 * np.sin(tilt), 2 * np.cos(tilt)],
    ]
    sheared = LAS.copy()
    sheared[0, 1] = 0.4
    for affine, code in ((oblique, 1), (sheared, 0)):
        volume = io.read_image((counting(), affine))
        image = io.to_nibabel(volume.data, volume)
        np.testing.assert_allclose(image.affine, affine, atol=1e-5)
        assert image.header["qform_code"] == code
        if code:
            np.testing.assert_allclose(image.get_qform(), affine, atol=1e-4)


MOVED = LAS.copy()
MOVED[:3, 3] += 30
TEMPLATE = np.diag([1.1, 1.1, 1.1, 1]) @ LAS
SHEARED = LAS.copy()
SHEARED[0, 1] = 0.4
TILT = np.deg2rad(30)
OBLIQUE = np.array(
    [
        [-1, 0, 0, 10],
        [0, 1.5 * np.cos(TILT), -2 * np.sin(TILT), -20],
        [0, 1.5 * np.sin(TILT), 2 * np.cos(TILT), 30],
        [0, 0, 0, 1],
    ]
)
PLACE = [
    *("xyzt_units", "sform_code", "srow_x", "srow_y", "srow_z", "qform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
]


def seen_by_itk(path: Path) -> np.ndarray:
    """Origin, spacing and directions for SimpleITK, which prefers other forms."""
    image = sitk.ReadImage(str(path))
    return np.concatenate([image.GetOrigin(), image.GetSpacing(), image.GetDirection()])


@pytest.mark.parametrize(
    ("sform", "sform_code", "qform", "qform_code"),
    [
        (LAS, 1, LAS, 1),
        (TEMPLATE, 4, MOVED, 1),  # registered to MNI, and where the scanner saw it
        (LAS, 1, MOVED, 4),
        (SHEARED, 1, MOVED, 1),
        (SHEARED, 2, MOVED, 1),
        (OBLIQUE, 2, OBLIQUE, 1),
        (TEMPLATE, 0, OBLIQUE, 1),  # what is unknown stays as it is, too
        (OBLIQUE, 1, LAS, 0),
        (TEMPLATE, 0, MOVED, 0),
    ],
)
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("unit", ["mm", "micron"])
def test_results_lie_where_the_scan_lies_for_every_reader(
    tmp_path, sform, sform_code, qform, qform_code, kind, unit
):
    scan = kind(counting(), None)
    scan.set_qform(qform, qform_code)
    scan.set_sform(sform, sform_code)
    scan.header.set_xyzt_units(unit)
    nib.save(scan, tmp_path / "scan.nii.gz")
    scan = nib.load(tmp_path / "scan.nii.gz")
    for source in (tmp_path / "scan.nii.gz", scan):
        volume = io.read_image(source)
        for data in (volume.data, volume.data > 3, np.ones((4, 5, 6, 3))):
            result = io.to_nibabel(data, volume)
            path = io.write(result, tmp_path / "result.nii.gz", overwrite=True)
            written = nib.load(path)
            for field in PLACE:
                expected = scan.header[field].astype(np.float32)
                np.testing.assert_array_equal(written.header[field], expected)
            expected = scan.header["pixdim"][:4].astype(np.float32)
            np.testing.assert_array_equal(written.header["pixdim"][:4], expected)
            np.testing.assert_allclose(written.affine, scan.affine, rtol=1e-6)
            again = io.read_image(result) if data.ndim == 3 else volume
            np.testing.assert_allclose(again.affine, volume.affine, rtol=1e-6)
            if data.ndim == 3 and kind is nib.Nifti1Image:  # ITK reads no NIfTI-2
                np.testing.assert_allclose(
                    seen_by_itk(path), seen_by_itk(tmp_path / "scan.nii.gz"), atol=1e-5
                )
    # Both forms differ where the scan's do, so that there is something to lose.
    if (sform_code, qform_code) == (4, 1):
        gap = written.get_sform()[:3, 3] - written.get_qform()[:3, 3]
        np.testing.assert_allclose(gap, [-21, -42.6, -37.2], atol=1e-4)


def test_both_forms_move_with_the_grid(tmp_path):
    scan = nib.Nifti1Image(counting(), None)
    scan.set_qform(MOVED, 1)
    scan.set_sform(TEMPLATE, 4)
    volume = conform(io.read_image(scan), "RAS", (1, 1.5, 4))
    image = io.to_nibabel(volume.data, volume)
    assert (image.header["sform_code"], image.header["qform_code"]) == (4, 1)
    np.testing.assert_allclose(image.get_sform(), volume.affine, atol=1e-4)
    # From voxels of the new grid through those of the scan to the scanner.
    change = np.linalg.inv(TEMPLATE) @ volume.affine
    np.testing.assert_allclose(image.get_qform(), MOVED @ change, atol=1e-4)
    # RAS begins within a voxel of the last of four to the left: 90 + 30 - 3.
    assert image.get_qform()[0, 3] == pytest.approx(117, abs=1)
