"""A made data set and its derivative, made once in each process."""

import shutil
from pathlib import Path

import pytest

from bids_sets import make_set, run_bids, train_model
from commands import nobrainer_

NAMES = ("sub-01_ses-a_T1w", "sub-01_ses-b_T1w", "sub-02_T2w")


@pytest.fixture(scope="session")
def bids_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a ball in a ball, in FreeSurfer's ids."""
    return train_model(tmp_path_factory.mktemp("bids-model"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two T1w of one participant, and a T2w of another."""
    return make_set(tmp_path_factory.mktemp("bids") / "data", *NAMES)


@pytest.fixture(scope="session")
def derivative(data: Path, bids_model: Path) -> Path:
    """The derivative of the data set, made in this process."""
    out = data.parent / "derivative"
    result = run_bids(data, out, bids_model, "--suffix", "T1w", "T2w", "--tissues")
    assert result.exit_code == 0, result.stderr
    return out


@pytest.fixture(scope="session")
def grouped(data: Path, derivative: Path) -> Path:
    """A copy of the derivative after the group level."""
    out = shutil.copytree(derivative, data.parent / "grouped")
    result = nobrainer_("bids", data, out, "group", "--suffix", "T1w", "T2w")
    assert result.exit_code == 0, result.stderr
    return out
