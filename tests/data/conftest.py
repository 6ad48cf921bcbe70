"""Three small scans with labels, for the tests of data."""

import pytest

from nobrainer.processing.dataset import Dataset
from scans import BLOCK, write_scan


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    return [write_scan(folder, f"sub-{n}", offset=n) for n in range(3)]


@pytest.fixture
def dataset(pairs):
    return Dataset.from_files(pairs, BLOCK).batch(2).binarize().patches(per_volume=4)
