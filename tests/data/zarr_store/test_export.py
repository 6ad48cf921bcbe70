"""A store gives back files: what was stored, and the header that it came with."""

import csv

import nibabel as nib
import numpy as np
import pytest

from nobrainer.data.zarr_store import export
from nobrainer.data.zarr_store.table import read_rows
from nobrainer.errors import InputError
from nobrainer.processing.dataset import Dataset
from scans import IDS, SHAPE

AFFINE = np.array([[1, 0, 0, -9], [0, 1.5, 0, 4], [0, 0, 2, 7], [0, 0, 0, 1.0]])


@pytest.fixture
def scan(tmp_path):
    """A scan in the orientation and voxel size of its store, with a full header."""
    labels = np.random.default_rng(0).choice(IDS, SHAPE).astype(np.int32)
    image = np.random.default_rng(1).gamma(2.0, 50.0, SHAPE).astype(np.float32)
    pair = tmp_path / "sub-1_T1w.nii.gz", tmp_path / "sub-1_dseg.nii.gz"
    for data, path in zip((image, labels), pair, strict=True):
        made = nib.Nifti1Image(data, AFFINE)
        made.header["descrip"], made.header["cal_max"] = b"by hand", 7.5
        made.header.set_intent("label", name="parts")
        made.header.set_xyzt_units("mm", "sec")
        made.set_sform(AFFINE, 4)
        made.set_qform(AFFINE, 1)
        nib.save(made, path)
    return pair


def test_voxels_affine_and_header_come_back(scan, tmp_path):
    entry = dict(zip(("image", "label"), scan, strict=True))
    entry |= {"subject": "Ann", "session": "one", "split": "test"}
    dataset = Dataset.from_files([entry])
    store = dataset.to_zarr(tmp_path / "s.zarr")
    table = export(store, tmp_path / "new" / "files")
    with table.open() as file:
        [row] = csv.DictReader(file)
    assert (row["subject"], row["session"], row["split"]) == ("Ann", "one", "test")

    before, after = nib.load(scan[1]), nib.load(table.parent / row["labels"])
    assert np.array_equal(after.dataobj, before.dataobj)
    assert np.array_equal(after.affine, before.affine)
    for field in before.header:
        # Where no scale was given, it is 1 and 0 now.
        if field not in ("scl_slope", "scl_inter"):
            assert np.array_equal(before.header[field], after.header[field]), field
    assert after.header.get_data_dtype() == np.int32

    [prepared] = dataset.binarize().iterate()
    [stored] = read_rows(store / "scans.tsv")
    image = nib.load(table.parent / row["features"])
    assert image.get_data_dtype() == np.int16
    assert image.dataobj.slope == pytest.approx(stored.slope, rel=1e-6)
    error = np.abs(image.get_fdata() - prepared.image).max()
    assert 0.3 * stored.slope < error < 0.51 * stored.slope
    assert np.array_equal(image.affine, AFFINE)
    assert bytes(image.header["descrip"]).rstrip(b"\0") == b"by hand"
    # Files and table are scans like any others.
    again = Dataset.from_files([table.parent / row["features"]])
    assert again.volume_shape == SHAPE


def test_what_cannot_be_written_is_refused(scan, tmp_path):
    store = Dataset.from_files([scan]).to_zarr(tmp_path / "s.zarr")
    with pytest.raises(InputError, match="no scan in the split 'a': its splits are no"):
        export(store, tmp_path / "files", "a")
    export(store, tmp_path / "files")
    with pytest.raises(InputError, match=r"sub-1_T1w\.nii\.gz: exists already"):
        export(store, tmp_path / "files")
    header = store / "labels/values/nifti/c/0/0"
    header.unlink()
    with pytest.raises(InputError, match=r"nifti/c/0/0: of scan sub-1_T1w, is missing"):
        export(store, tmp_path / "others")
    with pytest.raises(InputError, match=r"sub-1_T1w\.nii\.gz/a: cannot be made"):
        export(store, scan[0] / "a")
