"""`nobrainer qc`: which segmentations to look at, against the Python API."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import nobrainer as nb
from commands import TEST, errors_of, is_narrow, nobrainer_, rows_of, scans_of


def test_qc_says_what_the_api_says_worst_first(
    balls: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / "bad.nii"
    bad.write_bytes(b"not an image")
    image = nib.load(balls / "sub-8_T1w.nii")
    noise = np.random.default_rng(0).normal(0, 60, image.shape)
    noisy = nib.Nifti1Image((image.get_fdata() + noise).astype(np.float32), np.eye(4))
    nib.save(noisy, "noisy.nii")
    files = [balls / "sub-7_T1w.nii", Path("noisy.nii")]
    args = (
        *("qc", bad, *files, "--model", calibrated, "--output-dir", "out"),
        *("--n-samples", 3, "--seed", 1, "--threshold", 0.9),
    )
    args = (*args, balls / "test.csv")
    result = nobrainer_(*args)
    assert result.exit_code == 1
    of_bad, of_table = errors_of(result.stderr)
    assert of_bad.startswith(f"nobrainer: error: {bad}: ")
    assert "test.csv: unknown suffix" in of_table
    segmentation = nb.Segmentation.load(calibrated)
    predictions = {
        file.stem: segmentation.predict(file, n_samples=3, seed=1) for file in files
    }
    cases = {
        name: segmentation.quality(prediction, threshold=0.9)
        for name, prediction in predictions.items()
    }
    order = ["noisy", "sub-7_T1w"]
    assert cases["noisy"].flags and not cases["sub-7_T1w"].flags
    assert cases["noisy"].score < cases["sub-7_T1w"].score
    rows = rows_of(Path("out/qc.tsv"))
    assert [row["subject"] for row in rows] == order
    for row in rows:
        case = cases[row["subject"]]
        assert float(row["score"]) == pytest.approx(case.score, rel=1e-4)
        assert row["flagged"] == str(bool(case.flags)).lower()
        assert row["reasons"] == ("; ".join(case.flags) or "n/a")
    lines = result.stdout.splitlines()
    assert lines[1] == f"noisy      {cases['noisy'].score:.3f}  flagged"
    reasons = " ".join(line.strip() for line in lines[2:] if line.startswith("    "))
    assert reasons == " ".join(cases["noisy"].flags)
    assert f"sub-7_T1w  {cases['sub-7_T1w'].score:.3f}" in lines
    assert is_narrow(result.stdout)
    assert "1 of 2 flagged; score: predicted Dice, 0 to 1" in result.stdout
    assert "checked: the predicted Dice; draws and entropy" in result.stdout

    volumes = rows_of(Path("out/structures.tsv"))
    assert [row["subject"] for row in volumes] == ["noisy", "sub-7_T1w"]
    for row in volumes:
        (structure,) = predictions[row["subject"]].structures
        for column in ("volume_mm3", "conformal_low_mm3", "conformal_high_mm3"):
            assert float(row[column]) == pytest.approx(getattr(structure, column))
    regions = rows_of(Path("out/regions.tsv"))
    assert [row["subject"] for row in regions] == [
        name for name in ("noisy", "sub-7_T1w") for _ in predictions[name].regions
    ]
    assert [float(row["peak"]) for row in regions] == pytest.approx(
        [
            one.peak
            for name in ("noisy", "sub-7_T1w")
            for one in predictions[name].regions
        ],
        rel=1e-4,
    )
    for name in ("qc", "structures"):
        columns = json.loads(Path(f"out/{name}.json").read_text())
        assert set(rows_of(Path(f"out/{name}.tsv"))[0]) <= set(columns)

    before = Path("out/qc.tsv").read_bytes()
    done = nobrainer_(*args)
    assert done.exit_code == 1 and "2 of 4 scans were done before" in done.stderr
    assert done.stdout == result.stdout
    assert Path("out/qc.tsv").read_bytes() == before
    again = nobrainer_(*args, "--overwrite")
    assert again.exit_code == 1
    assert Path("out/qc.tsv").read_bytes() == before
    assert rows_of(Path("out/structures.tsv")) == volumes


def test_qc_of_a_run_finds_the_scan_unlike_the_others(
    balls: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(20, 5, (24, 24, 24)).astype(np.float32)
    odd = tmp_path / "odd.nii"
    nib.save(nib.Nifti1Image(noise, np.eye(4)), odd)
    files = [*scans_of(balls, range(9)), odd]
    result = nobrainer_(
        *("qc", *files, "--model", balls / "brain", "--output-dir", tmp_path / "out"),
        *("--n-samples", 3, "--json"),
    )
    assert result.exit_code == 0, result.stderr
    scans = json.loads(result.stdout)["scans"]
    assert scans[0]["subject"] == "odd" and scans[0]["input"] == str(odd)
    assert any("the median of this run" in reason for reason in scans[0]["reasons"])
    assert scans[0]["predicted_dice"] is None
    assert 0 <= scans[0]["score"] < min(scan["score"] for scan in scans[1:]) <= 1
    assert {scan["subject"] for scan in scans} == {file.stem for file in files}


def test_another_number_of_draws_than_learned_is_refused_first(
    balls: Path, calibrated: Path, tmp_path: Path
) -> None:
    result = nobrainer_(
        *("qc", *scans_of(balls, TEST), "--model", calibrated, "--n-samples", 2),
        *("--output-dir", tmp_path / "out"),
    )
    assert result.exit_code == 2
    (line,) = errors_of(result.stderr)
    assert line.endswith("with 3: give --n-samples=3, or leave --n-samples out")
    assert not (tmp_path / "out").exists()
