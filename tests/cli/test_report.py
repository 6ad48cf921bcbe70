"""`nobrainer report`: a page for each scan, and the index of them."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import nobrainer as nb
from commands import SMALL_MODEL, errors_of, is_narrow, nobrainer_, rows_of, scans_of
from html_pages import Page

pytestmark = pytest.mark.slow(seconds=20)


def links_of(path: Path) -> set[str]:
    return {href for a in Page(path).all("a") if (href := a.get("href"))}


def test_report_writes_pages_that_the_index_links(
    balls: Path, calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = scans_of(balls, (7, 8))
    common = (*files, "--model", calibrated, "--n-samples", 3)
    result = nobrainer_("report", *common, "--output-dir", "pages")
    assert result.exit_code == 0, result.stderr
    assert is_narrow(result.stdout) and "pages/index.html" in result.stdout
    pages = {f"{file.stem}.html" for file in files}
    tables = {
        f"{name}.{kind}"
        for name in ("qc", "structures", "regions")
        for kind in ("tsv", "json")
    }
    written = {p.name for p in Path("pages").iterdir()}
    origin = {"provenance.json", "provenance"}
    assert written == {"index.html", *pages, *tables, *origin}
    assert pages <= links_of(Path("pages/index.html"))
    for file in files:
        page = Path(f"pages/{file.stem}.html")
        assert f"<h1>{file.stem}</h1>" in page.read_text()
        assert "index.html" in links_of(page)
    assert nobrainer_("qc", *common, "--output-dir", "qc").exit_code == 0
    for name in tables:
        assert Path("qc", name).read_bytes() == Path("pages", name).read_bytes()

    # Tables are made again from what is recorded of each scan.
    Path("pages/qc.tsv").unlink()
    again = nobrainer_("report", *common, "--output-dir", "pages")
    assert again.exit_code == 0
    assert Path("pages/qc.tsv").read_bytes() == Path("qc/qc.tsv").read_bytes()


def test_what_was_done_before_an_interruption_is_kept(
    balls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the third of four scans; the second is the worse of the done ones."""
    rng = np.random.default_rng(0)
    noise = rng.normal(20, 5, (24, 24, 24)).astype(np.float32)
    odd = tmp_path / "odd.nii"
    nib.save(nib.Nifti1Image(noise, np.eye(4)), odd)
    files = [balls / "sub-7_T1w.nii", odd, *scans_of(balls, (3, 4))]
    qc, index = tmp_path / "out" / "qc.tsv", tmp_path / "out" / "index.html"
    predict, seen = nb.Segmentation.predict, []

    def predict_two(self: nb.Segmentation, file: Path, **options: object) -> object:
        if file == files[2]:
            seen.extend(row["subject"] for row in rows_of(qc))
            assert not index.exists()
            raise KeyboardInterrupt
        return predict(self, file, **options)

    monkeypatch.setattr(nb.Segmentation, "predict", predict_two)
    result = nobrainer_(
        *("report", *files, "--model", balls / "brain", "--n-samples", 2),
        *("--output-dir", qc.parent),
    )
    # A table that takes long to write is not written after each scan.
    assert "sub-7_T1w" in seen
    assert result.exit_code == 130 and result.stdout == ""
    assert errors_of(result.stderr) == [
        f"nobrainer: interrupted: 2 scans of {qc.parent} are done, see {qc}; the same "
        "command goes on"
    ]
    assert [row["subject"] for row in rows_of(qc)] == ["odd", "sub-7_T1w"]
    volumes = rows_of(qc.with_name("structures.tsv"))
    assert [row["subject"] for row in volumes] == ["odd", "sub-7_T1w"]
    assert links_of(index) == {"sub-7_T1w.html", "odd.html"}
    assert json.loads(qc.with_name("qc.json").read_text()) == nb.quality.sidecar()


def test_a_scan_called_index_has_no_page(tmp_path: Path) -> None:
    result = nobrainer_(
        *("report", "index.nii", "--model", tmp_path, "--output-dir", tmp_path / "out")
    )
    assert result.exit_code == 2 and "index.nii: its page would be" in result.stderr


def test_nothing_is_written_where_no_scan_can_be_predicted(
    balls: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = nobrainer_(
        *("report", tmp_path / "none.nii", "--model", balls / "brain"),
        *("--output-dir", out),
    )
    assert result.exit_code == 1 and "no such file" in result.stderr
    assert result.stdout == "" and not list(out.iterdir())


def test_the_default_network_and_one_pass_have_pages(
    balls: Path, tmp_path: Path
) -> None:
    data = ("train", "--data", balls / "train.csv", "--binarize", *SMALL_MODEL)
    scan = balls / "sub-8_T1w.nii"
    for name, meaning in (
        ("bayesian_vnet", "agreement of the draws (not a predicted Dice)"),
        ("vnet", "certainty of one pass (not a predicted Dice)"),
    ):
        model, out = tmp_path / name, tmp_path / f"{name}-pages"
        trained = nobrainer_(*data, "--model", name, "--output-dir", model)
        assert trained.exit_code == 0, trained.stderr
        result = nobrainer_(
            *("report", scan, "--model", model, "--output-dir", out, "--n-samples", 2)
        )
        assert result.exit_code == 0, result.stderr
        assert f"score: {meaning}, 0 to 1" in " ".join(result.stdout.split())
        page = (out / "sub-8_T1w.html").read_text()
        assert "iframe" in page and "foreground" in page
