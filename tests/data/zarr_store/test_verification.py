"""Every file of a store is held against the checksum of the time it was written."""

import csv
import shutil

import numpy as np
import pytest

from nobrainer.data import zarr_store
from nobrainer.data.zarr_store.table import read_rows
from nobrainer.errors import InputError
from nobrainer.processing.dataset import Dataset
from nobrainer.provenance import checksum
from scans import write_scan

FILES = (
    *("images/c/{}/0/0/0", "labels/values/0/c/{}/0/0/0", "voxels/c/{}/0"),
    *("nifti/c/{}/0", "labels/values/nifti/c/{}/0"),
)


@pytest.fixture
def scans(tmp_path):
    return [write_scan(tmp_path, f"sub-{number}") for number in (1, 2)]


@pytest.fixture
def store(scans, tmp_path):
    return Dataset.from_files(scans).to_zarr(tmp_path / "s.zarr")


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_one_changed_bit_in_any_file_is_found_and_can_be_repaired(scans, store):
    done = []
    assert zarr_store.verify(store, lambda *args: done.append(args)) == 10
    assert done == [(1, 2), (2, 2)]
    row = read_rows(store / "scans.tsv")[1]
    assert list(row.checksums) == [file.format(1) for file in FILES]
    assert row.checksums["images/c/1/0/0/0"] == checksum(store / "images/c/1/0/0/0")
    rng = np.random.default_rng(0)
    for file in FILES:
        path = store / file.format(1)
        whole = path.read_bytes()
        flip(path, int(rng.integers(len(whole))))
        says = rf"{path}: of scan sub-2_T1w, subject sub-2, is damaged: remove it"
        with pytest.raises(InputError, match=says) as error:
            zarr_store.verify(store)
        assert str(error.value).count("\n") == 0
        path.write_bytes(whole)
    for number, file in enumerate(FILES[:2]):
        (store / file.format(number)).unlink()
    with pytest.raises(InputError) as error:
        zarr_store.verify(store)
    first, second = str(error.value).splitlines()
    assert "images/c/0/0/0/0: of scan sub-1_T1w, subject sub-1, is missing" in first
    assert "labels/values/0/c/1/0/0/0: of scan sub-2_T1w" in second
    Dataset.from_files(scans).to_zarr(store)
    assert zarr_store.verify(store) == 10


def test_a_store_without_checksums_is_read_and_said_to_have_none(scans, store):
    table = store / "scans.tsv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    with table.open("w", newline="") as file:
        names = [name for name in rows[0] if name != "checksums"]
        writer = csv.DictWriter(file, names, delimiter="\t", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    assert len(list(Dataset.from_zarr(store).binarize().iterate())) == 2
    with pytest.raises(InputError, match="no checksums of 2 of its 2 scans, such as"):
        zarr_store.verify(store)
    # Scans that come later have theirs.
    shutil.rmtree(store / "images/c/1")
    Dataset.from_files(scans).to_zarr(store)
    with pytest.raises(InputError, match="of 1 of its 2 scans, such as sub-1_T1w"):
        zarr_store.verify(store)


def test_a_store_that_is_not_finished_is_not_verified(store, tmp_path):
    (store / "scans.tsv").unlink()
    with pytest.raises(InputError, match=r"s\.zarr: is not finished: convert the same"):
        zarr_store.verify(store)
    with pytest.raises(InputError, match="is no store: make one by"):
        zarr_store.verify(tmp_path)
