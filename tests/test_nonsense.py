"""Models whose checksums agree and whose contents are nonsense: a line, no network."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from balls import write_ball
from nobrainer.errors import InputError
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.segmentation import Segmentation
from nobrainer.training.checkpoint import LAST, read_checkpoint, write_checkpoint

ARGS = {"base_filters": 2, "levels": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in `model`, and its checkpoints beside it."""
    folder = tmp_path_factory.mktemp("nonsense")
    data = Dataset.from_files([write_ball(folder, 0)], (16, 16, 16)).batch(2).binarize()
    model = Segmentation("bayesian_vnet", ARGS, folder / "checkpoints")
    model.fit(data.patches(per_volume=2)).save(folder / "model")
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    for path in (trained / "model").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def sign(folder: Path) -> None:
    """Make the checksums right again, as someone who means harm would."""
    names = [line[66:] for line in (folder / "SHA256SUMS").read_text().splitlines()]
    digests = [hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names]
    lines = (f"{d}  {n}\n" for d, n in zip(digests, names, strict=True))
    (folder / "SHA256SUMS").write_text("".join(lines))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("model.args.levels", 20, "levels must be at most 12, got 20"),
        ("model.args.levels", 10**30, "levels must be at most 12"),
        ("model.args.levels", 12, "would have more than [0-9]+ weights"),
        ("model.args.base_filters", 10**6, "base_filters must be at most 65536"),
        ("model.args.base_filters", 4096, "would have more than [0-9]+ weights"),
        ("model.args.base_filters", 1, r"is float32 \(2, .*float32 \(1, "),
        ("model.args.n_classes", 3, "model.args is for 3 classes, data for 2"),
        ("model.args.prior_args", [1], "prior_args must be a mapping"),
        ("model.name", "vnet", "weight' is missing from the weights"),
        ("model.name", "callable:os.system", "a network of your own"),
        ("data.n_classes", 10**9, "n_classes must be at most 4096"),
        ("data.block_shape", [16, -16, 16], "block_shape must be a whole number >= 1"),
        ("data.block_shape", [16, 0, 16], "block_shape must be a whole number >= 1"),
        ("data.batch_size", 0, "batch_size must be a whole number >= 1"),
        ("data.foreground", math.nan, "foreground must be a number from 0 to 1"),
        ("data.binarize_ids", [10**30], "binarize_ids must be at most 2147483647"),
        ("data.relabel", {"-1": 1}, "relabel must map label values from 0"),
        ("training.class_weights", [math.nan, 1], "class_weights must be finite"),
        ("training.class_weights", [1, 1, 1], "class_weights is for 3 classes"),
        ("training.opt_args", {"lr": math.inf}, r"opt_args\.lr must be finite"),
        ("training.epochs", -1, "epochs must be a whole number >= 1"),
        (
            "training.gradient_clip",
            -1.0,
            "gradient_clip must be a number > 0 and finite",
        ),
        ("preprocess.orientation", "RAX", "orientation must be three axis codes"),
        ("preprocess.spacing_mm", [1.0, 0.0, 1.0], "spacing_mm must be a number > 0"),
        ("preprocess.normalize", "zscor", "did you mean 'zscore'"),
    ],
)
def test_a_recipe_out_of_bounds_is_refused(
    copy: Path, place: str, value: Any, message: str
) -> None:
    recipe = json.loads((copy / "recipe.json").read_text())
    *path, name = place.split(".")
    section = recipe
    for part in path:
        section = section[part]
    section[name] = value
    (copy / "recipe.json").write_text(json.dumps(recipe))
    sign(copy)
    with pytest.raises(InputError, match=message) as caught:
        Segmentation.load(copy)
    text = str(caught.value)
    assert str(copy) in text and "\n" not in text and len(text) < 500


BIAS = "encode.0.first.1.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w[BIAS].fill_(math.nan), f"'{BIAS}' holds NaN or infinity"),
        (lambda w: w[BIAS].fill_(math.inf), f"'{BIAS}' holds NaN or infinity"),
        (lambda w: w.pop("encode.0.first.1.running_mean"), "running_mean' is missing"),
        (lambda w: w.update({BIAS: w[BIAS].to(torch.int8)}), f"'{BIAS}' is int8"),
        (lambda w: w.update({BIAS: w[BIAS].double()}), f"'{BIAS}' is float64"),
        (lambda w: w.update({BIAS: w[BIAS][:1].clone()}), rf"'{BIAS}' is .* \(1,\) in"),
    ],
)
def test_weights_that_are_nonsense_are_refused(
    copy: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    weights = load_file(copy / "weights.safetensors")
    change(weights)
    save_file(weights, copy / "weights.safetensors")
    sign(copy)
    with pytest.raises(InputError, match=message) as caught:
        Segmentation.load(copy)
    assert str(copy) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("history.jsonl", "3\n", "a row of the history must be numbers and text"),
        ("history.jsonl", '{"epoch": [1]}\n', "a row of the history must be numbers"),
        ("history.jsonl", "[" * 10**6, "nested too deep"),
        ("recipe.json", '{"a": ' * 10**6, "nested too deep"),
        (
            "labels.tsv",
            "index\tname\n0\ta\n1\tb\n2\tc\n",
            "labels are 3, the",
        ),
    ],
)
def test_other_files_that_are_nonsense_are_refused(
    copy: Path, name: str, text: str, message: str
) -> None:
    (copy / name).write_text(text)
    sign(copy)
    with pytest.raises(InputError, match=message) as caught:
        Segmentation.load(copy)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"history": (3,)}, "a row of the history must be"),
        ({"optimizer": {"state": {}, "param_groups": 3}}, ""),
        ({"best": 7}, "does not hold together"),
        ({"weights": {"head.weight": torch.ones(1)}}, "is missing from the weights"),
    ],
)
def test_a_checkpoint_that_is_nonsense_is_refused(
    trained: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    checkpoint = read_checkpoint(trained / "checkpoints" / LAST)
    for name, value in changes.items():
        object.__setattr__(checkpoint, name, value)
    write_checkpoint(checkpoint, tmp_path / LAST)
    data = Dataset.from_files([write_ball(trained, 0)], (16, 16, 16)).batch(2)
    data = data.binarize().patches(per_volume=2)
    model = Segmentation("bayesian_vnet", ARGS, tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        model.fit(data, epochs=2, resume=True)
    assert str(tmp_path / LAST) in str(caught.value)
