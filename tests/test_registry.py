import pytest

from nobrainer.errors import InputError
from nobrainer.recipe import ModelConfig
from nobrainer.registry import Registry, check_arguments, near_miss


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


def test_no_suggestion_when_nothing_is_near():
    assert str(near_miss("colour", "xyz", ["red"])) == (
        "unknown colour 'xyz': known: red"
    )


def test_check_arguments_reads_functions_and_constructors():
    def function(a, /, levels, *, filters=8):
        return a, levels, filters

    check_arguments("argument", function, {"levels": 1, "filters": 2})
    with pytest.raises(InputError, match="did you mean 'levels'"):
        check_arguments("argument", function, {"level": 1})
    with pytest.raises(InputError, match="unknown argument 'a'"):
        check_arguments("argument", function, {"a": 1})
    check_arguments("argument", ModelConfig, {"name": "vnet"})
    with pytest.raises(InputError, match="did you mean 'name'"):
        check_arguments("argument", ModelConfig, {"nam": "vnet"})
