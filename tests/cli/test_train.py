"""`nobrainer train`: what it refuses, goes on with, starts from and keeps."""

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import nobrainer as nb
from commands import (
    PROGRAM,
    SMALL_MODEL,
    TRAIN_OPTIONS,
    errors_of,
    nobrainer_,
    write_table,
)
from nobrainer.posthoc import Calibration, QualityModel

pytestmark = pytest.mark.slow(seconds=20)


def test_train_ends_after_steps_and_works_at_a_spacing(
    scans: Path, tmp_path: Path
) -> None:
    args = (
        *("train", "--data", scans / "scans.csv", "--output-dir", tmp_path / "m"),
        *("--binarize", "--model", "vnet", "--model-arg", "base_filters=1"),
        *("--model-arg", "levels=1", "--block-shape", 8, 8, 8, "--spacing", 2, 2, 3),
        *("--patches-per-volume", 1, "--max-steps", 3, "--averaging", 0.9),
        *("--foreground", 1, "--balanced", 0.25, "--schedule", "late-cosine"),
        *("--gradient-clip", 2, "--optimizer-arg", "betas=[0.9, 0.98]"),
    )
    result = nobrainer_(*args)
    assert result.exit_code == 0, result.stderr
    story = json.loads(nobrainer_("info", tmp_path / "m", "--json").stdout)
    assert story["recipe"]["preprocess"]["spacing_mm"] == [2, 2, 3]
    training = story["recipe"]["training"]
    assert (training["epochs"], training["max_steps"]) == (None, 3)
    assert (training["averaging"], training["gradient_clip"]) == (0.9, 2)
    assert training["schedule"] == "late-cosine"
    assert training["opt_args"] == {"lr": 0.003, "betas": [0.9, 0.98]}
    data = story["recipe"]["data"]
    assert (data["foreground"], data["balanced"]) == (1, 0.25)
    # Three scans in batches of two: two steps an epoch.
    assert [row["steps"] for row in story["history"]] == [2, 1]


def test_train_refuses_before_it_trains(scans: Path, model: Path) -> None:
    before = (model / "weights.safetensors").read_bytes()
    data = ("train", "--data", scans / "scans.csv")
    taken = nobrainer_(*data, *TRAIN_OPTIONS, "--output-dir", model)
    assert taken.exit_code == 2
    assert taken.stderr == (
        f"nobrainer: error: {model}: a model is already there: give another directory, "
        "or --overwrite to replace it\n"
    )
    assert (model / "weights.safetensors").read_bytes() == before
    foreign = nobrainer_(*data, *TRAIN_OPTIONS, "--output-dir", scans, "--overwrite")
    assert foreign.exit_code == 2
    assert "not a model" in foreign.stderr
    near = nobrainer_(
        *data, "--output-dir", scans / "x", "--binarize", "--model-arg", "lvels=2"
    )
    assert near.exit_code == 2
    assert "did you mean 'levels'" in near.stderr
    assert not (scans / "x").exists()


def test_a_finished_training_that_is_resumed_keeps_its_model(
    scans: Path, tmp_path: Path
) -> None:
    small = ("--model-arg", "base_filters=2", "--model-arg", "levels=1")
    for members in ((), ("--members", 2)):
        folder = tmp_path / str(len(members))
        command = (
            *("train", "--data", scans / "scans.csv", "--binarize", "--model", "vnet"),
            *(*small, *members, "--block-shape", 16, 16, 16, "--patches-per-volume", 2),
            *("--output-dir", folder / "m", "--checkpoint-dir", folder / "c"),
            *("--resume", "--epochs"),
        )
        first = nobrainer_(*command, 1)
        assert first.exit_code == 0, first.stderr
        kept = {path: path.stat().st_mtime_ns for path in (folder / "m").iterdir()}
        again = nobrainer_(*command, 1)
        assert again.exit_code == 0, again.stderr
        assert again.stdout == first.stdout == f"{folder / 'm'}\n"
        last = again.stderr.splitlines()[-1]
        assert last == "nobrainer: the training is finished: the model is kept"
        assert kept == {p: p.stat().st_mtime_ns for p in (folder / "m").iterdir()}
        more = nobrainer_(*command, 2)
        assert more.exit_code == 2 and "a model is already there" in more.stderr
        other = nobrainer_(*command, 1, "--learning-rate", 0.5)
        assert other.exit_code == 2 and "cannot resume" in other.stderr


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--model-arg", "levels"), "--model-arg levels: must be KEY=VALUE"),
        (("--optimizer-arg", "beta=0"), "did you mean 'betas'"),
        (("--schedule", "cosin"), "did you mean 'cosine'"),
        (("--validate", "some"), "--validate some: must be a share"),
        (("--relabel", "7-class"), "did you mean '6-class'"),
        (("--relabel", "aseg", "--n-classes", "3"), "aseg: has 46 classes with"),
        (("--relabel", "aseg", "--n-classes", "2"), "relabel: has 46 classes with"),
        (("--data", "missing.csv"), "missing.csv: no such file"),
    ],
)
def test_bad_options_are_one_line(
    scans: Path, tmp_path: Path, option: tuple[str, ...], message: str
) -> None:
    start = ("train", "--data", scans / "scans.csv", "--output-dir", tmp_path / "m")
    result = nobrainer_(*start, *option)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("features,labels\n", "has no rows"),
        ("image,label\na.nii,b.nii\n", "its header is image, label, without"),
        ("features,labels\na.nii,b.nii\nc.nii\n", "line 3: needs a path in each"),
    ],
)
def test_a_bad_table_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "table.csv"
    table.write_text(text)
    result = nobrainer_("train", "--data", table, "--output-dir", tmp_path / "m")
    assert result.exit_code == 2
    assert message in result.stderr and str(table) in result.stderr


def test_interrupt_says_where_the_weights_are(scans: Path, tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    process = subprocess.Popen(
        [
            *PROGRAM,
            *("train", "--data", scans / "scans.csv", "--output-dir", tmp_path / "m"),
            *map(str, TRAIN_OPTIONS),
            *("--epochs", "100000", "--checkpoint-dir", checkpoints),
        ],
        stderr=subprocess.PIPE,
        text=True,
        # A suite run in the background of a shell ignores it, and its children do.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not checkpoints.is_dir() or not any(checkpoints.iterdir()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    *epochs, line = stderr.splitlines()
    assert all(row.startswith("epoch ") for row in epochs)
    assert line.startswith("nobrainer: interrupted in epoch ")
    assert str(checkpoints) in line


def test_train_an_ensemble_and_start_from_a_deterministic_model(
    balls: Path, tmp_path: Path
) -> None:
    data = ("train", "--data", balls / "train.csv", *SMALL_MODEL)
    plain, three = tmp_path / "plain", tmp_path / "two"
    result = nobrainer_(*data, "--model", "vnet", "--members", 2, "--output-dir", three)
    assert result.exit_code == 0, result.stderr
    recipe = json.loads(nobrainer_("info", three, "--json").stdout)["recipe"]
    assert recipe["model"]["name"] == "ensemble"
    assert [name for name, _ in recipe["model"]["args"]["members"]] == ["vnet"] * 2
    assert len(set(recipe["provenance"]["member_seeds"])) == 2
    text = nobrainer_("info", three).stdout
    assert "  member 1             name vnet, base_filters 1, levels 1" in text
    one = nobrainer_(*data, "--members", 1, "--output-dir", tmp_path / "one")
    assert one.exit_code == 2 and "--members" in one.stderr

    done = nobrainer_(*data, "--model", "vnet", "--output-dir", plain)
    assert done.exit_code == 0, done.stderr
    warm = nobrainer_(*data, "--warm-start", plain, "--output-dir", tmp_path / "warm")
    assert warm.exit_code == 0, warm.stderr
    story = json.loads(nobrainer_("info", tmp_path / "warm", "--json").stdout)
    assert len(story["recipe"]["training"]["warm_start"]) == 64
    wrong = nobrainer_(*data, "--warm-start", three, "--output-dir", tmp_path / "w")
    assert wrong.exit_code == 2 and wrong.stderr.count("\n") == 1


def test_folds_train_calibrate_and_judge_with_six_people(tmp_path: Path) -> None:
    table, model = write_cubes(tmp_path, 6), tmp_path / "m"
    command = (
        *("train", "--data", table, "--binarize", *SMALL_MODEL, "--folds", 2),
        *("--output-dir", model, "--checkpoint-dir", tmp_path / "c", "--resume"),
    )
    first = nobrainer_(*command)
    assert first.exit_code == 0, first.stderr
    assert first.stdout == f"{model}\n"
    learned = nb.Segmentation.load(model)
    made, fit, quality = learned.recipe_.provenance, *fitted_of(learned)
    dice = made.metrics["out_of_fold_dice"]
    assert errors_of(first.stderr) == [
        f"nobrainer: Dice {dice:.3f} on 6 scans of 6 subjects (out of fold), "
        f"temperature {1 / fit.weight[0]:.3f}",
        "nobrainer: intervals of volumes for 80 %",
        f"nobrainer: quality: error of the Dice {quality.error:.3f}",
    ]
    assert learned.n_draws(10) == fit.intervals.n_draws == quality.n_draws == 10
    assert [len(fold.subjects) for fold in made.folds] == [3, 3]
    card = (model / "README.md").read_text()
    for number, fold in enumerate(made.folds):
        assert f"| {number} | 3 | {', '.join(fold.subjects)} |" in card
    assert f"Dice {dice:.4g} out of fold, each scan by a member that has not" in card
    assert "not proven for the ensemble" in card
    shown = nobrainer_("info", model).stdout.splitlines()
    assert f"  fold 1               {' '.join(made.folds[1].subjects)}" in shown

    kept = {path: path.stat().st_mtime_ns for path in model.iterdir()}
    again = nobrainer_(*command)
    assert errors_of(again.stderr)[-1].endswith("is finished: the model is kept")
    assert kept == {path: path.stat().st_mtime_ns for path in model.iterdir()}

    copy = nobrainer_(
        *("calibrate", "--data", table, "--model", model, "--out-of-fold"),
        *("--output-dir", tmp_path / "copy", "--coverage", 0.8),
    )
    assert copy.exit_code == 0 and "(out of fold)" in copy.stdout
    assert nb.Segmentation.load(tmp_path / "copy").calibration_ == fit


def write_cubes(folder: Path, n_people: int) -> Path:
    """Tiny scans of bright cubes, and their table."""
    rng = np.random.default_rng(0)
    for number in range(n_people):
        label = np.zeros((10, 10, 10), np.uint8)
        at = rng.integers(2, 4, 3)
        label[tuple(slice(start, start + 5) for start in at)] = 1
        image = (80 * label + rng.normal(60, 5, label.shape)).astype(np.float32)
        for name, data in (("T1w", image), ("mask", label)):
            path = folder / f"sub-{number}_{name}.nii"
            nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    return write_table(folder / "people.csv", range(n_people))


def fitted_of(model: nb.Segmentation) -> tuple[Calibration, QualityModel]:
    assert model.calibration_ is not None and model.quality_ is not None
    return model.calibration_, model.quality_


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--validate", 1), "--folds 2 holds out every subject once: leave out --vali"),
        (("--validate-data", "x.csv"), "leave out --validate-data, or train without"),
        (("--members", 2), "folds train copies of one model by its name"),
        (("--label-maps", "scans.csv"), "folds divide scans or label maps, not both"),
        (("--warm-start", "model"), "begins a Bayesian network, not an ensemble"),
    ],
)
def test_folds_refuse_what_clashes(
    scans: Path, model: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    given = [
        scans / one if str(one) in ("scans.csv", "model") else one for one in options
    ]
    start = ("train", "--data", scans / "scans.csv", "--output-dir", tmp_path / "m")
    result = nobrainer_(*start, "--binarize", *SMALL_MODEL, "--folds", 2, *given)
    assert result.exit_code == 2
    assert message in result.stderr


def test_two_people_give_a_temperature_also_after_a_kill(tmp_path: Path) -> None:
    model = tmp_path / "m"
    command = (
        *("train", "--data", write_cubes(tmp_path, 2), "--output-dir", model),
        *("--binarize", *SMALL_MODEL, "--model", "vnet", "--folds", 2),
        *("--checkpoint-dir", tmp_path / "c", "--resume"),
    )
    first = nobrainer_(*command)
    assert first.exit_code == 0, first.stderr
    assert errors_of(first.stderr)[1:] == [
        "nobrainer: no intervals of volumes: no draws",
        "nobrainer: no quality model: 2 subjects",
    ]
    states = {path: path.stat().st_mtime_ns for path in tmp_path.glob("c/*/last.*")}
    fit = nb.Segmentation.load(model).calibration_
    assert fit is not None and fit.out_of_fold and fit.intervals is None
    # As if killed when the members were trained and saved.
    killed = nb.Segmentation.load(model)
    killed.learned_ = replace(killed.learned_, calibration=None)
    killed.save(model, overwrite=True)
    assert nobrainer_(*command).exit_code == 0
    assert len(states) == 2
    assert states == {path: path.stat().st_mtime_ns for path in states}
    assert nb.Segmentation.load(model).calibration_ == fit


def test_folds_of_a_store_have_no_quality_model(tmp_path: Path) -> None:
    table, store = write_cubes(tmp_path, 4), tmp_path / "s.zarr"
    nobrainer_("data", "convert", table, store)
    done = nobrainer_(
        *("train", "--data", store, "--output-dir", tmp_path / "m", "--folds", 2),
        *("--binarize", *SMALL_MODEL),
    )
    assert done.exit_code == 0, done.stderr
    assert errors_of(done.stderr)[1:] == [
        "nobrainer: intervals of volumes for 80 %",
        "nobrainer: no quality model: a store; give the files to calibrate",
    ]
    # The files of a store are known as those that its scans were made from.
    copy = ("calibrate", "--data", table, "--model", tmp_path / "m", "--out-of-fold")
    again = nobrainer_(*copy, "--output-dir", tmp_path / "c", "--n-samples", 2)
    assert again.exit_code == 0 and "(out of fold)" in again.stdout, again.stderr
