import json
from dataclasses import replace

import pytest

from nobrainer.errors import InputError
from nobrainer.recipe import (
    FORMAT_VERSION,
    Cohort,
    DataConfig,
    FileRecord,
    ModelConfig,
    PreprocessConfig,
    Provenance,
    Recipe,
    TrainingConfig,
)
from nobrainer.registry import Registry, check_arguments, near_miss


@pytest.fixture
def recipe():
    return Recipe(
        model=ModelConfig("bayesian_vnet", {"n_classes": 3, "strides": (1, 2)}),
        preprocess=PreprocessConfig(spacing_mm=(1.0, 1.0, 2.0)),
        data=DataConfig(
            n_classes=3,
            block_shape=(32, 32, 16),
            batch_size=2,
            patches_per_volume=8,
            foreground=0.5,
            shuffle=True,
            relabel={"2": 1, "41": 1},
            binarize="ids",
            binarize_ids=(2, 41),
        ),
        training=TrainingConfig(
            epochs=3,
            optimizer="Adam",
            opt_args={"lr": 1e-3, "betas": (0.9, 0.99)},
            loss="elbo",
            class_weights=(1.0, 2.0, 2.0),
            schedule="constant",
            seed=7,
            precision="32",
            gradient_clip=None,
            accumulate=1,
            patience=None,
            max_minutes=1.5,
        ),
        provenance=Provenance(
            started="2025-01-02T03:04:05+00:00",
            ended="2025-01-02T03:05:05+00:00",
            versions={"nobrainer": "0.1.0"},
            files=(FileRecord("sub-01.nii.gz", "train-image", "ab" * 32, 10),),
            metrics={"validation_dice": 0.5},
        ),
    )


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


def test_the_first_format_is_read_and_kept_in_todays(recipe):
    old = json.loads(recipe.to_json()) | {"format_version": 1}
    for part, added in (
        ("training", ("warm_start", "warm_start_delta")),
        ("provenance", ("cohort", "member_seeds")),
    ):
        for name in added:
            del old[part][name]
    assert Recipe.from_json(json.dumps(old)) == recipe
    assert recipe.format_version == FORMAT_VERSION == 2


def test_cohort_and_seeds_go_there_and_back(recipe):
    cohort = Cohort(3, (None, 9.5, 1.25), (None, 0.5, 0.125))
    provenance = replace(recipe.provenance, cohort=cohort, member_seeds=(5, 2**62))
    changed = replace(recipe, provenance=provenance)
    assert Recipe.from_json(changed.to_json()) == changed


def test_newer_format_is_named_before_its_unknown_fields(recipe):
    raw = json.loads(recipe.to_json()) | {"format_version": 99, "novelty": 1}
    with pytest.raises(InputError, match=r"format version 99.*upgrade nobrainer"):
        Recipe.from_json(json.dumps(raw))


def test_arguments_that_cannot_be_stored_are_refused_at_once(recipe):
    with pytest.raises(InputError, match="optimizer arguments"):
        replace(recipe.training, opt_args={"lr": object()})
    with pytest.raises(InputError, match="model arguments"):
        ModelConfig("vnet", {"activation": print})


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
