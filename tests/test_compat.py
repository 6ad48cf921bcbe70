"""Old names, and what stands for them."""

from importlib import import_module

import pytest

import nobrainer
from nobrainer import models
from nobrainer.compat import OLD_NAMES
from nobrainer.models import list_available_models
from nobrainer.models.listing import print_models
from nobrainer.training import get_device
from nobrainer.training.engine import default_device


@pytest.mark.parametrize(("old", "place"), OLD_NAMES.items())
def test_an_old_name_gives_what_stands_for_it(old: str, place: str) -> None:
    package, _, name = old.rpartition(".")
    module, _, ours = place.partition(".")
    found = getattr(import_module(package), name)
    assert found is getattr(import_module(f"{package}.{module}"), ours)
    # A name of our own needs no second one.
    assert name not in vars(import_module(package))


def test_a_package_with_old_names_still_lacks_others() -> None:
    for package in (models, nobrainer.training):
        with pytest.raises(AttributeError, match="list_availabel_models"):
            _ = package.list_availabel_models


def test_programs_find_what_they_import() -> None:
    assert list_available_models is print_models
    assert get_device is default_device
