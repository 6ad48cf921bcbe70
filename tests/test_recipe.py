import json
import math
from dataclasses import replace

import pytest

import recipes
from nobrainer.errors import InputError
from nobrainer.recipe import (
    FORMAT_VERSION,
    Cohort,
    FileRecord,
    ModelConfig,
    Recipe,
    build_record,
    parse_json,
)
from nobrainer.registry import Registry, check_arguments, near_miss


@pytest.fixture
def recipe():
    return recipes.make_recipe(
        model={"args": {"n_classes": 3, "strides": (1, 2)}},
        preprocess={"spacing_mm": (1.0, 1.0, 2.0)},
        data={
            "n_classes": 3,
            "block_shape": (32, 32, 16),
            "relabel": {"2": 1, "41": 1},
            "binarize": "ids",
            "binarize_ids": (2, 41),
        },
        training={
            "loss": "elbo",
            "class_weights": (1.0, 2.0, 2.0),
            "max_minutes": 1.5,
        },
        provenance={
            "files": (FileRecord("sub-01.nii.gz", "train-image", "ab" * 32, 10),)
        },
    )


SEARCH = replace(
    recipes.SEARCH,
    seed=2**62,
    space={
        "block_shape": {"values": ("32x32x32", "64x64x64")},
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    },
    values={"block_shape": "32x32x32", "learning_rate": 0.1 + 0.2, "levels": 3},
    validation={"dice": 0.91, "nll": 1e-9},
    spread={"dice": 1 / 3, "nll": 0.01},
    test_difference=(0.03, -0.01, 0.07),
)


def _searched(recipe, search=SEARCH):
    return replace(recipe, provenance=replace(recipe.provenance, search=search))


def _changed(recipe, path, value):
    raw = json.loads(recipe.to_json())
    *parents, last = path.split(".")
    node = raw
    for name in parents:
        node = node[name]
    node[last] = value
    return json.dumps(raw)


def test_round_trip_is_exact(recipe):
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_round_trip_keeps_the_types(recipe):
    again = Recipe.from_json(recipe.to_json())
    assert again.data.block_shape == (32, 32, 16)
    assert again.data.relabel == {"2": 1, "41": 1}
    assert again.training.class_weights == (1.0, 2.0, 2.0)
    assert again.provenance.files[0].size_bytes == 10


def test_tuples_in_arguments_become_what_json_gives_back(recipe):
    assert recipe.training.opt_args["betas"] == [0.9, 0.99]
    assert recipe.model.args["strides"] == [1, 2]


def test_integers_are_read_as_floats_where_floats_are_due(recipe):
    again = Recipe.from_json(_changed(recipe, "training.max_minutes", 2))
    assert type(again.training.max_minutes) is float


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("data.block_shape", [32, 32], "must have 3 values"),
        ("data.block_shape", 32, "must be a list"),
        ("data.block_shape", [32, 32, "16"], "block_shape must be int, got '16'"),
        ("data.shuffle", 1, "shuffle must be bool, got 1"),
        ("training.epochs", True, "epochs must be int, got True"),
        ("training.max_minutes", True, "max_minutes must be float, got True"),
        ("training.epochs", None, "epochs must be int, got None"),
        ("data.relabel", {"2": "1"}, "relabel.2 must be int, got '1'"),
        ("data.binarize", "idz", "must be one of"),
        ("provenance.metrics", [], "metrics must be dict"),
        ("provenance.metrics", {"dice": "high"}, "metrics.dice must be float"),
        ("model", "vnet", "recipe.model must be a JSON object"),
        ("data.block_shap", [1], "did you mean 'block_shape'"),
        ("format_version", "1", "format_version must be int"),
        ("format_version", FORMAT_VERSION + 1, "upgrade nobrainer"),
    ],
)
def test_refuses_what_it_does_not_understand(recipe, path, value, message):
    with pytest.raises(InputError, match=message):
        Recipe.from_json(_changed(recipe, path, value))


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("[]", "must be a JSON object"), ("{}", "lacks the field")],
)
def test_refuses_text_that_is_no_recipe(text, message):
    with pytest.raises(InputError, match=message):
        Recipe.from_json(text)


ADDED = {
    2: (
        *(("training", "warm_start"), ("training", "warm_start_delta")),
        *(("provenance", "cohort"), ("provenance", "member_seeds")),
    ),
    3: (("provenance", "search"),),
    4: (("preprocess", "outliers"),),
}


@pytest.mark.parametrize("version", [1, 2, 3])
def test_older_formats_are_read_and_kept_in_todays(recipe, version):
    old = json.loads(recipe.to_json()) | {"format_version": version}
    for since, added in ADDED.items():
        for part, name in added if since > version else ():
            del old[part][name]
    assert Recipe.from_json(json.dumps(old)) == recipe
    assert recipe.format_version == FORMAT_VERSION == 4


def test_cohort_and_seeds_go_there_and_back(recipe):
    cohort = Cohort(3, (None, 9.5, 1.25), (None, 0.5, 0.125))
    provenance = replace(recipe.provenance, cohort=cohort, member_seeds=(5, 2**62))
    changed = replace(recipe, provenance=provenance)
    assert Recipe.from_json(changed.to_json()) == changed
    assert cohort.never_seen == ()
    counted = replace(cohort, n_having=(3, 0, 2))
    assert counted.never_seen == (1,)
    told = replace(changed, provenance=replace(provenance, cohort=counted))
    assert Recipe.from_json(told.to_json()) == told
    # As format 3 had it, where who has what was not counted.
    old = json.loads(told.to_json()) | {"format_version": 3}
    del old["provenance"]["cohort"]["n_having"]
    assert Recipe.from_json(json.dumps(old)) == changed


def test_a_search_goes_there_and_back(recipe):
    searched = _searched(recipe)
    again = Recipe.from_json(searched.to_json())
    assert again == searched
    kept = again.provenance.search
    assert kept.objectives == ("dice", "nll")
    assert kept.test_difference == (0.03, -0.01, 0.07)
    assert kept.values["learning_rate"] == 0.1 + 0.2
    # Numbers keep their kind, choices are lists as JSON has them.
    assert type(kept.values["levels"]) is int
    assert kept.space["block_shape"] == {"values": ["32x32x32", "64x64x64"]}
    untested = replace(SEARCH, test=None, baseline_test=None, test_difference=None)
    searched = _searched(recipe, untested)
    assert Recipe.from_json(searched.to_json()) == searched


def test_figures_that_are_not_finite_go_there_and_back(recipe):
    odd = {"dice": math.nan, "nll": math.inf, "aurc": -math.inf}
    text = _searched(recipe, replace(SEARCH, validation=odd)).to_json()
    again = Recipe.from_json(text)
    found = again.provenance.search.validation
    assert math.isnan(found["dice"])
    assert (found["nll"], found["aurc"]) == (math.inf, -math.inf)
    assert again.to_json() == text


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("validation", {"dice": None}, "search.validation.dice must be float"),
        ("validation", {"dice": "0.5"}, "search.validation.dice must be float"),
        ("values", [1], "search.values must be dict"),
        ("run", 1.0, "search.run must be int"),
        ("objectives", "dice", "search.objectives must be a list"),
        ("test_difference", [0.1, 0.2], "test_difference must have 3 values"),
        ("n_run", 1, "did you mean 'n_runs'"),
        ("test", None, "must be given together or not at all"),
    ],
)
def test_a_search_that_is_not_one_is_refused(recipe, name, value, message):
    text = _changed(_searched(recipe), f"provenance.search.{name}", value)
    with pytest.raises(InputError, match=message):
        Recipe.from_json(text)


def test_every_field_of_a_search_but_the_test_must_be_there(recipe):
    raw = json.loads(_searched(recipe).to_json())
    del raw["provenance"]["search"]["spread"]
    with pytest.raises(
        InputError, match=r"provenance\.search lacks the field 'spread'"
    ):
        Recipe.from_json(json.dumps(raw))


def test_newer_format_is_named_before_its_unknown_fields(recipe):
    raw = json.loads(recipe.to_json()) | {"format_version": 99, "novelty": 1}
    with pytest.raises(InputError, match=r"format version 99.*upgrade nobrainer"):
        Recipe.from_json(json.dumps(raw))


def test_arguments_that_cannot_be_stored_are_refused_at_once(recipe):
    with pytest.raises(InputError, match="optimizer arguments"):
        replace(recipe.training, opt_args={"lr": object()})
    with pytest.raises(InputError, match="model arguments"):
        ModelConfig("vnet", {"activation": print})
    with pytest.raises(InputError, match="search values"):
        replace(SEARCH, values={"levels": print})
    with pytest.raises(InputError, match="search space"):
        replace(SEARCH, space={"levels": {2, 3}})


@pytest.mark.parametrize("name", ["/data/sub-01.nii", "C:\\data\\sub-01.nii"])
def test_a_file_record_holds_no_absolute_path(name):
    with pytest.raises(ValueError, match="no absolute path"):
        FileRecord(name, "train-image", "00", 1)


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


def nested(n: int) -> str:
    """A list in a list, n of them."""
    return "[" * n + "]" * n


@pytest.mark.parametrize("n", [65, 990, 1_000_000])
def test_json_that_is_nested_too_deep_is_refused_in_one_line(n):
    for text in (nested(n), '{"a":' * (n - 1) + "[]" + "}" * (n - 1)):
        with pytest.raises(InputError, match=r"^it is not ours: .* too deep$"):
            parse_json(text, "it")


def test_json_of_reasonable_depth_and_size_is_read():
    deep = parse_json(nested(64), "it")
    for _ in range(63):
        (deep,) = deep
    assert deep == []
    assert parse_json(f"[{'9' * 300}]", "it") == [10**300 - 1]
    assert parse_json(b'{"a": [1.5, "\xc3\xa4"]}', "it") == {"a": [1.5, "ä"]}


@pytest.mark.parametrize("digits", [301, 5_000])
def test_a_number_without_end_is_refused_in_one_line(digits):
    with pytest.raises(InputError, match=rf"it is not JSON: a number of {digits} digi"):
        parse_json(f'{{"epochs": {"9" * digits}}}', "it")


@pytest.mark.parametrize("text", ["", "{", b"\xff", "[1,]"])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(InputError, match=r"^it is not JSON: "):
        parse_json(text, "it")


def test_a_message_shows_the_beginning_of_a_long_value():
    with pytest.raises(InputError, match="must be a list") as caught:
        raw = {"n_subjects": 1, "log_mean": "x" * 10**6, "log_sd": []}
        build_record(Cohort, raw, "cohort")
    assert len(str(caught.value)) < 200
