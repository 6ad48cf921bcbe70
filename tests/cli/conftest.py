"""Scans and models for the tests of the commands, made once in each process."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import nobrainer as nb
from balls import write_ball
from commands import HELD_OUT, TEST, TRAIN_OPTIONS, TRAINED_ON, nobrainer_, write_table


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three bright balls with labels, and the table `scans.csv`."""
    folder = tmp_path_factory.mktemp("scans")
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    rng = np.random.default_rng(0)
    rows = [["features", "labels"]]
    for n in range(3):
        grid = np.indices((24, 22, 20)) - rng.uniform(9, 12, (3, 1, 1, 1))
        label = (np.square(grid).sum(0) < 49).astype(np.uint8)
        image = 100 * label + rng.normal(50, 5, label.shape)
        names = [f"sub-{n}_T1w.nii.gz", f"sub-{n}_dseg.nii.gz"]
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder / names[0])
        nib.save(nib.Nifti1Image(label, affine), folder / names[1])
        rows.append(names)
    with (folder / "scans.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


@pytest.fixture(scope="session")
def model(scans: Path) -> Path:
    """A model of `scans`, trained by the command line."""
    path = scans / "model"
    result = nobrainer_(
        *("train", "--data", scans / "scans.csv", *TRAIN_OPTIONS, "--output-dir", path)
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{path}\n"
    return path


@pytest.fixture(scope="session")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine balls, their tables, and the model `brain` trained on three of them."""
    folder = tmp_path_factory.mktemp("balls")
    for number in range(9):
        write_ball(folder, number)
    write_table(folder / "train.csv", TRAINED_ON)
    write_table(folder / "held-out.csv", HELD_OUT)
    write_table(folder / "test.csv", TEST)
    result = nobrainer_(
        *("train", "--data", folder / "train.csv", "--output-dir", folder / "brain"),
        *("--model-arg", "base_filters=2", "--model-arg", "levels=1", "--epochs", 8),
        *("--block-shape", 16, 16, 16, "--patches-per-volume", 8, "--batch-size", 4),
        *("--learning-rate", 0.02),
    )
    assert result.exit_code == 0, result.stderr
    return folder


@pytest.fixture(scope="session")
def calibrated(balls: Path) -> Path:
    """The model of the balls, calibrated by the command line, which prints a table."""
    path = balls / "calibrated"
    result = nobrainer_(
        *("calibrate", "--data", balls / "held-out.csv", "--model", balls / "brain"),
        *("--output-dir", path, "--coverage", 0.75, "--quality"),
        *("--n-samples", 3, "--seed", 4),
    )
    assert result.exit_code == 0, result.stderr
    # How long it may take is no result.
    assert "s a time)" in result.stderr and "s a time)" not in result.stdout
    fitted = nb.Segmentation.load(path)
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert f"temperature {1 / fitted.calibration_.weight[0]:.4g}" in lines
    assert f"foreground {fitted.calibration_.intervals.factors[1]:.3f}" in lines
    assert lines[-1] == f"model: {path}"
    return path
