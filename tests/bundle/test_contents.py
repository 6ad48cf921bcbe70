"""The weights of a model in half precision: what is rounded, and what is not."""

import json
from dataclasses import replace

import mlcroissant as mlc
import pytest
import torch
from safetensors.torch import load_file

from bundles import assert_same, contents, sign
from nobrainer.bundle import load, save
from nobrainer.errors import InputError

# Halfway between two numbers of each format, where the even one is taken: float16 has
# 10 bits after the first one, bfloat16 has 7.
ROUNDED = {
    "float16": ([1 + 2**-11, 1 + 3 * 2**-11], [1.0, 1 + 2**-9]),
    "bfloat16": ([1 + 2**-8, 1 + 3 * 2**-8], [1.0, 1 + 2**-6]),
}
HALVES = pytest.mark.parametrize("kept", ROUNDED)


def in_format(bundle, kept, **weights):
    model = replace(bundle.recipe.model, weights=kept)
    return replace(
        bundle, recipe=replace(bundle.recipe, model=model), weights=dict(weights)
    )


@HALVES
def test_kernels_are_rounded_to_even_and_come_back_as_float32(bundle, tmp_path, kept):
    given, wanted = ROUNDED[kept]
    half = in_format(bundle, kept, **{"conv.weight": torch.tensor([given])})
    folder = save(half, tmp_path / "model")
    in_file = load_file(folder / "weights.safetensors")["conv.weight"]
    assert in_file.dtype == getattr(torch, kept)
    back = load(folder)
    assert back.weights["conv.weight"].dtype == torch.float32
    assert back.weights["conv.weight"].tolist() == [wanted]
    assert back.recipe.model.weights == kept


@HALVES
def test_vectors_and_whole_numbers_are_kept_to_the_bit(bundle, tmp_path, kept):
    third = torch.tensor([1 / 3])
    half = in_format(
        bundle,
        kept,
        **{
            "norm.running_mean": third,
            "norm.running_var": third + 1,
            "norm.num_batches_tracked": torch.tensor(7),
            "conv.bias_posterior.mean": third,
            "table": torch.tensor([[1, 70000]]),
        },
    )
    folder = save(half, tmp_path / "model")
    assert_same(load(folder), half)
    assert load_file(folder / "weights.safetensors")["norm.running_mean"] == third


@HALVES
def test_a_model_in_half_precision_is_half_as_large_and_saves_the_same_again(
    bundle, tmp_path, kept
):
    weights = {"conv.weight": torch.randn(64, 1000, generator=torch.manual_seed(0))}
    whole = save(in_format(bundle, "float32", **weights), tmp_path / "whole")
    half = save(in_format(bundle, kept, **weights), tmp_path / "half")
    sizes = [(f / "weights.safetensors").stat().st_size for f in (whole, half)]
    # 64,000 numbers; the rest is the header.
    assert sizes[0] - sizes[1] == pytest.approx(2 * 64000, abs=8)
    again = save(load(half), tmp_path / "again")
    assert contents(again) == contents(half)


def test_the_metadata_describe_the_file_in_half_precision(bundle, tmp_path):
    weights = {"conv.weight": torch.ones(4, 4)}
    folder = save(in_format(bundle, "float16", **weights), tmp_path / "model")
    size = (folder / "weights.safetensors").stat().st_size
    document = json.loads((folder / "croissant.json").read_text())
    of_file = {one["name"]: one for one in document["distribution"]}
    assert of_file["weights.safetensors"]["contentSize"] == f"{size} B"
    # Reading a table through the metadata checks the checksum, too.
    assert len(list(mlc.Dataset(folder / "croissant.json").records("labels"))) == 3
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| model.weights | float16 |" in card


def test_numbers_beyond_float16_are_refused_and_fit_into_bfloat16(bundle, tmp_path):
    weights = {"conv.weight": torch.tensor([[70000.0]])}
    with pytest.raises(InputError, match=r"'conv\.weight'.*too large for float16"):
        save(in_format(bundle, "float16", **weights), tmp_path / "model")
    assert not list(tmp_path.iterdir())
    folder = save(in_format(bundle, "bfloat16", **weights), tmp_path / "model")
    # 70,000 lies between 136 and 137 times 512.
    assert load(folder).weights["conv.weight"].item() == 137 * 512


@HALVES
def test_a_kernel_that_the_network_has_in_this_format_is_refused(
    bundle, tmp_path, kept
):
    own = {"own": torch.ones(2, 2, dtype=getattr(torch, kept))}
    with pytest.raises(InputError, match=f"'own' is {kept} in the network itself"):
        save(in_format(bundle, kept, **own), tmp_path / "model")
    assert_same(
        load(save(in_format(bundle, "float32", **own), tmp_path / "model")),
        in_format(bundle, "float32", **own),
    )


def test_a_format_that_is_none_is_named(bundle):
    with pytest.raises(InputError, match=r"format of weights 'float8'.*float16"):
        replace(bundle.recipe.model, weights="float8")


def test_a_recipe_without_the_format_is_of_float32(bundle, saved):
    raw = json.loads((saved / "recipe.json").read_text())
    del raw["model"]["weights"]
    (saved / "recipe.json").write_text(json.dumps(raw))
    sign(saved)
    assert_same(load(saved), bundle)
