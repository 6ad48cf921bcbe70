"""Results and texts are written whole or not at all."""

import errno
import gzip
import os
import resource
import signal
import stat
from contextlib import contextmanager

import nibabel as nib
import numpy as np
import pytest

from images import LAS, SUFFIXES, counting, error_of, labelled, save
from nobrainer import io


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


def test_rounded_images_stay_within_half_a_step_and_make_small_files(tmp_path):
    # As the entropy of a head: a thousandth of a nat and less, but for boundaries.
    exponents = np.random.default_rng(0).normal(-3, 1, (40, 40, 40))
    values = np.minimum(10**exponents, np.log(2)).astype(np.float32)
    values[:20] = 0
    image, step = nib.Nifti1Image(values, LAS), 2.0**-14
    rounded = io.in_steps(image, step)
    found = np.asarray(rounded.dataobj)
    assert found.dtype == np.float32 and np.array_equal(image.dataobj, values)
    assert np.abs(found - values).max() <= step / 2
    assert not found[:20].any() and found.max() == np.float32(np.log(2))
    is_greatest = values == values.max()
    assert np.array_equal(found[~is_greatest] % step, np.zeros((~is_greatest).sum()))
    np.testing.assert_array_equal(rounded.affine, LAS)
    sizes = [
        io.write(one, tmp_path / name).stat().st_size
        for one, name in ((image, "a.nii.gz"), (rounded, "b.nii.gz"))
    ]
    assert sizes[1] < sizes[0] / 2


def test_results_of_another_shape_or_with_negative_labels_are_refused():
    data, like = labelled()
    assert "not on the grid" in error_of(io.to_nibabel, data[1:], like)
    negative = np.full(data.shape, -1)
    assert "must not be negative" in error_of(io.to_nibabel, negative, like)


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
