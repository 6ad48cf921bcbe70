"""The arrays of a store: what others read in them, and what is wrong with some."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import yaozarrs
import zarr

from nobrainer.data.zarr_store import Arrays
from nobrainer.data.zarr_store.table import read_rows
from nobrainer.errors import InputError
from nobrainer.io.nifti_zarr import read_header
from nobrainer.processing.dataset import Dataset
from scans import SHAPE, write_scan


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    return [write_scan(folder, f"sub-{number}") for number in (1, 2)]


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "s.zarr"
    return Dataset.from_files(files).to_zarr(path)


@pytest.fixture
def store(whole, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(whole, tmp_path / "s.zarr")


def test_zarr_and_a_header_give_the_scan(files, whole):
    """Nothing of ours is needed to read an image with its intensities and its place."""
    root = zarr.open_group(whole, mode="r")
    image, values = root["images"], root["labels/values/0"]
    assert (image.dtype, values.dtype) == (np.int16, np.int32)
    assert image.shape == values.shape == (2, *reversed(SHAPE))
    assert image.shards == (1, *reversed(SHAPE))
    header = read_header(root["nifti"][1])
    slope, intercept = header.get_slope_inter()
    found = np.asarray(image[1].T) * slope + intercept
    [_, prepared] = Dataset.from_files(files).binarize().iterate()
    assert np.abs(found - prepared.image).max() <= 0.51 * slope
    assert np.array_equal(header.get_best_affine(), prepared.affine)
    assert header.get_data_shape() == SHAPE
    labels = read_header(root["labels/values/nifti"][1])
    assert labels.get_data_dtype() == np.int32
    assert np.array_equal(values[1].T > 0, prepared.label)


def test_the_metadata_are_those_of_ome_zarr(whole):
    kinds = {"": "Image", "labels": "LabelsGroup", "labels/values": "LabelImage"}
    for group, kind in kinds.items():
        text = (whole / group / "zarr.json").read_text()
        ome = json.loads(text)["attributes"]["ome"]
        found = yaozarrs.validate_ome_object(ome)
        assert type(found).__name__ == kind
    with pytest.raises(ValueError):
        yaozarrs.validate_ome_object(ome | {"multiscales": []})
    yaozarrs.validate_zarr_store(str(whole))


def test_what_is_no_store_is_refused(files, store, tmp_path):
    with pytest.raises(InputError, match="nowhere: is no store: make one by"):
        Dataset.from_zarr(tmp_path / "nowhere")
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(InputError, match=r"other\.zarr: is a Zarr group, but no store"):
        Dataset.from_zarr(tmp_path / "other.zarr")
    root = zarr.open_group(store)
    about = dict(root.attrs["nobrainer"])
    root.attrs["nobrainer"] = about | {"format_version": 3}
    with pytest.raises(InputError, match="has format version 3, this nobrainer"):
        Dataset.from_zarr(store)
    with pytest.raises(InputError, match="has format version 3"):
        Dataset.from_files(files).to_zarr(store)
    root.attrs["nobrainer"] = about | {"preprocess": {"normalize": "zscore", "x": 1}}
    with pytest.raises(InputError, match="preprocess"):
        Dataset.from_zarr(store)
    root.attrs["nobrainer"] = about
    shutil.rmtree(store / "voxels")
    with pytest.raises(InputError, match="its array voxels cannot be read"):
        Dataset.from_zarr(store)
    (store / "zarr.json").write_text("{")
    with pytest.raises(InputError, match="is no store that can be read"):
        Dataset.from_zarr(store)


@pytest.mark.parametrize("array", ["images/c/1/0/0/0", "labels/values/0/c/1/0/0/0"])
def test_a_missing_file_is_no_scan_of_zeros(files, store, array):
    dataset = Dataset.from_zarr(store, block_shape=(8, 8, 8)).binarize()
    dataset = dataset.patches(per_volume=64)
    (store / array).unlink()
    says = rf"{array}: of scan sub-2_T1w, is missing: convert the same scans"
    with pytest.raises(InputError, match=says):
        Dataset.from_zarr(store)
    # Neither where it is lost while a training reads.
    with pytest.raises(InputError, match=says):
        list(dataset.loader())
    done = []
    Dataset.from_files(files).to_zarr(store, progress=lambda *s: done.append(s))
    assert done == [(2, 2)]
    assert len(list(dataset.loader())) == 64


@pytest.mark.parametrize("array", ["images/c/0/0/0/0", "labels/values/0/c/0/0/0/0"])
def test_a_changed_bit_is_found(files, store, array):
    path = store / array
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    dataset = Dataset.from_zarr(store).binarize()
    with pytest.raises(InputError, match=rf"{array}: of scan sub-1_T1w, is damaged: "):
        list(dataset.iterate())
    path.unlink()
    Dataset.from_files(files).to_zarr(store)
    assert len(list(dataset.iterate())) == 2


def test_a_damaged_table_is_refused(store):
    table = store / "scans.tsv"
    text = table.read_text()
    for wrong, says in (
        (text.replace("spread", "width", 1), "its columns are not scan, subject"),
        (text.replace("[18, 16, 20]", "[18, 16]", 1), "its row is not whole"),
        (text.replace("[18, 16, 20]", "18", 1), "line 2.shape must be a list, got 18"),
        (text[: text.rindex("\t")] + "\n", "line 3: has 26 cells, not 27"),
    ):
        table.write_text(wrong)
        with pytest.raises(InputError, match=says):
            Dataset.from_zarr(store)


def test_labels_without_foreground_have_no_file(tmp_path):
    image, label = write_scan(tmp_path, "sub-1")
    empty = nib.load(label)
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), empty.affine), label)
    store = Dataset.from_files([(image, label)]).to_zarr(tmp_path / "s.zarr")
    arrays = Arrays.open(store)
    [row] = read_rows(store / "scans.tsv")
    assert row.label_values == (0,)
    assert not arrays.read_labels(row, (0, 0, 0), SHAPE).any()
    [scan] = Dataset.from_zarr(store).binarize().prepare()
    assert len(scan.list_centres(np.random.default_rng(0)).voxels) == 0
