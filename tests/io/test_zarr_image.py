"""A scan goes into a Zarr group and comes back, and windows of it are read alone."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest
import yaozarrs
import zarr

from nobrainer.errors import InputError
from nobrainer.io import nifti_to_zarr, zarr_to_nifti
from nobrainer.io.pyramid import halve
from nobrainer.io.zarr_image import ZarrImage

SHAPE = (13, 9, 6)
AFFINE = nib.affines.from_matvec([[0, 0, 3], [-2, 0, 0], [0, 2.5, 0]], (7, -40, 12))


def scaled(endianness="<"):
    values = np.random.default_rng(0).integers(-900, 3000, SHAPE).astype(np.int16)
    header = nib.Nifti1Header(endianness=endianness)
    header.set_data_dtype(np.int16)
    image = nib.Nifti1Image(values, AFFINE, header)
    image.header.set_slope_inter(0.25, -3)
    image.header["descrip"] = b"MPRAGE"
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"a comment"))
    image.set_qform(AFFINE, 1)
    return image


def odd_floats():
    values = np.random.default_rng(0).normal(size=(*SHAPE, 1))
    values[0, 0, 0] = np.nan
    return nib.Nifti2Image(values, AFFINE)


def content(path):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
@pytest.mark.parametrize("image", [scaled(), scaled(">"), odd_floats()])
def test_every_byte_comes_back(image, end, tmp_path):
    image.to_filename(tmp_path / f"a{end}")
    group = nifti_to_zarr(tmp_path / f"a{end}", tmp_path / "a.zarr", (4, 8, 64), 2)
    back = zarr_to_nifti(group, tmp_path / "b.nii.gz")
    assert content(back) == content(tmp_path / f"a{end}")
    start, stop = (2, 0, 3), (7, 9, 6)
    expected = np.asarray(nib.load(back).dataobj)[2:7, 0:9, 3:6].reshape(5, 9, 3)
    np.testing.assert_array_equal(ZarrImage.open(group).read(start, stop), expected)


def test_an_mgz_comes_back_as_nifti(tmp_path):
    values = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    nib.save(nib.MGHImage(values, AFFINE), tmp_path / "a.mgz")
    group = nifti_to_zarr(tmp_path / "a.mgz", tmp_path / "a.zarr")
    back = nib.load(zarr_to_nifti(group, tmp_path / "a.nii"))
    assert back.get_data_dtype() == np.int16
    np.testing.assert_array_equal(back.dataobj, values)
    np.testing.assert_allclose(back.affine, AFFINE, atol=1e-5)


def test_the_group_holds_levels_and_says_where_they_come_from(tmp_path):
    nib.save(scaled(">"), tmp_path / "a.nii.gz")
    path = nifti_to_zarr(tmp_path / "a.nii.gz", tmp_path / "a.zarr", (4, 8, 64), 3)
    group = zarr.open_group(path, mode="r")
    found = {key: (group[key].shape, group[key].chunks) for key in group}
    assert found == {
        "0": (SHAPE, (4, 8, 6)),
        "1": ((7, 5, 3), (4, 5, 3)),
        "2": ((4, 3, 2), (4, 3, 2)),
    }
    assert {group[key].dtype for key in group} == {np.dtype(np.int16)}
    stored = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj.get_unscaled())
    np.testing.assert_array_equal(group["0"][:], stored)
    about = group.attrs["nobrainer_provenance"]
    assert (about["source_file"], about["levels"]) == ("a.nii.gz", 3)
    assert about["chunk_shape"] == [4, 8, 64]
    yaozarrs.validate_zarr_store(str(path))
    (multiscale,) = json.loads((path / "zarr.json").read_text())["attributes"]["ome"][
        "multiscales"
    ]
    steps = multiscale["datasets"][2]["coordinateTransformations"]
    assert steps[0] == {"type": "scale", "scale": [8, 10, 12]}
    assert steps[1] == {"type": "translation", "translation": [3, 3.75, 4.5]}


def test_a_coarser_level_takes_a_value_of_its_block(tmp_path):
    labels = np.zeros((4, 3, 1), np.uint8)
    labels[:2, :2] = [[[17], [53]], [[53], [53]]]  # the majority
    labels[2:, :2] = [[[2], [41]], [[42], [42]]]  # not the one in the middle
    labels[:2, 2, 0] = 7, 7  # beyond the edge they count twice
    nib.save(nib.Nifti1Image(labels, np.diag([1, 2, 5, 1])), tmp_path / "a.nii")
    group = nifti_to_zarr(tmp_path / "a.nii", tmp_path / "a.zarr", levels=2)
    back = nib.load(zarr_to_nifti(group, tmp_path / "b.nii", level=1))
    assert np.asarray(back.dataobj)[..., 0].tolist() == [[53, 7], [42, 0]]
    # The middle of a block is the middle of its voxels; one slice stays one.
    expected = nib.affines.from_matvec(np.diag([2.0, 4, 5]), [0.5, 1, 0])
    np.testing.assert_array_equal(back.affine, expected)
    assert back.header.get_zooms() == (2, 4, 5)


def test_no_value_grows_in_a_coarser_level_because_of_its_size():
    # Sheets of a left and a right label that end in the middle of blocks: all ties.
    labels = np.full((32, 32, 32), 2, np.uint8)
    labels[:, 1::4] = labels[:, 2::4] = 42
    halved = halve(labels)
    assert np.isin(halved, (2, 42)).all()
    # Half of 4096 drawn: 2048, with a standard deviation of 32.
    assert abs(np.count_nonzero(halved == 42) - 2048) < 130
    np.testing.assert_array_equal(halved, halve(labels))
    # The mean of the two middle ones of eight normal numbers is 0; the lower one's is
    # -0.153, the fourth of eight.
    noise = np.random.default_rng(1).normal(size=(64, 64, 64))
    assert abs(halve(noise).mean()) < 0.02


def test_scale_and_description_survive_in_a_level(tmp_path):
    nib.save(scaled(">"), tmp_path / "a.nii")
    group = nifti_to_zarr(tmp_path / "a.nii", tmp_path / "a.zarr", levels=2)
    back = nib.load(zarr_to_nifti(group, tmp_path / "b.nii", level=1))
    assert bytes(back.header["descrip"].item()) == b"MPRAGE"
    assert back.header.extensions[0].get_content() == b"a comment"
    block = np.asarray(nib.load(tmp_path / "a.nii").dataobj)[:2, :2, :2]
    assert back.dataobj[0, 0, 0] in np.sort(block.ravel())[3:5]
    np.testing.assert_allclose(back.affine @ [0, 0, 0, 1], AFFINE @ [0.5, 0.5, 0.5, 1])
    np.testing.assert_allclose(back.get_qform(), back.affine, atol=1e-5)


def damage_all_but(path, kept, n_chunks):
    """Change a byte in every chunk of a level but one."""
    content = bytearray(path.read_bytes())
    n_bytes = 16 * int(np.prod(n_chunks)) + 4
    index = np.frombuffer(bytes(content[-n_bytes:-4]), "<u8").reshape(*n_chunks, 2)
    for place in np.ndindex(*n_chunks):
        if place != kept:
            begin, length = index[place].tolist()
            content[begin + length // 2] ^= 255
    path.write_bytes(content)


def test_a_window_reads_the_chunks_that_it_meets_and_no_other(tmp_path):
    nib.save(scaled(), tmp_path / "a.nii")
    group = nifti_to_zarr(tmp_path / "a.nii", tmp_path / "a.zarr", (4, 4, 3))
    damage_all_but(group / "0/c/0/0/0", (1, 1, 0), (4, 3, 2))
    image = ZarrImage.open(group)
    expected = np.asarray(nib.load(tmp_path / "a.nii").dataobj)[4:8, 5:8, 0:3]
    np.testing.assert_array_equal(image.read((4, 5, 0), (8, 8, 3)), expected)
    for stop in ((9, 8, 3), (8, 9, 3), (8, 8, 4)):
        with pytest.raises(InputError, match=r"a\.zarr: its voxels are damaged"):
            image.read((4, 5, 0), stop)


def test_what_cannot_be_converted(tmp_path):
    nib.save(scaled(), tmp_path / "a.nii")
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, 3)), AFFINE), tmp_path / "4d.nii")
    for name, arguments, problem in (
        ("4d.nii", {}, r"4d\.nii: is 4-D with shape \(2, 2, 2, 3\), must be 3-D"),
        ("no.nii", {}, "no such file"),
        ("a.nii", {"levels": 6}, "levels must be at most 5, got 6"),
        ("a.nii", {"levels": 0}, "levels must be a whole number >= 1"),
        ("a.nii", {"chunk_shape": (4, 4)}, "chunk_shape must be three whole numbers"),
        ("a.nii", {"chunk_shape": (4, 0, 4)}, "must be three whole numbers >= 1"),
    ):
        with pytest.raises(InputError, match=problem):
            nifti_to_zarr(tmp_path / name, tmp_path / "new.zarr", **arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4d.nii", "a.nii"]


def test_nothing_is_replaced_unasked(tmp_path):
    nib.save(scaled(), tmp_path / "a.nii")
    group = nifti_to_zarr(tmp_path / "a.nii", tmp_path / "a.zarr", levels=2)
    with pytest.raises(InputError, match="exists already"):
        nifti_to_zarr(tmp_path / "a.nii", group)
    with pytest.raises(InputError, match="exists already"):
        zarr_to_nifti(group, tmp_path / "a.nii")
    nifti_to_zarr(tmp_path / "a.nii", group, overwrite=True)
    assert list(zarr.open_group(group, mode="r")) == ["0"]
    zarr_to_nifti(group, tmp_path / "a.nii", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii", "a.zarr"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="exists already"):
        nifti_to_zarr(tmp_path / "a.nii", tmp_path / "folder", overwrite=True)


def test_what_does_not_come_back(tmp_path):
    nib.save(scaled(), tmp_path / "a.nii")
    group = nifti_to_zarr(tmp_path / "a.nii", tmp_path / "a.zarr", levels=2)
    out = tmp_path / "b.nii.gz"
    for level, problem in ((2, "level must be at most 1, got 2"), (-1, "level must")):
        with pytest.raises(InputError, match=problem):
            zarr_to_nifti(group, out, level)
    with pytest.raises(InputError, match=r"holds a NIfTI header: name it \.nii"):
        zarr_to_nifti(group, tmp_path / "b.mgz")
    with pytest.raises(InputError, match="is no Zarr group"):
        zarr_to_nifti(tmp_path, out)
    zarr.create_group(tmp_path / "other.zarr").create_array("0", shape=(2,), dtype="i2")
    with pytest.raises(InputError, match="nifti_to_zarr has not made it"):
        zarr_to_nifti(tmp_path / "other.zarr", out)
    (group / "1/c/0/0/0").unlink()
    with pytest.raises(InputError, match="its voxels are missing"):
        zarr_to_nifti(group, out, 1)
    attributes = zarr.open_group(group).attrs
    attributes["nifti_header"] = attributes["nifti_header"][:400]
    with pytest.raises(InputError, match=r"a\.zarr"):
        zarr_to_nifti(group, out)
    assert not out.exists()
