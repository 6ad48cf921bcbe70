"""`nobrainer calibrate`, against the Python API."""

import json
from pathlib import Path

import pytest

import nobrainer as nb
from commands import HELD_OUT, nobrainer_, scans_of
from nobrainer.provenance import Method


def test_calibrate_saves_what_the_api_fits(balls: Path, calibrated: Path) -> None:
    fitted = nb.Segmentation.load(calibrated)
    by_hand = nb.Segmentation.load(balls / "brain")
    pairs = [
        (image, balls / f"sub-{n}_mask.nii")
        for n, image in enumerate(scans_of(balls, HELD_OUT), HELD_OUT.start)
    ]
    by_hand.calibrate(by_hand.dataset(pairs), coverage=0.75, n_samples=3, seed=4)
    calibration = fitted.calibration_
    assert calibration.weight == pytest.approx(by_hand.calibration_.weight, rel=1e-4)
    assert calibration.nll_after <= calibration.nll_before
    assert calibration.intervals.coverage == 0.75
    assert fitted.quality_.n_subjects == len(HELD_OUT)

    story = json.loads(nobrainer_("info", calibrated, "--json").stdout)
    assert story["calibration"]["weight"] == list(calibration.weight)
    assert story["quality"]["error"] == fitted.quality_.error
    lines = nobrainer_("info", calibrated).stdout.splitlines()
    told = "temperature, fitted on 4 scans of 4 subjects"
    assert f"  method               {told}" in lines
    assert f"  error of Dice        {fitted.quality_.error:.3f}" in "\n".join(lines)
    plain = json.loads(nobrainer_("info", balls / "brain", "--json").stdout)
    assert plain["calibration"] is None and plain["quality"] is None


def test_vector_scaling_prints_a_weight_for_each_class(
    balls: Path, tmp_path: Path
) -> None:
    args = (
        *("calibrate", "--data", balls / "held-out.csv", "--model", balls / "brain"),
        *("--output-dir", tmp_path / "new" / "vector"),
    )
    result = nobrainer_(*args, "--method", "vector", "--n-samples", 2)
    assert result.exit_code == 0, result.stderr
    calibration = nb.Segmentation.load(tmp_path / "new" / "vector").calibration_
    for name, weight, bias in zip(
        ("background", "foreground"), calibration.weight, calibration.bias, strict=True
    ):
        assert [name, f"{weight:.3f}", f"{bias:.3f}"] in [
            line.split() for line in result.stdout.splitlines()
        ]
    as_json = nobrainer_(*args, "--n-samples", 2, "--overwrite", "--json")
    story = json.loads(as_json.stdout)
    assert story["model"] == str(tmp_path / "new" / "vector")
    assert story["calibration"]["method"] == "temperature"
    assert story["calibration"]["intensity_weight"] == 0
    assert story["calibration"]["intervals"] is None and story["quality"] is None


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ("train.csv", (), "the model was trained on it"),
        ("held-out.csv", ("--coverage", 0.9), "need at least 9 labelled subjects"),
        ("held-out.csv", ("--intensity-weight", 0.5), "needs two structures or more"),
        ("none.csv", (), "none.csv: no such file"),
    ],
)
def test_what_cannot_be_calibrated_on_leaves_no_model(
    balls: Path, tmp_path: Path, table: str, options: tuple[object], message: str
) -> None:
    out = tmp_path / "out"
    result = nobrainer_(
        *("calibrate", "--data", balls / table, "--model", balls / "brain"),
        *("--output-dir", out, "--n-samples", 2, *options),
    )
    assert result.exit_code == 2
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert not out.exists()


def test_calibrate_keeps_a_model_that_is_there(balls: Path) -> None:
    before = (balls / "brain" / "SHA256SUMS").read_bytes()
    result = nobrainer_(
        *("calibrate", "--data", balls / "held-out.csv", "--model", balls / "brain"),
        *("--output-dir", balls / "brain"),
    )
    assert result.exit_code == 2 and "already there" in result.stderr
    assert (balls / "brain" / "SHA256SUMS").read_bytes() == before


def test_without_a_number_there_are_as_many_draws_as_were_calibrated_with(
    balls: Path, calibrated: Path, tmp_path: Path
) -> None:
    given = (balls / "sub-7_T1w.nii", "--model", calibrated)
    for command in ("predict", "qc"):
        out = tmp_path / command
        result = nobrainer_(command, *given, "--output-dir", out)
        assert result.exit_code == 0, result.stderr
        method = Method.from_json((out / "provenance.json").read_text())
        assert (method.n_samples, method.coverage) == (3, 0.75)
    model = nb.Segmentation.load(calibrated)
    assert len(model.predict(given[0], seed=0).volumes_mm3) == 3
    # A model to which nothing was fitted.
    plain = tmp_path / "plain"
    result = nobrainer_(
        "predict", given[0], "--model", balls / "brain", "--output-dir", plain
    )
    method = Method.from_json((plain / "provenance.json").read_text())
    assert (method.n_samples, method.coverage) == (10, None)


def test_scans_of_a_store_calibrate_as_their_files_do(
    balls: Path, tmp_path: Path
) -> None:
    table, store = balls / "held-out.csv", tmp_path / "s.zarr"
    spacing_mm = nb.Segmentation.load(balls / "brain").recipe_.preprocess.spacing_mm
    nobrainer_("data", "convert", table, store, "--spacing", *spacing_mm)
    found = []
    for number, source in enumerate((table, store)):
        result = nobrainer_(
            *("calibrate", "--data", source, "--model", balls / "brain", "--json"),
            *("--output-dir", tmp_path / str(number), "--n-samples", 2),
        )
        assert result.exit_code == 0, result.stderr
        found.append(json.loads(result.stdout)["calibration"])
    of_files, of_store = found
    assert of_store["checksums"] == of_files["checksums"]
    assert of_store["weight"] == pytest.approx(of_files["weight"], rel=1e-3)
    ask = ("calibrate", "--model", balls / "brain", "--output-dir", tmp_path / "no")
    for source, option, says in (
        (store, "--quality", "is a store, whose scans are no longer as they came"),
        (store, "--split=a", "has no scan in the split 'a'"),
        (table, "--split=a", "held-out.csv: has no scan in the split 'a'"),
        (tmp_path, "--split=a", "is no store: make one by"),
    ):
        refused = nobrainer_(*ask, "--data", source, option)
        assert refused.exit_code == 2 and says in refused.stderr
    evaluate = ("evaluate", "--data", store, "--output-dir", tmp_path / "no")
    refused = nobrainer_(*evaluate, "--model", balls / "brain")
    assert "s.zarr: is a folder: give a CSV or TSV file with" in refused.stderr
    assert not (tmp_path / "no").exists()
