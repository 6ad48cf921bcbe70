"""`nobrainer demo`: from data to a picture."""

import json
from pathlib import Path

import pytest

from commands import labels_of, nobrainer_

pytestmark = pytest.mark.slow(seconds=30)


def test_demo_refuses_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    result = nobrainer_("demo", "--output-dir", tmp_path)
    assert result.exit_code == 2
    assert f"{tmp_path}: is not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_demo_from_data_to_picture(sample_csv: Path, tmp_path: Path) -> None:
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
