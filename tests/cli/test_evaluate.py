"""`nobrainer evaluate`, against the Python API."""

import json
from pathlib import Path

import numpy as np
import pytest

import nobrainer as nb
from balls import write_ball
from commands import TEST, errors_of, is_narrow, nobrainer_, rows_of, write_table
from nobrainer.cli.evaluate import _echo_story
from nobrainer.data.labels import LabelTable
from nobrainer.evaluation import Row


def test_evaluate_gives_the_figures_of_the_api(balls: Path, tmp_path: Path) -> None:
    args = (
        *("evaluate", "--data", balls / "test.csv", "--model", balls / "brain"),
        *("--output-dir", tmp_path / "out", "--n-samples", 3, "--seed", 2),
    )
    result = nobrainer_(*args, "--json")
    assert result.exit_code == 0, result.stderr
    segmentation = nb.Segmentation.load(balls / "brain")
    pairs = [write_ball(tmp_path, number) for number in TEST]
    evaluation = segmentation.evaluate(segmentation.dataset(pairs), n_samples=3, seed=2)
    story = json.loads(result.stdout)
    assert story["metrics"] == pytest.approx(nb.summarise(evaluation))
    assert story["metrics"]["dice"] > 0.8
    assert story["n_scans"] == 2
    found = rows_of(tmp_path / "out" / "metrics.tsv")
    assert list(found[0]) == [
        "subject",
        "region",
        "structure",
        "metric",
        "value",
        "seen",
    ]
    assert [row["metric"] for row in found] == [row.metric for row in evaluation]
    values = [float(row["value"]) for row in found]
    assert values == pytest.approx([row.value for row in evaluation])
    page = Path(story["files"]["report"]).read_text()
    assert page.startswith("<!DOCTYPE html>") and "brain on test.csv" in page

    again = nobrainer_(*args, "--json")
    assert again.exit_code == 0 and again.stdout == result.stdout
    assert "done before" in again.stderr and again.stderr.count("\n") == 1


def test_evaluate_refuses_scans_of_the_training_or_says_so_everywhere(
    balls: Path, tmp_path: Path
) -> None:
    args = (
        *("evaluate", "--data", write_table(balls / "mixed.csv", (0, 7))),
        *("--model", balls / "brain", "--n-samples", 1, "--no-surfaces"),
    )
    refused = nobrainer_(*args, "--output-dir", tmp_path / "no")
    assert refused.exit_code == 2 and not (tmp_path / "no").exists()
    assert "sub-0_T1w.nii: the model has used it in training" in refused.stderr
    assert "sub-7" not in refused.stderr and refused.stderr.count("\n") == 1
    text = "The model has used 1 of these 2 scans before (1 in training)"
    shown = nobrainer_(*args, "--allow-seen", "--output-dir", tmp_path / "a")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.startswith("WARNING: The model has used 1 of these 2 scans")
    assert "means over 2 scans of 2 subjects" in shown.stdout
    assert is_narrow(shown.stdout.partition("files")[0])
    rows = rows_of(tmp_path / "a" / "metrics.tsv")
    uses = {(row["subject"], row["seen"]) for row in rows}
    assert uses == {("sub-0_T1w", "training"), ("sub-7_T1w", "n/a")}
    assert text in (tmp_path / "a" / "evaluation.html").read_text()
    story = json.loads(
        nobrainer_(
            *args, "--allow-seen", "--json", "--output-dir", tmp_path / "b"
        ).stdout
    )
    assert story["seen"] == {"sub-0_T1w": "training"} and text in story["warning"]
    assert (story["n_scans"], story["n_subjects"]) == (2, 2)


def test_evaluate_goes_on_without_the_scans_that_are_not_there(
    balls: Path, tmp_path: Path
) -> None:
    table = tmp_path / "gaps.csv"
    ball = [balls / f"sub-7_{kind}.nii" for kind in ("T1w", "mask")]
    rows = (
        ball,
        (tmp_path / "no.nii", ball[1]),
        (balls / "sub-8_T1w.nii", tmp_path / "none.nii"),
    )
    table.write_text("features,labels\n" + "".join(f"{a},{b}\n" for a, b in rows))
    args = ("evaluate", "--data", table, "--model", balls / "brain", "--n-samples", 1)
    result = nobrainer_(*args, "--no-surfaces", "--output-dir", tmp_path / "out")
    assert result.exit_code == 1
    assert errors_of(result.stderr) == [
        f"nobrainer: error: {tmp_path / name}: no such file: check the path"
        for name in ("no.nii", "none.nii")
    ]
    found = rows_of(tmp_path / "out" / "metrics.tsv")
    assert {row["subject"] for row in found} == {"sub-7_T1w"}
    table.write_text("features,labels\nno.nii,none.nii\n")
    none = nobrainer_(*args, "--no-surfaces", "--output-dir", tmp_path / "nothing")
    assert none.exit_code == 1 and not (tmp_path / "nothing").exists()


def test_a_sum_of_structures_has_no_sign_and_the_fluid_a_note(
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = LabelTable(("background", "left", "right", "CSF"), ids=(0, 2, 41, 24))
    errors = {"left": -0.25, "right": 0.05, "CSF": 314.22}
    rows = [Row("a", "volume", n, "volume_error", e) for n, e in errors.items()]
    rows += [Row("a", "volume", n, "dice", 0.5) for n in errors]
    story = {"warning": None, "n_scans": 1, "n_subjects": 1, "files": {}}
    _echo_story(story | {"metrics": nb.summarise(rows)}, labels, as_json=False)
    text = capsys.readouterr().out
    assert "31422.0 %" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "mean of structures 0.500 - - -" in lines
    assert "volume error, median of the structures' absolute ones: 25.0 %" in lines
    assert "label 24 of FreeSurfer's aseg is not the fluid around" in " ".join(lines)
    errors["CSF"] = 0.1
    rows = [Row("a", "volume", n, "volume_error", e) for n, e in errors.items()]
    _echo_story(story | {"metrics": nb.summarise(rows)}, labels, as_json=False)
    assert "aseg" not in capsys.readouterr().out


def test_evaluate_prints_structures_and_both_regions(
    balls: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    args = (
        *("evaluate", "--data", balls / "test.csv", "--model", calibrated),
        *("--output-dir", "out", "--n-samples", 3),
    )
    result = nobrainer_(*args)
    assert result.exit_code == 0, result.stderr
    assert is_narrow(result.stdout)
    evaluation = rows_of(Path("out/metrics.tsv"))

    def mean(metric: str, region: str = "volume") -> float:
        return float(
            np.mean(
                [
                    float(row["value"])
                    for row in evaluation
                    if (row["metric"], row["region"]) == (metric, region)
                ]
            )
        )

    lines = [line.split() for line in result.stdout.splitlines()]
    (row,) = [line for line in lines if line[:1] == ["foreground"]]
    assert row[1:4] == [
        f"{mean('dice'):.3f}",
        f"{mean('hd95_mm'):.2f}",
        f"{mean('surface_dice'):.3f}",
    ]
    assert row[4:] == [f"{100 * mean('volume_error'):.1f}", "%"]
    for words, metric in (
        ("neg. log-likelihood (nats)", "nll"),
        ("errors found by entropy, AUROC", "auroc_entropy"),
    ):
        (found,) = [line for line in lines if " ".join(line).startswith(words)]
        regions = [mean(metric, region) for region in ("volume", "foreground")]
        assert found[-2:] == [f"{value:.4f}" for value in regions]
        assert regions[0] != regions[1]
    share = f"{100 * mean('conformal_covered'):.0f} %"
    assert f"inside the calibrated interval: {share}" in result.stdout

    quick = nobrainer_(*args, "--no-surfaces", "--overwrite")
    assert quick.exit_code == 0, quick.stderr
    metrics = {row["metric"] for row in rows_of(Path("out/metrics.tsv"))}
    assert "dice" in metrics and not metrics & {"hd95_mm", "surface_dice"}
