"""Named choices: a mapping whose errors name the near miss."""

import pytest

from nobrainer.errors import InputError
from nobrainer.registry import Registry


@pytest.fixture
def colours():
    registry = Registry("colour")
    registry.register("red")(1)
    registry.register("green")(2)
    return registry


def test_registry_is_a_mapping_in_order_of_registration(colours):
    assert list(colours) == ["red", "green"]
    assert len(colours) == 2
    assert colours["green"] == 2
    assert dict(colours) == {"red": 1, "green": 2}
    assert "blue" not in colours


def test_register_gives_back_the_entry(colours):
    entry = object()
    assert colours.register("blue")(entry) is entry
    assert colours["blue"] is entry


def test_unknown_name_suggests_the_near_miss(colours):
    with pytest.raises(InputError) as error:
        colours["gren"]
    assert str(error.value) == (
        "unknown colour 'gren': did you mean 'green'? known: green, red"
    )


def test_a_name_is_checked_without_loading_its_entry(colours):
    colours.locate("grey", "no.such.module:grey")
    colours.check("grey")
    with pytest.raises(InputError, match="unknown colour 'gray': did you mean 'grey'"):
        colours.check("gray")


def test_a_name_that_belongs_elsewhere_says_where(colours):
    colours.refer("oak", "is a wood: see woods")
    assert "oak" not in colours
    with pytest.raises(InputError, match=r"^colour 'oak' is a wood: see woods$"):
        colours["oak"]
