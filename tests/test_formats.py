"""Files of images: damaged ones are refused, odd but sound ones are read."""

import gzip
import os
import socket
import struct
import time
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nobrainer import io, memory
from nobrainer.errors import InputError

LAS = np.array([[-1, 0, 0, 90], [0, 1.5, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1.0]])
NOISE = np.random.default_rng(0).integers(0, 1000, (16, 17, 18)).astype(np.int16)
KINDS = {
    "a.nii": nib.Nifti1Image,
    "two.nii": nib.Nifti2Image,
    "a.mgh": nib.MGHImage,
    "a.nii.gz": nib.Nifti1Image,
    "two.nii.gz": nib.Nifti2Image,
    "a.mgz": nib.MGHImage,
}


def save(path: Path, data=NOISE, affine=LAS) -> Path:
    """Write with nibabel, in the format that the name stands for in `KINDS`."""
    nib.save(KINDS[path.name](data, affine), path)
    return path


def patch(path: Path, offset: int, fmt: str, *values) -> Path:
    """Overwrite fields of the header, in the compressed content where it is."""
    content = path.read_bytes()
    is_gzipped = path.name.endswith(("gz", "mgz"))
    raw = bytearray(gzip.decompress(content) if is_gzipped else content)
    struct.pack_into(fmt, raw, offset, *values)
    path.write_bytes(gzip.compress(raw) if is_gzipped else raw)
    return path


def error_of(function, *args) -> str:
    with pytest.raises(InputError) as caught:
        function(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Compressed streams


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mgz"])
def test_no_flipped_bit_changes_a_voxel_without_a_word(tmp_path, name):
    path = save(tmp_path / name)
    sound = path.read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(60):
        damaged = bytearray(sound)
        damaged[rng.integers(20, len(sound))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(io.read_labels(path).data, NOISE)
        except InputError as error:
            assert str(error).startswith(f"{path}: not an image that can be read, dam")
            refused += 1
    assert refused > 55  # a stream has a few bits that stand for nothing


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mgz"])
def test_damage_is_found_wherever_a_compressed_file_is_read(tmp_path, name):
    path = save(tmp_path / name)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # the checksum alone: every voxel is right
    path.write_bytes(content)
    for read in (io.read_image, io.read_labels):
        assert "CRC check failed" in error_of(read, path)
        assert "CRC check failed" in error_of(read, nib.load(path))
    assert io.read_geometry(path).shape == (16, 17, 18)


def test_a_block_of_zeros_in_a_compressed_file_is_refused(tmp_path):
    path = save(tmp_path / "a.nii.gz")
    content = bytearray(path.read_bytes())
    content[4000:6000] = bytes(2000)
    path.write_bytes(content)
    assert error_of(io.read_image, path).startswith(f"{path}: not an image")


def test_members_and_padding_of_gzip_are_read(tmp_path):
    path = save(tmp_path / "a.nii.gz")
    raw = gzip.decompress(path.read_bytes())
    members = gzip.compress(raw[:3000]) + gzip.compress(raw[3000:])
    for content in (members, members + bytes(512)):  # archives pad with zeros
        path.write_bytes(content)
        np.testing.assert_array_equal(io.read_image(path).data, NOISE)
    for content in (members[:-3], members + b"not of this file " * 9):
        path.write_bytes(content)
        assert error_of(io.read_image, path).startswith(f"{path}: not an image")


def test_what_follows_the_voxels_is_checked_and_ignored(tmp_path):
    path = save(tmp_path / "a.mgz")
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw + b"mri_convert ...\0" * 100))
    np.testing.assert_array_equal(io.read_image(path).data, NOISE)


def test_whether_a_file_is_compressed_is_read_from_it_and_not_from_its_name(tmp_path):
    plain, packed = save(tmp_path / "a.nii"), save(tmp_path / "a.nii.gz")
    contents = plain.read_bytes(), packed.read_bytes()
    packed.write_bytes(contents[0])
    plain.write_bytes(contents[1])
    for path in (plain, packed):
        np.testing.assert_array_equal(io.read_image(path).data, NOISE)


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f8", "u1"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_and_scaling_are_those_of_nibabel(tmp_path, dtype, suffix):
    path = tmp_path / f"a{suffix}"
    order = dtype[0] if dtype[0] in "<>" else "<"
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(dtype)
    image = nib.Nifti1Image((NOISE % 200).astype(dtype), LAS, header)
    image.header.set_slope_inter(0.3, -7)
    image.to_filename(path)
    theirs = np.asanyarray(nib.load(path).dataobj)
    assert theirs.max() == pytest.approx(199 * 0.3 - 7, rel=1e-5)
    np.testing.assert_array_equal(io.read_image(path).data, theirs.astype(np.float32))


# Headers that claim what is not there


@pytest.mark.parametrize("name", KINDS)
def test_a_header_that_claims_more_voxels_than_there_are_costs_nothing(tmp_path, name):
    claim = {
        "a.nii": (40, "<4h", 3, 30000, 30000, 30000),
        "two.nii": (16, "<4q", 3, 10**6, 10**6, 10**6),
        "a.mgh": (4, ">4i", 30000, 30000, 30000, 1),
    }
    claim["a.nii.gz"], claim["two.nii.gz"] = claim["a.nii"], claim["two.nii"]
    claim["a.mgz"] = claim["a.mgh"]
    path = patch(save(tmp_path / name), *claim[name])
    tracemalloc.start()
    start = time.monotonic()
    message = error_of(io.read_image, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.monotonic() - start < 1
    assert peak < 20e6
    shape = "1000000 x 1000000 x 1000000" if "two" in name else "30000 x 30000 x 30000"
    assert f"its header says {shape} voxels of int16" in message


def test_a_file_that_is_cut_short_says_what_it_holds(tmp_path):
    # 352 bytes of header, 16 x 17 x 18 voxels of two bytes.
    for name in ("a.nii", "a.nii.gz"):
        path = patch(save(tmp_path / name), 40, "<4h", 3, 16, 17, 20)
        assert (
            "its header says 16 x 17 x 20 voxels of int16, which end at byte 11232, "
            "and it holds 10144 bytes" in error_of(io.read_labels, path)
        )


@pytest.mark.parametrize("name", ["a.mgh", "a.mgz"])
@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        ((0, 17, 18, 1), "(0, 17, 18)"),
        ((16, 17, 18, 0), "(16, 17, 18, 0)"),
        ((16, -17, 18, 1), "(16, -17, 18)"),
    ],
)
def test_a_dimension_of_zero_is_no_crash(tmp_path, name, dims, shape):
    path = patch(save(tmp_path / name), 4, ">4i", *dims)
    message = error_of(io.read_image, path)
    assert message.startswith(f"{path}: has no voxels, shape {shape}")


def test_fields_of_nifti2_that_nifti1_cannot_hold_are_read(tmp_path):
    path = patch(save(tmp_path / "two.nii"), 500, "<i", 0x7F00 + 3)  # micrometres
    patch(path, 376, "<d", 1e300)  # an offset of the qform, which is not used
    patch(path, 344, "<i", 0)
    volume = io.read_image(path)
    assert volume.geometry.spacing_mm == pytest.approx((1e-3, 1.5e-3, 2e-3))
    result = io.to_nibabel(volume.data, volume)
    assert result.header.get_xyzt_units() == ("micron", "unknown")


@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_voxel_sizes_that_cannot_be_are_refused(tmp_path, size):
    path = patch(save(tmp_path / "a.mgh"), 30, ">3f", size, size, size)
    shown = " x ".join([f"{size:g}"] * 3)
    assert f"{path}: its voxels measure {shown} mm" in error_of(io.read_geometry, path)
    affine = LAS.copy()
    affine[0, 3] = 1e30
    message = error_of(io.read_image, (NOISE, affine))
    assert message.startswith("array: its first voxel lies 1e+30 mm from the origin")


def test_a_scan_that_is_too_large_for_the_memory_is_refused(tmp_path, monkeypatch):
    # 16 x 17 x 18 voxels: two bytes as stored and four as float32.
    path = save(tmp_path / "a.nii.gz")
    monkeypatch.setattr(memory, "memory_limit_bytes", lambda: 6 * NOISE.size)
    io.read_image(path)
    monkeypatch.setattr(memory, "memory_limit_bytes", lambda: 6 * NOISE.size - 1)
    message = error_of(io.read_image, path)
    assert message.startswith(f"{path}: needs 2.94e-05 GB of memory to read it, and ")


@pytest.mark.parametrize("name", KINDS)
def test_random_headers_are_read_or_refused_in_time(tmp_path, name):
    path = save(tmp_path / name)
    content = path.read_bytes()
    is_gzipped = name.endswith(("gz", "mgz"))
    raw = gzip.decompress(content) if is_gzipped else content
    rng = np.random.default_rng(2)
    refused = 0
    for number in range(80):
        damaged = bytearray(raw)
        for position in rng.integers(0, 544 if "two" in name else 352, size=4):
            damaged[position] = rng.integers(256)
        if number % 2:  # a single bit, which is what real damage is
            damaged = bytearray(raw)
            damaged[rng.integers(0, 120)] ^= 1 << rng.integers(8)
        path.write_bytes(gzip.compress(damaged, 1) if is_gzipped else damaged)
        start = time.monotonic()
        try:
            io.read_image(path)
        except InputError as error:
            assert str(error).startswith(f"{path}: ")
            refused += 1
        assert time.monotonic() - start < 5
    assert 5 < refused < 80


# Odd but sound files


@pytest.mark.parametrize("name", ["a.mgh", "a.mgz"])
def test_mgh_without_orientation_is_lia_of_1_mm_about_the_origin(tmp_path, name):
    path = patch(save(tmp_path / name), 28, ">h", 0)
    # FreeSurfer: x to the left, y down, z to the front, the centre at 0.
    lia = [[-1, 0, 0, 8], [0, 0, 1, -9], [0, -1, 0, 8.5], [0, 0, 0, 1]]
    volume = io.read_image(path)
    np.testing.assert_array_equal(volume.affine, lia)
    assert io.read_geometry(path).orientation == "LIA"
    np.testing.assert_array_equal(io.to_nibabel(volume.data, volume).affine, lia)


def test_mgh_with_an_intent_in_its_version_is_read(tmp_path):
    path = patch(save(tmp_path / "a.mgz"), 0, ">i", (3 << 8) | 1)
    np.testing.assert_array_equal(io.read_image(path).data, NOISE)
    np.testing.assert_allclose(io.read_image(path).affine, LAS, atol=1e-5)
    patch(path, 0, ">i", 2)
    assert "does not begin like MGH" in error_of(io.read_image, path)


@pytest.mark.parametrize("too_long", [1 + 1e-6, 1.01])
@pytest.mark.parametrize(
    ("name", "offset", "fmt"),
    [("a.nii", 256, "<3f"), ("two.nii", 352, "<3d"), ("a.nii.gz", 256, "<3f")],
)
def test_a_quaternion_that_is_too_long_is_shortened(
    tmp_path, name, offset, fmt, too_long
):
    """180 degrees about the axis v = (1, 2, 2) / 3 turn by 2 v v' - 1."""
    axis = np.array([1, 2, 2]) / 3
    rotation = 2 * np.outer(axis, axis) - np.eye(3)
    image = KINDS[name](NOISE, None)
    image.set_qform(nib.affines.from_matvec(rotation, [1, 2, 3]), 1)
    image.to_filename(tmp_path / name)
    path = patch(tmp_path / name, offset, fmt, *(axis * too_long))
    with pytest.raises(ValueError, match="w2 should be positive"):
        nib.load(path)

    volume = io.read_image(path)
    np.testing.assert_allclose(volume.affine[:3, :3], rotation, atol=1e-6)
    np.testing.assert_allclose(volume.affine[:3, 3], [1, 2, 3])
    result = io.to_nibabel(volume.data, volume)
    np.testing.assert_allclose(result.get_qform(), volume.affine, atol=1e-6)


def cifti(path: Path) -> None:
    axes = (
        nib.cifti2.ScalarAxis(["a"]),
        nib.cifti2.BrainModelAxis.from_mask(np.ones((2, 2, 2), bool), "thalamus_left"),
    )
    nib.save(nib.Cifti2Image(np.ones((1, 8), np.float32), axes), path)


def gifti(path: Path) -> None:
    image = nib.GiftiImage(darrays=[nib.gifti.GiftiDataArray(np.ones(3, np.float32))])
    path.write_bytes(image.to_bytes())


def pair(path: Path) -> None:
    patch(save(path.with_name("a.nii")), 344, "4s", b"ni1").rename(path)


def inside(path: Path) -> None:
    patch(save(path.with_name("a.nii")), 108, "<f", 0).rename(path)


def unknown_type(path: Path) -> None:
    patch(save(path.with_name("a.nii")), 70, "<h", 77).rename(path)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (cifti, "holds CIFTI data"),
        (gifti, "it does not begin like NIfTI"),
        (pair, "it is the header of a pair of .hdr and .img files"),
        (inside, "its voxels begin at byte 0, inside the header"),
        (unknown_type, "data code 77 not recognized"),
    ],
)
def test_what_is_no_single_volume_says_what_it_is(tmp_path, make, what):
    path = tmp_path / "b.dscalar.nii"
    make(path)
    for read in (io.read_image, io.read_labels, io.read_geometry):
        message = error_of(read, path)
        assert message.startswith(f"{path}: ")
        assert what in message


# What is no file


@pytest.mark.parametrize("read", [io.read_image, io.read_labels, io.read_geometry])
def test_pipes_devices_and_sockets_do_not_hang(tmp_path, read, monkeypatch):
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "device.mgz").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.nii")
        for name, kind in (
            ("pipe.nii.gz", "a named pipe"),
            ("device.mgz", "a device"),
            ("socket.nii", "a socket"),
        ):
            assert error_of(read, name).startswith(f"{name}: is {kind}: ")


def test_a_dangling_link_says_where_it_points(tmp_path):
    path = tmp_path / "a.nii.gz"
    target = "../.git/annex/objects/Xk/0F/SHA256E-s9--ab.nii.gz/SHA256E-s9--ab.nii.gz"
    path.symlink_to(target)
    message = error_of(io.read_labels, path)
    assert message.startswith(f"{path}: is a link to {target}, and the content is not")
    assert message.endswith("`git annex get` or `datalad get`")
    path.unlink()
    path.symlink_to("elsewhere.nii.gz")
    message = error_of(io.read_labels, path)
    assert "is a link to elsewhere.nii.gz, and the content is not there" in message
    assert message.endswith("correct the link")


@pytest.mark.parametrize(
    ("content", "do"),
    [
        ("/annex/objects/SHA256E-s9--ab.nii.gz\n", "`git annex get`"),
        ("../../.git/annex/objects/Xk/0F/SHA256E-s9--ab.nii.gz", "`git annex get`"),
        ("version https://git-lfs.github.com/spec/v1\noid sha", "`git lfs pull`"),
    ],
)
def test_a_pointer_in_place_of_the_content_is_known(tmp_path, content, do):
    path = tmp_path / "a.nii.gz"
    path.write_text(content)
    message = error_of(io.read_image, path)
    assert message.startswith(f"{path}: stands for a file that is not here: get it ")
    assert do in message


def test_a_name_that_is_not_utf8_is_read(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/sub-\xe9_T1w.nii.gz"))
    save(tmp_path / "a.nii.gz").rename(path)
    volume = io.read_image(path)
    np.testing.assert_array_equal(volume.data, NOISE)
    io.write(io.to_nibabel(NOISE, volume), path, overwrite=True)
    np.testing.assert_array_equal(io.read_labels(path).data, NOISE)


def test_a_name_that_cannot_be_is_refused(tmp_path):
    assert "File name too long" in error_of(io.read_image, f"{'a' * 300}.nii")
    assert "null" in error_of(io.read_image, "a\0b.nii")
