"""Scans of balls and a model that knows them, for all tests of the facade."""

import pytest

from nested_balls import build, write_ball
from nobrainer.processing.segmentation import Segmentation


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("balls")
    return [write_ball(folder, number) for number in range(4)]


@pytest.fixture(scope="session")
def fitted(pairs):
    """A Bayesian model that has learned what a ball is; never fitted again."""
    return Segmentation("bayesian_vnet", {"base_filters": 4, "levels": 2}).fit(
        build(pairs[:3]), epochs=8, opt_args={"lr": 0.02}
    )


@pytest.fixture(scope="session")
def scan(pairs):
    return pairs[3][0]
