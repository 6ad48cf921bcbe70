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
    Fold,
    ModelConfig,
    Recipe,
)


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
            "files": (FileRecord("sub-01.nii.gz", "train-image", "ab" * 32, 10),),
            "folds": (Fold(("sub-01",), 1, ("ab" * 32,)), Fold(("b", "c"), 3, ())),
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
        ("training.seed", None, "seed must be int, got None"),
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
    4: (
        *(("preprocess", "outliers"), ("preprocess", "bright_air")),
        ("training", "folds"),
    ),
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
