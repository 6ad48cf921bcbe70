"""The subjects of a study are parted alike, whether in files or in a store."""

import csv
import shutil

import pytest

from landscape_study import settings
from nobrainer.data.zarr_store.table import read_rows, write_table
from nobrainer.errors import InputError
from nobrainer.processing.dataset import Dataset
from nobrainer.research.space import family_space
from nobrainer.research.split import list_scans, make_dataset, split_subjects
from nobrainer.research.task import SegmentationTask
from scans import SHAPE, write_scan


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Six scans of five people, as a table beside a store of them."""
    folder = tmp_path_factory.mktemp("scans")
    with (folder / "scans.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["features", "labels", "subject"])
        for number in range(6):
            pair = write_scan(folder, f"scan-{number}", offset=number)
            writer.writerow([*pair, f"person-{min(number, 4)}"])
    entries = [
        {"image": image, "label": label, "subject": subject}
        for image, label, subject in list_scans(folder / "scans.csv")
    ]
    Dataset.from_files(entries).to_zarr(folder / "s.zarr")
    return folder / "scans.csv"


def test_the_scans_of_a_store_are_parted_as_their_files(table):
    store = table.with_name("s.zarr")
    of_files, counts = split_subjects(table, settings())
    of_store, same = split_subjects(store, settings())
    assert counts == same == {"train": 3, "validate": 1, "test": 1}
    for name in counts:
        expected = make_dataset(getattr(of_files, name), settings())
        rows = getattr(of_store, name)
        assert all(row[0] == str(store) and row[2] for row in rows)
        found = make_dataset(rows, settings())
        assert found.subjects == expected.subjects
        assert found.config == expected.config
    parts = (of_store.train, of_store.validate, of_store.test)
    assert sorted(sum(parts, ())) == list_scans(store)
    task = SegmentationTask(
        family_space("vnet"), of_store.train, of_store.validate, settings()
    )
    of_grid = SegmentationTask(
        family_space("vnet"), of_files.train, of_files.validate, settings()
    )
    assert task.size({}) == of_grid.size({}) and SHAPE == (18, 16, 20)


def test_a_scan_that_a_store_no_longer_has_is_named(table, tmp_path):
    store = shutil.copytree(table.with_name("s.zarr"), tmp_path / "s.zarr")
    rows = list_scans(store)
    kept = read_rows(store / "scans.tsv")
    write_table(kept[1:], store / "scans.tsv")
    with pytest.raises(InputError, match=f"no longer has the scan {kept[0].scan}, "):
        make_dataset(rows, settings())
