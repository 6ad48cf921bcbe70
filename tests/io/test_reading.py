"""What files and objects in memory read as, and what is refused."""

import gzip
import os
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from images import LAS, SUFFIXES, counting, error_of, labelled, save
from nobrainer import io
from nobrainer.errors import InputError
from nobrainer.volume import conform, restore

HEADS = Path(__file__).parents[3] / "shared" / "data" / "heads"


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


def without_orientation(path: Path) -> Path:
    """A file whose header does not say how its axes lie."""
    if path.suffix == ".nii":
        nib.save(nib.Nifti1Image(counting(), LAS), path)
        raw = bytearray(path.read_bytes())
        raw[252:256] = bytes(4)  # qform_code and sform_code
        path.write_bytes(raw)
    else:
        save(path)
        raw = bytearray(path.read_bytes())
        raw[28:30] = b"\0\0"
        path.write_bytes(raw)
    return path


@pytest.mark.parametrize(("suffix", "taken"), [(".nii", "LAS"), (".mgh", "LIA")])
def test_a_file_without_orientation_is_warned_of_once(tmp_path, suffix, taken):
    path = without_orientation(tmp_path / f"a{suffix}")
    told = (
        rf"a{suffix}: .* does not say how the head lies .*: {taken} is taken, and left"
    )
    with pytest.warns(UserWarning, match=told) as caught:
        volume = io.read_image(path)
    assert len(caught) == 1 and volume.geometry.orientation == taken
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        io.read_labels(path)
        io.read_geometry(path)
        # In memory an affine is what its maker says.
        io.read_image((counting(), LAS))
        io.read_image(save(tmp_path / f"b{suffix}"))
    if suffix == ".nii":
        with pytest.warns(UserWarning, match=told):
            io.read_image(nib.load(path))


def test_a_mask_and_a_slice_are_no_scan(tmp_path):
    mask = (counting((8, 8, 9)) % 5 == 0).astype(np.uint8) * 3
    message = error_of(io.read_image, save(tmp_path / "mask.nii", mask))
    assert "mask.nii: holds two values alone, 0 and 3, as a mask does" in message
    # An array in memory was made by someone who knows what it is.
    io.read_image((mask, LAS))
    mask[0, 0, 1] = 2
    io.read_image(save(tmp_path / "three.nii", mask))
    io.read_image((counting((8, 1, 9)), LAS))
    message = error_of(io.read_image, save(tmp_path / "slice.nii", counting((8, 1, 9))))
    assert "is one voxel thick, shape (8, 1, 9): give a volume" in message


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


@pytest.mark.parametrize("read", [io.read_image, io.read_labels, io.read_geometry])
def test_a_missing_file_and_a_directory_are_named(tmp_path, read):
    path = tmp_path / "absent.nii.gz"
    assert error_of(read, path).startswith(f"{path}: no such file")
    said = error_of(read, tmp_path)
    assert said.startswith(f"{tmp_path}: is a directory") and "dcm2niix" in said


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


@pytest.mark.parametrize(
    ("read", "bad"),
    [
        (io.read_image, np.inf),
        (io.read_image, -np.inf),
        (io.read_labels, np.nan),
        (io.read_labels, np.inf),
        (io.read_labels, -np.inf),
    ],
)
def test_values_that_are_not_finite_are_refused_and_counted(tmp_path, read, bad):
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


@pytest.mark.parametrize("source", [None, 3, (counting(), LAS, 1)])
def test_other_sources_are_refused(source):
    assert "give a path, a nibabel image" in error_of(io.read_image, source)


def test_an_array_needs_its_affine():
    said = error_of(io.read_image, counting())
    assert said.startswith("an array alone does not say how large its voxels are")
    assert "give (array, affine)" in said


def test_a_tuple_of_paths_is_no_array():
    said = error_of(io.read_image, ("a.nii.gz", "b.nii.gz"))
    assert said.startswith("a tuple is (array, affine), got 'a.nii.gz' in it")
    assert "a list of paths" in said


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
