"""What a training writes down of its data, its files and its software."""

import hashlib
import json
from pathlib import Path

import torch

from nested_balls import BLOCK, TINY, ball, build, grid, write_ball
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.segmentation import Segmentation


def test_recipe_records_what_was_used(pairs, tmp_path):
    fitted = Segmentation("bayesian_vnet", TINY["bayesian_vnet"]).fit(
        build(pairs[:2], foreground=0.25).augment().shuffle(),
        build(pairs[2:3]),
        epochs=2,
        optimizer=torch.optim.AdamW,
        opt_args={"lr": 0.005, "betas": (0.8, 0.9)},
        loss="dice_ce",
        class_weights=[1, 2],
        seed=42,
        gradient_clip=0.5,
        accumulate=2,
        patience=5,
        max_minutes=10,
    )
    recipe = fitted.recipe_
    assert recipe.model.args == TINY["bayesian_vnet"] | {"n_classes": 2}
    training = recipe.training
    assert training.optimizer == "torch.optim.adamw.AdamW"
    assert training.opt_args == {"lr": 0.005, "betas": [0.8, 0.9]}
    assert (training.loss, training.class_weights) == ("dice_ce", (1.0, 2.0))
    assert (training.seed, training.epochs, training.accumulate) == (42, 2, 2)
    assert (training.gradient_clip, training.precision) == (0.5, "32-true")
    assert (training.patience, training.max_minutes) == (5, 10)
    data = recipe.data
    assert (data.block_shape, data.batch_size) == (BLOCK, 2)
    assert (data.patches_per_volume, data.foreground) == (8, 0.25)
    assert (data.augment, data.shuffle, data.binarize) == ("standard", True, "nonzero")
    assert recipe.preprocess.spacing_mm == (1, 1, 1)
    provenance = recipe.provenance
    roles = ["train-image", "train-label"] * 2 + ["validate-image", "validate-label"]
    assert [record.role for record in provenance.files] == roles
    used = [path for pair in pairs[:3] for path in pair]
    for record, path in zip(provenance.files, used, strict=True):
        raw = path.read_bytes()
        assert record.name == path.name
        assert record.sha256 == hashlib.sha256(raw).hexdigest()
        assert record.size_bytes == len(raw)
    assert provenance.started <= provenance.ended
    assert provenance.versions["torch"] == torch.__version__
    best = max(fitted.history_, key=lambda row: row["validation_dice"])
    assert provenance.metrics["validation_dice"] == best["validation_dice"]
    folder = fitted.save(tmp_path / "model")
    for path in folder.glob("*.json*"):
        # Neither a path of this machine nor a user's name.
        assert str(pairs[0][0].parent) not in path.read_text(), path.name
        assert str(Path.home()) + "/" not in path.read_text(), path.name
    assert json.loads((folder / "recipe.json").read_text())["training"]["seed"] == 42


def test_file_names_tell_folders_apart(tmp_path):
    pairs = []
    for number in range(2):
        folder = tmp_path / f"sub-{number}" / "anat"
        folder.mkdir(parents=True)
        image, mask = write_ball(folder, number)
        pairs.append(
            (image.rename(folder / "T1w.nii.gz"), mask.rename(folder / "mask.nii.gz"))
        )
    fitted = Segmentation("vnet", TINY["vnet"]).fit(build(pairs))
    names = [record.name for record in fitted.recipe_.provenance.files]
    assert names == [
        f"sub-{n}/anat/{name}.nii.gz" for n in range(2) for name in ("T1w", "mask")
    ]


def test_arrays_have_no_file_record(tmp_path):
    pair = [(array, grid()) for array in ball(0)]
    fitted = Segmentation("vnet", TINY["vnet"]).fit(build([tuple(pair)]))
    assert fitted.recipe_.provenance.files == ()
    assert Segmentation.load(fitted.save(tmp_path / "m")).recipe_ == fitted.recipe_


def test_own_binarizer_is_recorded_by_name(pairs, scan):
    def empty_half(labels):
        return labels[..., ::-1] == 0

    data = Dataset.from_files(pairs[:1], BLOCK).binarize(empty_half)
    fitted = Segmentation("vnet", TINY["vnet"]).fit(data.patches(per_volume=2))
    assert fitted.recipe_.data.binarize == "callable"
    assert fitted.recipe_.data.binarize_name.endswith("empty_half")
