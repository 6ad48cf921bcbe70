"""The scans that a command is given: each once, each by a name of its own."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from commands import nobrainer_, rows_of
from result_folders import said, scan


@pytest.mark.parametrize("command", ["qc", "report"])
def test_a_scan_given_twice_is_refused_first(command: str, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    result = nobrainer_(
        *(command, "a/T1.mgz", "a/../a/T1.mgz", "--model", tmp_path / "none"),
        *("--output-dir", tmp_path / "out"),
    )
    assert result.exit_code == 2
    assert "a/../a/T1.mgz: given twice: give each scan once" in result.stderr


@pytest.mark.parametrize("command", ["predict", "qc", "report", "rank"])
def test_scans_whose_files_are_called_alike_have_names_of_their_own(
    command: str, balls: Path, tmp_path: Path
) -> None:
    files = [tmp_path / f"subject-{n}" / "mri" / "T1.mgz" for n in (1, 2)]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True)
        image = nib.load(balls / f"sub-{number}_T1w.nii")
        nib.save(nib.MGHImage(np.asarray(image.dataobj), image.affine), file)
    args = ("--n-samples", 2, "--model", balls / "brain")
    if command == "rank":
        result = nobrainer_("rank", *files, *args, "--json")
        names = sorted(one["name"] for one in json.loads(result.stdout))
    else:
        out = tmp_path / "out"
        result = nobrainer_(command, *files, *args, "--output-dir", out)
        table = {"predict": "*_structures.tsv"}.get(command, "qc.tsv")
        rows = [row for path in out.glob(table) for row in rows_of(path)]
        names = sorted({row["subject"] for row in rows})
        pages = {path.stem for path in out.glob("*.html")} - {"index"}
        assert pages == ({*names} if command == "report" else set())
        labels = [path.name for path in out.glob("*_label.nii.gz")]
        expected = [f"{name}_label.nii.gz" for name in names]
        assert sorted(labels) == (expected if command == "predict" else [])
    assert result.exit_code == 0, result.stderr
    assert names == ["subject-1_T1", "subject-2_T1"]


@pytest.mark.parametrize("command", ["predict", "qc"])
def test_a_scan_keeps_its_name_whatever_it_is_given_with(
    command: str, two_models: Path, tmp_path: Path
) -> None:
    files = []
    for number, site in enumerate(("A", "B", "C")):
        (tmp_path / site).mkdir()
        files.append(
            shutil.copy(scan(two_models, number), tmp_path / site / "sub-1_T1w.nii")
        )
    out = tmp_path / "out"

    def give(*given: Path) -> list[str]:
        result = nobrainer_(
            *(command, *given, "--model", two_models / "model", "--n-samples", 2),
            *("--output-dir", out),
        )
        return [str(result.exit_code), *said(result)]

    def names() -> set[str]:
        return {path.stem for path in (out / "provenance").glob("*.json")}

    assert give(files[0]) == ["0"]
    code, line = give(files[1])
    assert code == "1" and "if it is another scan, give both in one command" in line
    assert give(*files[:2])[0] == "0" and names() == {"sub-1_T1w", "B_sub-1_T1w"}
    code, line = give(files[1])
    assert code == "0" and line.startswith("1 of 1 scans were done before")
    assert give(*files)[0] == "0"
    assert names() == {"sub-1_T1w", "B_sub-1_T1w", "C_sub-1_T1w"}
    if command == "qc":
        assert len((out / "qc.tsv").read_text().splitlines()) == 1 + 3
