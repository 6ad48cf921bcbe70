import errno
import gzip
import os
import resource
import signal
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from nobrainer import io
from nobrainer.errors import InputError
from nobrainer.volume import Volume, conform, restore

HEADS = Path(__file__).parents[2] / "shared" / "data" / "heads"
SUFFIXES = [".nii", ".nii.gz", ".mgz", ".mgh"]
LAS = np.array([[-1, 0, 0, 90], [0, 1.5, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1.0]])


def counting(shape=(4, 5, 6), dtype=np.int16) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save(path: Path, data=None, affine=LAS) -> Path:
    """Write with nibabel itself, so that reading is tested apart from writing."""
    data = counting() if data is None else data
    kind = nib.MGHImage if path.suffix in (".mgz", ".mgh") else nib.Nifti1Image
    nib.save(kind(data, affine), path)
    return path


def error_of(function, *args, **options) -> str:
    with pytest.raises(InputError) as caught:
        function(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Reading


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_each_format_read_alike(tmp_path, suffix):
    volume = io.read_image(save(tmp_path / f"a{suffix}"))
    assert volume.data.dtype == np.float32
    assert volume.data.flags.c_contiguous
    np.testing.assert_array_equal(volume.data, counting())
    np.testing.assert_allclose(volume.affine, LAS, atol=1e-5)
    assert volume.source == str(tmp_path / f"a{suffix}")
    geometry = io.read_geometry(str(tmp_path / f"a{suffix}"))
    assert geometry.shape == (4, 5, 6)
    assert geometry.orientation == "LAS"
    np.testing.assert_allclose(geometry.spacing_mm, (1, 1.5, 2), rtol=1e-6)


def test_images_and_arrays_in_memory_read_as_copies():
    array = counting(dtype=np.float32)
    for source in ((array, LAS), nib.Nifti1Image(array, LAS)):
        volume = io.read_image(source)
        np.testing.assert_array_equal(volume.data, array)
        np.testing.assert_array_equal(volume.affine, LAS)
        volume.data[:] = -1
        volume.affine[:] = -1
        assert array.min() == 0
        assert LAS[0, 0] == -1 and LAS[1, 1] == 1.5


def test_slope_and_intercept_are_applied(tmp_path):
    image = nib.Nifti1Image(counting(), LAS)
    image.header.set_slope_inter(0.25, -3)
    nib.save(image, tmp_path / "a.nii.gz")
    stored = nib.load(tmp_path / "a.nii.gz").dataobj
    assert (stored.slope, stored.inter) == (0.25, -3)
    volume = io.read_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.data, counting() * 0.25 - 3)


def test_nifti2_reads(tmp_path):
    nib.save(nib.Nifti2Image(counting(), LAS), tmp_path / "a.nii")
    np.testing.assert_array_equal(io.read_image(tmp_path / "a.nii").data, counting())


@pytest.mark.parametrize("shape", [(4, 5, 6, 1), (4, 5, 6, 1, 1)])
def test_trailing_axes_of_one_voxel_are_dropped(tmp_path, shape):
    path = save(tmp_path / "a.nii.gz", counting(shape))
    assert io.read_image(path).data.shape == (4, 5, 6)
    assert io.read_geometry(path).shape == (4, 5, 6)


@pytest.mark.parametrize(
    ("highest", "dtype"),
    [(255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.int32)],
)
@pytest.mark.parametrize("stored", [np.int32, np.float64])
def test_labels_get_the_smallest_type_that_fits(highest, dtype, stored):
    labels = np.zeros((2, 2, 2), stored)
    labels[0, 1, 1] = highest
    volume = io.read_labels((labels, LAS))
    assert volume.data.dtype == dtype
    np.testing.assert_array_equal(volume.data, labels)


def test_an_empty_label_map_and_a_mask_are_labels():
    assert io.read_labels((np.zeros((2, 2, 2), np.int16), LAS)).data.max() == 0
    mask = counting((2, 2, 2)) > 3
    assert io.read_labels((mask, LAS)).data.sum() == 4


@pytest.mark.parametrize(("unit", "length_mm"), [("micron", 1e-3), ("meter", 1e3)])
def test_other_units_are_read_in_mm_and_written_as_they_were(tmp_path, unit, length_mm):
    image = nib.Nifti1Image(counting(), LAS)
    image.header.set_xyzt_units(unit, "sec")
    volume = io.read_image(image)
    spacing = np.multiply((1, 1.5, 2), length_mm)
    np.testing.assert_allclose(volume.geometry.spacing_mm, spacing)
    result = io.to_nibabel(volume.data, volume)
    assert result.header.get_xyzt_units() == (unit, "sec")
    np.testing.assert_allclose(result.affine, LAS, rtol=1e-6)
    again = io.read_image(io.write(result, tmp_path / "a.mgz"))
    np.testing.assert_allclose(again.geometry.spacing_mm, spacing, rtol=1e-6)


# Bad input


@pytest.mark.parametrize("read", [io.read_image, io.read_labels, io.read_geometry])
def test_a_missing_file_and_a_directory_are_named(tmp_path, read):
    path = tmp_path / "absent.nii.gz"
    assert error_of(read, path).startswith(f"{path}: no such file")
    assert error_of(read, tmp_path).startswith(f"{tmp_path}: is a directory")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("read", [io.read_image, io.read_labels, io.read_geometry])
def test_an_empty_file_and_text_are_refused(tmp_path, suffix, read):
    path = tmp_path / f"a{suffix}"
    path.touch()
    assert error_of(read, path).startswith(f"{path}: is empty")
    path.write_text("subject,age\n" * 100)
    assert error_of(read, path).startswith(f"{path}: not an image")
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert error_of(read, path).startswith(f"{path}: not an image")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.001, 0.02, 0.5, 0.95])
def test_a_truncated_file_is_refused(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16)
    path = save(tmp_path / f"a{suffix}", noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    for read in (io.read_image, io.read_labels):
        assert error_of(read, path).startswith(f"{path}: not an image")


@pytest.mark.parametrize("suffix", [".nii", ".mgh"])
def test_a_damaged_header_is_refused_or_read_but_never_crashes(tmp_path, suffix):
    rng = np.random.default_rng(0)
    path = save(tmp_path / f"a{suffix}")
    content = path.read_bytes()
    refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        for position in rng.integers(0, 80, size=2):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            io.read_image(path)
        except InputError as error:
            assert str(error).startswith(f"{path}: ")
            refused += 1
    assert refused > 10


def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path):
    path = tmp_path / "scan.dcm"
    path.write_bytes(b"DICM")
    for read in (io.read_image, io.read_labels, io.read_geometry):
        message = error_of(read, path)
        assert message.startswith(f"{path}: unknown suffix")
        assert ".nii, .nii.gz, .mgz or .mgh" in message


def test_a_suffix_in_capitals_is_known(tmp_path):
    path = save(tmp_path / "a.nii.gz").rename(tmp_path / "A.NII.GZ")
    np.testing.assert_array_equal(io.read_image(path).data, counting())


@contextmanager
def unprivileged():
    """Permissions do not bind the superuser, which tests in containers run as."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_an_unreadable_file_and_an_unwritable_directory_are_named(mode):
    image = io.to_nibabel(*labelled())
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        path, new = save(directory / "a.nii.gz"), directory / "new.nii.gz"
        path.chmod(0)
        directory.chmod(mode)
        with unprivileged():
            for read in (io.read_image, io.read_labels, io.read_geometry):
                message = error_of(read, path)
                assert message.startswith(f"{path}: permission denied")
            message = error_of(io.write, image, new)
            assert message.startswith(f"{new}: cannot be written: Permission denied")
        directory.chmod(0o755)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (counting((4, 5, 6, 2)), "is 4-D with shape (4, 5, 6, 2)"),
        (counting((4, 5)), "is 2-D"),
        (counting((4, 0, 6)), "has no voxels"),
        (counting().astype(np.complex64), "holds complex numbers"),
        (
            np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")]),
            "holds colours (RGB)",
        ),
    ],
)
def test_anything_but_one_real_volume_is_refused(tmp_path, data, what):
    path = tmp_path / "a.nii"
    image = nib.Nifti1Image(data, LAS)
    nib.save(image, path)
    for read in (io.read_image, io.read_labels, io.read_geometry):
        assert error_of(read, path).startswith(f"{path}: {what}")
        assert error_of(read, (data, LAS)).startswith(f"array: {what}")
        assert error_of(read, image).startswith(f"{path}: {what}")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("read", [io.read_image, io.read_labels])
def test_values_that_are_not_finite_are_refused_and_counted(tmp_path, bad, read):
    data = counting(dtype=np.float32)
    data[1, 2, 3:5] = bad
    path = save(tmp_path / "a.nii.gz", data)
    message = error_of(read, path)
    assert message.startswith(f"{path}: holds NaN or infinity in 2 voxels")


def test_values_beyond_single_precision_are_refused():
    data = counting(dtype=np.float64)
    data[0, 0, 0] = 1e300
    assert "infinity in 1 voxels" in error_of(io.read_image, (data, LAS))


def test_a_constant_image_is_refused(tmp_path):
    path = save(tmp_path / "a.mgz", np.full((3, 3, 3), 7, np.uint8))
    message = error_of(io.read_image, path)
    assert message.startswith(f"{path}: constant, every voxel is 7")


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (-1, "holds label -1: labels must be from 0"),
        (0.5, "holds label 0.5: labels must be whole"),
        (2.0**31, "holds label 2147483648: labels must be from 0 to 2147483647"),
        (24.0015, "holds label 24.0015: labels must be whole"),
    ],
)
def test_bad_labels_are_refused(tmp_path, value, what):
    labels = np.zeros((3, 3, 3))
    labels[1, 1, 1] = value
    path = save(tmp_path / "a.nii.gz", labels)
    assert error_of(io.read_labels, path).startswith(f"{path}: {what}")


@pytest.mark.parametrize(
    ("stored", "label"),
    [(24.000002, 24), (23.99999, 24), (1000.0009, 1000), (-0.0004, 0)],
)
def test_labels_that_are_whole_but_for_rounding_are_rounded(tmp_path, stored, label):
    labels = np.zeros((3, 3, 3), np.float32)
    labels[1, 1, 1] = stored
    read = io.read_labels(save(tmp_path / "a.nii.gz", labels)).data
    assert read.dtype == (np.uint16 if label > 255 else np.uint8)
    assert read[1, 1, 1] == label
    assert read.sum() == label


def scaled(path: Path, stored_type: type) -> Path:
    """Labels 0, 17 and 46 as nibabel stores floats in an integer type: by a slope."""
    labels = np.zeros((3, 3, 3))
    labels[1, 1, :2] = 17, 46
    image = nib.Nifti1Image(labels, LAS)
    image.set_data_dtype(stored_type)
    nib.save(image, path)
    assert nib.load(path).dataobj.slope != 1
    return path


def test_labels_scaled_by_a_slope_are_read_or_refused_with_their_digits(tmp_path):
    path = scaled(tmp_path / "fine.nii.gz", np.int16)
    assert nib.load(path).get_fdata()[1, 1, 0] % 1 > 1e-6
    np.testing.assert_array_equal(io.read_labels(path).data[1, 1], [17, 46, 0])

    # 46 / 255 is a step of 0.18: nothing between two steps can be told.
    path = scaled(tmp_path / "coarse.nii.gz", np.uint8)
    message = error_of(io.read_labels, path)
    digits = np.format_float_positional(nib.load(path).get_fdata()[1, 1, 0])
    assert digits.startswith("16.95")
    assert f"holds label {digits}: labels must be whole numbers" in message
    assert "the header's slope scales them, so save the map again as integ" in message


SINGULAR = LAS.copy()
SINGULAR[:3, 2] = SINGULAR[:3, 1]


@pytest.mark.parametrize(
    ("affine", "what"),
    [
        (SINGULAR, "singular"),
        (np.diag([1, 1, 0, 1.0]), "singular"),
        (np.diag([1, 1e-300, 1, 1.0]), "singular"),
        (np.diag([1, np.nan, 1, 1]), "correct the header"),
        (np.diag([1, 1, 1, 2.0]), "correct the header"),
        (np.eye(3), "its shape is (3, 3)"),
        (None, "its shape is ()"),
        ("RAS", "could not convert"),
    ],
)
def test_an_affine_that_cannot_be_inverted_is_refused(affine, what):
    for read in (io.read_image, io.read_labels, io.read_geometry):
        message = error_of(read, (counting(), affine))
        assert message.startswith("array: affine is not an invertible (4, 4)")
        assert what in message


def test_a_singular_affine_in_a_file_is_refused(tmp_path):
    path = save(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[280:296] = bytes(16)  # srow_x
    path.write_bytes(content)
    assert error_of(io.read_geometry, path).startswith(f"{path}: affine is not")


def test_a_huge_but_thin_voxel_is_not_singular():
    affine = np.diag([1e-4, 1e-4, 10, 1])
    np.testing.assert_array_equal(io.read_image((counting(), affine)).affine, affine)


@pytest.mark.parametrize("source", [counting(), None, 3, (counting(), LAS, 1)])
def test_other_sources_are_refused(source):
    assert "give a path, a nibabel image" in error_of(io.read_image, source)


# Results


def labelled() -> tuple[np.ndarray, Volume]:
    volume = io.read_labels((counting() % 4, LAS))
    return volume.data, volume


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (counting(dtype=np.int64), np.uint8),
        (counting(dtype=np.int64) * 3, np.uint16),
        (counting(dtype=np.int64) * 1000, np.uint32),
        (counting() > 50, np.uint8),
        (counting(dtype=np.float64) / 7, np.float32),
        (counting(dtype=np.float16), np.float32),
    ],
)
def test_results_are_stored_in_the_type_that_fits(tmp_path, values, dtype):
    _, like = labelled()
    image = io.to_nibabel(values, like)
    path = io.write(image, tmp_path / "a.nii.gz")
    loaded = nib.load(path)
    assert image.get_data_dtype() == loaded.get_data_dtype() == dtype
    assert (loaded.dataobj.slope, loaded.dataobj.inter) == (1, 0)
    np.testing.assert_array_equal(loaded.dataobj, values.astype(dtype))


def test_probabilities_keep_their_fourth_axis():
    _, like = labelled()
    image = io.to_nibabel(np.ones((4, 5, 6, 3)), like)
    assert image.shape == (4, 5, 6, 3)
    np.testing.assert_allclose(image.affine, LAS)


def test_results_of_another_shape_or_with_negative_labels_are_refused():
    data, like = labelled()
    assert "not on the grid" in error_of(io.to_nibabel, data[1:], like)
    negative = np.full(data.shape, -1)
    assert "must not be negative" in error_of(io.to_nibabel, negative, like)


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
    # RAS begins at the last of four voxels to the left: 90 + 30 - 3.
    assert image.get_qform()[0, 3] == pytest.approx(117, abs=0.6)


# Writing


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "values", [counting(dtype=np.int64) * 3, counting(dtype=np.float64) / 7]
)
def test_each_format_round_trips(tmp_path, suffix, values):
    _, like = labelled()
    image = io.to_nibabel(values, like)
    path = io.write(image, tmp_path / f"a{suffix}")
    assert path == tmp_path / f"a{suffix}"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    again = io.read_labels(path) if values.dtype.kind == "i" else io.read_image(path)
    np.testing.assert_array_equal(again.data, image.dataobj)
    np.testing.assert_allclose(again.affine, LAS, atol=1e-6)


def test_mgz_results_become_nifti_in_mm_with_scanner_coordinates(tmp_path):
    volume = io.read_labels(save(tmp_path / "a.mgz"))
    header = io.to_nibabel(volume.data, volume).header
    assert header.get_xyzt_units() == ("mm", "unknown")
    assert (header["sform_code"], header["qform_code"]) == (1, 1)
    np.testing.assert_allclose(header.get_sform(), LAS, atol=1e-5)
    np.testing.assert_allclose(header.get_qform(), LAS, atol=1e-4)


def test_mgz_refuses_integers_beyond_32_bits(tmp_path):
    _, like = labelled()
    image = io.to_nibabel(counting(dtype=np.int64) + 2**32, like)
    assert "MGZ holds 32-bit" in error_of(io.write, image, tmp_path / "a.mgz")
    assert list(tmp_path.iterdir()) == []


def test_the_same_image_gives_the_same_bytes(tmp_path):
    image = io.to_nibabel(*labelled())
    for suffix in SUFFIXES:
        one = io.write(image, tmp_path / f"one{suffix}").read_bytes()
        two = io.write(image, tmp_path / f"two{suffix}").read_bytes()
        assert one == two
    # The time stamp of a gzip file.
    assert (tmp_path / "one.nii.gz").read_bytes()[4:8] == bytes(4)


def test_nothing_is_overwritten_unless_asked(tmp_path):
    image = io.to_nibabel(*labelled())
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"precious")
    assert error_of(io.write, image, path).startswith(f"{path}: exists already")
    assert path.read_bytes() == b"precious"
    io.write(image, path, overwrite=True)
    np.testing.assert_array_equal(io.read_labels(path).data, labelled()[0])


def test_results_are_readable_by_others_as_the_umask_says(tmp_path):
    previous = os.umask(0o022)
    try:
        path = io.write(io.to_nibabel(*labelled()), tmp_path / "a.nii.gz")
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_an_unknown_suffix_or_a_missing_directory_is_named(tmp_path):
    image = io.to_nibabel(*labelled())
    path = tmp_path / "a.png"
    assert error_of(io.write, image, path).startswith(f"{path}: unknown suffix")
    path = tmp_path / "absent" / "a.nii"
    message = error_of(io.write, image, path)
    assert message.startswith(f"{path}: cannot be written: No such file or directory")


@contextmanager
def files_limited_to(size_bytes: int):
    """No file may grow beyond this size: writing fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_write_that_breaks_off_leaves_the_old_file_and_no_rest(tmp_path, suffix):
    noise = np.random.default_rng(0).standard_normal((64, 64, 64))
    image = io.to_nibabel(noise, io.read_image((noise, LAS)))
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"precious")
    with files_limited_to(100_000):
        message = error_of(io.write, image, path, overwrite=True)
    assert message.startswith(f"{path}: cannot be written: File too large")
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", no_space)
    path = tmp_path / "a.nii.gz"
    message = error_of(io.write, io.to_nibabel(*labelled()), path)
    assert message.startswith(f"{path}: cannot be written: No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_text_is_written_in_utf8_with_line_feeds(tmp_path):
    path = tmp_path / "a.tsv"
    assert io.write_text("grün\n1\r\n", str(path)) == path
    assert path.read_bytes() == b"gr\xc3\xbcn\n1\r\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_text_file_is_replaced_only_on_request(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("precious")
    message = error_of(io.write_text, "new", path)
    assert message.startswith(f"{path}: exists already")
    assert path.read_text() == "precious"
    io.write_text("new", path, overwrite=True)
    assert path.read_text() == "new"


def test_a_text_that_breaks_off_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("precious")
    with files_limited_to(1000):
        message = error_of(io.write_text, "long " * 1000, path, overwrite=True)
    assert message.startswith(f"{path}: cannot be written: File too large")
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["no/such/folder/a.json", "file/a.json"])
def test_text_that_has_no_place_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("")
    message = error_of(io.write_text, "new", tmp_path / place)
    assert message.startswith(f"{tmp_path / place}: cannot be written: ")
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


# A real head


@pytest.mark.skipif(not HEADS.exists(), reason="the real head is not here")
def test_a_real_head_goes_to_ras_and_back_into_its_own_grid(tmp_path):
    image = io.read_image(HEADS / "sub-0001_orig.mgz")
    labels = io.read_labels(HEADS / "sub-0001_aparc+aseg.mgz")
    assert image.geometry.shape == labels.geometry.shape == (256, 256, 256)
    assert image.geometry.orientation == "LIA"
    assert labels.data.dtype == np.uint16
    assert {2, 41, 1001, 2035} <= set(np.unique(labels.data))

    ras = conform(labels, "RAS", (1, 1, 1), labels=True)
    # The left white matter lies on the left: its centre has a negative x.
    for label, sign in ((2, -1), (41, 1)):
        centre = np.argwhere(ras.data == label).mean(axis=0)
        assert np.sign(nib.affines.apply_affine(ras.affine, centre)[0]) == sign
    back = restore(ras.data, ras.geometry, labels.geometry, labels=True)
    np.testing.assert_array_equal(back, labels.data)

    path = io.write(io.to_nibabel(back, labels), tmp_path / "labels.nii.gz")
    native = nib.load(HEADS / "sub-0001_aparc+aseg.mgz")
    written = nib.load(path)
    assert written.get_data_dtype() == np.uint16
    np.testing.assert_allclose(written.affine, native.affine, atol=1e-5)
    np.testing.assert_array_equal(written.dataobj, native.dataobj)


@pytest.mark.parametrize("suffix", [".nii.gz", ".mgz"])
def test_compressed_files_hold_what_nibabel_would_write_and_nothing_else(
    tmp_path, suffix
):
    data = np.random.default_rng(0).random((5, 6, 7), np.float32)
    like = io.read_image((data, np.diag([1.0, 2, 3, 1])))
    image = io.to_nibabel(data, like)
    written = io.write(image, tmp_path / f"a{suffix}")
    again = io.write(image, tmp_path / f"b{suffix}")
    # Neither name nor time: bytes 4 to 7 of a gzip header, and flags of byte 3.
    assert written.read_bytes() == again.read_bytes()
    assert written.read_bytes()[3:8] == bytes(5)
    if suffix == ".mgz":
        image = nib.MGHImage(data, image.affine)
    nib.save(image, tmp_path / f"c{suffix}")
    theirs = gzip.decompress((tmp_path / f"c{suffix}").read_bytes())
    assert gzip.decompress(written.read_bytes()) == theirs
