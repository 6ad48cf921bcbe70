"""What every test shares: one cache of embedded subjects, one thread, no network."""

import os

# Set before anything imports torch or matplotlib. One thread each, because the suite
# runs on as many workers as there are cores. A proxy that is not there keeps tests
# from downloading the public sample; servers of this machine can be reached.
os.environ |= {
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "no_proxy": "127.0.0.1,localhost",
}

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock

import nobrainer as nb
from balls import write_ball
from nobrainer.training.engine import default_device, has_bfloat16
from nobrainer.utils import get_data
from result_folders import SCANS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slowest files first, so that no worker is left alone with one at the end.

    A file whose tests take long says so: `pytestmark = pytest.mark.slow(seconds=60)`.
    """

    def seconds(item: pytest.Item) -> float:
        mark = item.get_closest_marker("slow")
        return mark.kwargs["seconds"] if mark else 0

    items.sort(key=seconds, reverse=True)


@pytest.fixture(scope="session", autouse=True)
def cache_dir(
    tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Iterator[Path]:
    """A cache for this run alone, shared by its workers, in `NOBRAINER_CACHE`."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOBRAINER_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def sample_csv(cache_dir: Path) -> Path:
    """The table of the ten embedded subjects, which are made once per run."""
    with FileLock(cache_dir.with_suffix(".lock")):
        return Path(get_data(source="embedded"))


@pytest.fixture(scope="session")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Balls with labels, `scans.csv`, and two models: `model` and `other`."""
    folder = tmp_path_factory.mktemp("results")
    pairs = [write_ball(folder, number) for number in SCANS]
    with (folder / "scans.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("features", "labels"), *pairs])
    dataset = nb.Dataset.from_files(pairs, (16, 16, 16)).batch(2).patches(per_volume=2)
    for seed, name in enumerate(("model", "other")):
        model = nb.Segmentation("bayesian_vnet", {"base_filters": 1, "levels": 1})
        model.fit(dataset, seed=seed, verbose=False).save(folder / name)
    return folder


@pytest.fixture
def bfloat16() -> None:
    """Skip a test that computes in bfloat16 where this machine does not."""
    if not all(map(has_bfloat16, (torch.device("cpu"), default_device()))):
        pytest.skip("this machine has no instructions for bfloat16")
