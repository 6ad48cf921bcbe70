"""`nobrainer demo`: from data to a picture."""

import json
import math
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from boxes import use
from commands import labels_of, nobrainer_, rows_of

pytestmark = pytest.mark.slow(seconds=40)


def test_demo_refuses_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    result = nobrainer_("demo", "--output-dir", tmp_path)
    assert result.exit_code == 2
    assert f"{tmp_path}: is not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_demo_from_data_to_picture(
    sample_csv: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model, tmp_path / "box" / "brain")
    use(monkeypatch, tmp_path / "box")
    result = nobrainer_(
        *("demo", "--output-dir", tmp_path / "out", "--epochs", 1, "--n-samples", 2),
        "--json",
    )
    assert result.exit_code == 0, result.stderr
    story = json.loads(result.stdout)
    metrics, files = story["metrics"], story["files"]
    assert metrics["dice"] > 0.8
    assert 0 < metrics["ece"] < metrics["nll"] < metrics["nll/foreground"] < 1
    label = labels_of(files["label"])
    mean_ml = story["brain_ml"]["mean"]
    assert mean_ml == pytest.approx(label.sum() * 8 / 1000, rel=0.1)
    assert Path(files["figure"]).read_bytes().startswith(b"\x89PNG")
    assert "bayesian_vnet" in nobrainer_("info", files["model"]).stdout
    check_template(story["template"])


def check_template(story: dict) -> None:
    """The small model's results of the template agree with each other."""
    files = story["files"]
    scan, label = nib.load(files["scan"]), nib.load(files["label"])
    assert scan.shape == label.shape == (197, 233, 189)
    assert np.array_equal(scan.affine, label.affine)
    assert (
        0 <= np.asarray(nib.load(files["entropy"]).dataobj).max() <= math.log(2) + 1e-6
    )
    (row,) = rows_of(Path(files["structures table"]))
    assert (row["subject"], row["index"]) == ("mni152_T1w", "1")
    # Voxels of 1 mm: the mean over draws is close to what most of them say.
    volume_mm3 = float(row["volume_mm3"])
    assert volume_mm3 > 0
    assert volume_mm3 == pytest.approx(np.sum(labels_of(files["label"])), rel=0.2)
    (volume,) = story["volumes_ml"].values()
    assert volume["mean"] == pytest.approx(volume_mm3 / 1000, rel=1e-6)
    assert volume["sd"] == pytest.approx(float(row["volume_sd_mm3"]) / 1000, rel=1e-6)
    assert Path(files["figure"]).read_bytes().startswith(b"\x89PNG")
