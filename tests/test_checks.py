"""What each check of a value takes, and in which words it refuses the rest."""

import math

import numpy as np
import pytest

from nobrainer.checks import (
    check_arguments,
    check_between,
    check_choice,
    check_count,
    check_dilations,
    check_kl_weight,
    check_positive,
    check_share,
    check_size,
    near_miss,
    shorten,
)
from nobrainer.errors import InputError
from nobrainer.recipe import ModelConfig


@pytest.mark.parametrize(
    ("check", "taken"),
    [
        (lambda value: check_count("n", value, 2, 5), [2, 5]),
        (lambda value: check_positive("n", value), [1, 1e-300, np.float64(2), 10**400]),
        (lambda value: check_share("n", value), [0, 0.5, 1]),
        (lambda value: check_between("n", value), [1e-9, 0.999]),
        (check_kl_weight, ["elbo", 0, 2.5]),
        (check_dilations, [[1], (1, 2, 1024)]),
    ],
)
def test_what_is_in_bounds_is_taken(check, taken):
    for value in taken:
        check(value)


@pytest.mark.parametrize(
    ("check", "refused", "rule"),
    [
        (
            lambda value: check_count("n", value, 2),
            [1, 2.0, "2", True, None, math.nan],
            "n must be a whole number >= 2, got ",
        ),
        (lambda value: check_count("n", value, 2, 5), [6], "n must be at most 5, got "),
        (
            lambda value: check_positive("n", value),
            [0, -1, math.inf, math.nan, "1", True, None],
            "n must be a number > 0 and finite, got ",
        ),
        (
            lambda value: check_share("n", value),
            [-1e-9, 1.5, math.nan, "0", True],
            "n must be a number from 0 to 1, got ",
        ),
        (
            lambda value: check_between("n", value),
            [0, 1, -0.5, math.nan, None, False],
            "n must be between 0 and 1, got ",
        ),
        (
            check_kl_weight,
            ["ELBO", -1, math.inf, True],
            "kl_weight must be 'elbo' or a number >= 0, got ",
        ),
        (
            check_dilations,
            [[], 3, None],
            "dilations must list whole numbers, got ",
        ),
    ],
)
def test_what_is_out_of_bounds_is_named(check, refused, rule):
    for value in refused:
        with pytest.raises(InputError) as error:
            check(value)
        assert str(error.value) == f"{rule}{value!r}"


@pytest.mark.parametrize(
    ("size", "rule"),
    [
        ((0, 2, 4), "in_channels must be a whole number >= 1, got 0"),
        ((1, 1, 4), "n_classes must be a whole number >= 2, got 1"),
        ((1, 4097, 4), "n_classes must be at most 4096, got 4097"),
        ((1, 2, 65_537), "base_filters must be at most 65536, got 65537"),
    ],
)
def test_the_size_of_a_network_has_bounds(size, rule):
    check_size(1, 2, 1)
    check_size(65_536, 4096, 65_536)
    with pytest.raises(InputError) as error:
        check_size(*size)
    assert str(error.value) == rule


def test_a_long_value_is_shown_by_its_beginning():
    assert shorten("a" * 78) == repr("a" * 78)
    assert shorten("a" * 79) == "'" + "a" * 79 + "..."


def test_a_choice_suggests_the_near_miss():
    check_choice("colour", "red", {"red": 1})
    with pytest.raises(InputError) as error:
        check_choice("colour", "rad", iter(["red", "blue"]))
    assert str(error.value) == (
        "unknown colour 'rad': did you mean 'red'? known: blue, red"
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
