"""A generator on disk."""

import json
from dataclasses import replace

import mlcroissant as mlc
import pytest
import torch

from nobrainer.bundle import (
    GeneratorBundle,
    is_model,
    load,
    load_generator,
    save,
)
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.recipe import (
    AdversarialConfig,
    FileRecord,
    GeneratorRecipe,
    ImagesConfig,
    ModelConfig,
    PreprocessConfig,
    Provenance,
)

FILES = ("weights.safetensors", "recipe.json", "labels.tsv", "history.jsonl")
WRITTEN = {*FILES, "README.md", "croissant.json", "SHA256SUMS"}
RECIPE = GeneratorRecipe(
    ModelConfig("progressivegan", {"latent_size": 4, "n_classes": 2}),
    ImagesConfig((8, 8, 8), (6.0, 6.0, 6.0), -2.5, 3.0, 2, 7, PreprocessConfig()),
    AdversarialConfig(None, 4, 1e-3, 1.0, 4, 0.99, 0),
    Provenance(
        started="2025-01-02T03:04:05+00:00",
        ended="2025-01-02T03:05:05+00:00",
        versions={"nobrainer": "0.1.0"},
        files=(FileRecord("sub-1.nii", "train-image", "0" * 64, 10),),
        metrics={"frechet": 1.25, "dice_real": 0.875},
        n_synthetic=7,
    ),
)
ROW = {"epoch": 1, "step": 3, "resolution": 8, "critic_loss": 1.5}


@pytest.fixture
def made():
    labels = LabelTable(("background", "brain"), ids=(0, 2))
    return GeneratorBundle(RECIPE, {"w": torch.arange(6.0).view(2, 3)}, labels, (ROW,))


def test_a_generator_comes_back_whole(made, tmp_path):
    folder = save(made, tmp_path / "generator")
    assert {path.name for path in folder.iterdir()} == WRITTEN
    assert is_model(folder)
    again = load_generator(folder)
    assert (again.recipe, again.labels, again.history) == (RECIPE, made.labels, (ROW,))
    assert torch.equal(again.weights["w"], made.weights["w"])
    with pytest.raises(InputError, match="overwrite=True"):
        save(made, folder)
    images = replace(RECIPE.images, n_classes=0)
    bare = GeneratorBundle(replace(RECIPE, images=images), made.weights, None, (ROW,))
    save(bare, folder, overwrite=True)
    assert {path.name for path in folder.iterdir()} == WRITTEN - {"labels.tsv"}
    assert load_generator(folder).labels is None


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_or_missing_file_is_named(made, tmp_path, name):
    folder = save(made, tmp_path / "generator")
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-2] + b"\n\n")
    with pytest.raises(InputError, match=f"{name}: truncated or changed"):
        load_generator(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        load_generator(folder)


def test_models_and_generators_are_told_apart(made, tmp_path, saved):
    folder = save(made, tmp_path / "generator")
    with pytest.raises(InputError, match=r"generator of images: load it with Gen"):
        load(folder)
    with pytest.raises(InputError, match=r"model that segments: load it with Segm"):
        load_generator(saved)


def test_its_metadata_describe_every_file_and_read_back(made, tmp_path):
    folder = save(made, tmp_path / "generator")
    dataset = mlc.Dataset(folder / "croissant.json")
    issues = dataset.metadata.ctx.issues
    assert not issues.errors
    assert not issues.warnings
    (row,) = dataset.records("history")
    assert row["history/step"] == 3
    document = json.loads((folder / "croissant.json").read_text())
    listed = {file["name"] for file in document["distribution"]}
    assert listed == WRITTEN - {"croissant.json", "SHA256SUMS"}
    figures = {p["name"]: p["value"] for p in document["additionalProperty"]}
    assert figures == {"frechet": 1.25, "dice_real": 0.875}
    parameters = document["prov:wasGeneratedBy"]["additionalProperty"]
    told = {p["name"]: p["value"] for p in parameters}
    assert told["training.penalty_every"] == 4
    assert told["images.shape"] == "[8, 8, 8]"


def test_its_card_says_what_it_makes_and_where_it_falls_short(made, tmp_path):
    card = (save(made, tmp_path / "generator") / "README.md").read_text()
    for text in (
        "Images of 8 x 8 x 8 voxels of 6 x 6 x 6 mm, with normalised intensities",
        "| 2 | brain |",
        "for 3 steps",
        "| Fréchet distance | 1.25 |",
        "comes from 7 images, 7 of them synthetic",
        "pairs = generator.generate(4, seed=0, labels=True)",
    ):
        assert text in card


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("images", {"low": 3.0}, "images.low"),
        ("images", {"shape": (8, 8, 0)}, "images.shape"),
        ("training", {"batch_size": 1}, "batch_size"),
        ("training", {"averaging": 1}, "averaging"),
        ("training", {"penalty": -1}, "penalty"),
        ("training", {"learning_rate": 0}, "learning_rate"),
    ],
)
def test_records_refuse_what_cannot_be(part, change, said):
    with pytest.raises(InputError, match=said):
        replace(getattr(RECIPE, part), **change)
