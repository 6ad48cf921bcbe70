"""Balls to train on."""

import pytest

from balls import write_ball
from trainings import build


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("balls")
    return [write_ball(folder, number) for number in range(3)]


@pytest.fixture
def train(pairs):
    return build(pairs[:2])


@pytest.fixture
def validate(pairs):
    return build(pairs[2:])
