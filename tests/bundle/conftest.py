from dataclasses import replace

import pytest

from bundles import CALIBRATION, QUALITY, make_bundle
from nobrainer.bundle import save


@pytest.fixture
def bundle():
    return make_bundle()


@pytest.fixture
def saved(bundle, tmp_path):
    return save(bundle, tmp_path / "model")


@pytest.fixture
def fitted(bundle, tmp_path):
    """A saved model with everything that is fitted after training."""
    full = replace(bundle, calibration=CALIBRATION, quality=QUALITY)
    return save(full, tmp_path / "fitted")
