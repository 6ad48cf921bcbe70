"""What one pass writes for a scan, and that it is written whole or again."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from filelock import FileLock

import nobrainer as nb
from bids_sets import IDS, contents, make_set, run_bids
from commands import errors_of, killed_after, nobrainer_
from nobrainer.provenance import Result as Record

pytestmark = pytest.mark.slow(seconds=40)


@pytest.mark.filterwarnings("ignore::nobrainer.errors.UnusualScanWarning")
def test_a_scan_gets_all_files_of_the_standard(
    derivative: Path, data: Path, bids_model: Path
) -> None:
    start = derivative / "sub-01" / "ses-a" / "anat" / "sub-01_ses-a"
    labels = nib.load(f"{start}_seg-aseg_dseg.nii.gz")
    scan = nib.load(data / "sub-01" / "ses-a" / "anat" / "sub-01_ses-a_T1w.nii.gz")
    assert np.array_equal(labels.affine, scan.affine)
    # One prediction, the same as anybody's of this seed.
    model = nb.Segmentation.load(bids_model)
    again = model.predict(scan, n_samples=2, seed=0, verbose=False)
    values = np.asarray(labels.dataobj)
    assert np.array_equal(values, np.asarray(again.label.dataobj))
    assert set(np.unique(values)) <= set(IDS) and values.any()
    for kind, step in (("entropy", 2**-14), ("variance", 2**-24)):
        found = nib.load(f"{start}_{kind}.nii.gz").get_fdata()
        assert np.array_equal(found, again.to_file(kind).get_fdata())
        assert np.abs(found - getattr(again, kind).get_fdata()).max() <= step / 2
    mask = np.asarray(nib.load(f"{start}_desc-brain_mask.nii.gz").dataobj)
    assert np.array_equal(mask, np.asarray(again.brain_mask.dataobj))
    grey = nib.load(f"{start}_label-GM_probseg.nii.gz").get_fdata()
    white = nib.load(f"{start}_label-WM_probseg.nii.gz").get_fdata()
    assert 0 < (grey + white).max() <= 1.0001
    origin = "bids:raw:sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz"
    for name in ("seg-aseg_dseg", "desc-brain_mask", "label-GM_probseg"):
        sidecar = json.loads(Path(f"{start}_{name}.json").read_text())
        assert sidecar["Sources"] == [origin] == [sidecar["SpatialReference"]]


def test_tables_say_what_values_mean_and_how_large_structures_are(
    derivative: Path,
) -> None:
    start = derivative / "sub-01" / "ses-a" / "anat" / "sub-01_ses-a"
    with open(f"{start}_seg-aseg_dseg.tsv", newline="") as file:
        classes = list(csv.DictReader(file, delimiter="\t"))
    assert list(classes[0]) == ["index", "name", "abbreviation", "color"]
    assert [int(row["index"]) for row in classes] == list(IDS)
    with open(f"{start}_desc-volumetric_morph.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["index"] for row in rows] == ["2", "3", "41", "42", "n/a"]
    *parts, brain = [float(row["volume-mm3"]) for row in rows]
    assert rows[-1]["name"] == "brain" and brain == pytest.approx(sum(parts))
    # Parameter, statistic and unit, as the draft of the standard writes them.
    assert {"volume-std-mm3", "volume-low-mm3", "volume-high-mm3"} < set(rows[0])
    columns = json.loads(Path(f"{start}_desc-volumetric_morph.json").read_text())
    assert set(columns) == set(rows[0]) and "subject" not in columns
    quality = json.loads(Path(f"{start}_quality.json").read_text())
    assert quality["scan"] == "sub-01_ses-a_T1w" and 0 <= quality["score"] <= 1
    assert quality["brain_mm3"] == pytest.approx(brain)
    assert quality["intracranial_mm3"] is None


def test_other_settings_are_refused_with_what_differs(
    derivative: Path, data: Path, bids_model: Path
) -> None:
    result = run_bids(data, derivative, bids_model, "--seed", 7, "--threshold", 0.5)
    assert result.exit_code == 2
    assert "seed 0 there, 7 now" in result.stderr
    assert "threshold 0.8 there, 0.5 now" in result.stderr
    assert "give another OUT_DIR, or --overwrite" in result.stderr


def test_a_scan_that_another_process_has_is_running_and_is_no_failure(
    data: Path, bids_model: Path, tmp_path: Path
) -> None:
    out, name = tmp_path / "out", "sub-01_ses-a_T1w"
    (out / "provenance").mkdir(parents=True)
    with FileLock(out / "provenance" / f".{name}.lock"):
        result = run_bids(data, out, bids_model, "--session-label", "a", "--json")
    assert result.exit_code == 0, result.stderr
    (story,) = json.loads(result.stdout)["scans"]
    assert (story["name"], story["state"]) == (name, "running")


def test_a_scan_with_more_than_is_asked_for_is_done(
    derivative: Path, data: Path, bids_model: Path
) -> None:
    before = contents(derivative)
    result = run_bids(data, derivative, bids_model, "--suffix", "T1w", "T2w")
    assert result.exit_code == 0 and "3 of them before" in result.stdout
    assert contents(derivative) == before


def test_a_t2w_lies_in_its_own_space(derivative: Path) -> None:
    names = {path.name for path in (derivative / "sub-02" / "anat").iterdir()}
    assert "sub-02_space-T2w_seg-aseg_dseg.nii.gz" in names
    assert all(name.startswith("sub-02_space-T2w_") for name in names)


def test_the_page_of_a_participant_shows_all_scans(derivative: Path) -> None:
    page = (derivative / "sub-01.html").read_text()
    for session in ("a", "b"):
        assert f'href="sub-01/figures/sub-01_ses-{session}_report.html"' in page
    assert page.count("data:image/png;base64,") == 2
    report = derivative / "sub-01" / "figures" / "sub-01_ses-a_report.html"
    assert 'href="../../sub-01.html"' in report.read_text()
    assert report.with_name("sub-01_ses-a_dseg.png").read_bytes()[:4] == b"\x89PNG"


def test_kill_9_at_any_moment_loses_nothing_and_two_processes_do_the_rest(
    derivative: Path, data: Path, bids_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    args = ("bids", data, out, "participant", "--model", bids_model, "--n-samples", 2)
    args = (*args, "--suffix", "T1w", "T2w", "--tissues", "--executor", "serial")
    whole = contents(derivative)
    # Before any scan, among the maps of the first, in the second, and there again.
    for n_files in (1, 6, 30, 9):
        killed_after(n_files, *args)
        for name, content in contents(out).items():
            is_final = not Path(name).name.startswith(".")
            # The page of a participant grows with the scans.
            if is_final and name != "sub-01.html":
                assert content == whole[name], name
    finished = {
        path.name: path.stat().st_mtime_ns
        for path in (out / "provenance").glob("*.json")
        if Record.from_json(path.read_text()).ended
    }
    assert finished
    # The others are done by two processes: the same to the bit.
    again = nobrainer_(*args, "--executor", "local", "--n-cpus", 2)
    assert again.exit_code == 0, again.stderr
    assert f"{len(finished)} of them before" in again.stdout
    assert contents(out) == whole
    for name, stamp in finished.items():
        assert (out / "provenance" / name).stat().st_mtime_ns == stamp


def test_what_cannot_be_done_has_its_reason_on_record(
    data: Path, bids_model: Path, tmp_path: Path
) -> None:
    bad = make_set(tmp_path / "bad")
    for number, content in enumerate((b"no image", b"")):
        path = bad / f"sub-{number}" / "anat" / f"sub-{number}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    (bad / "sub-2" / "anat").mkdir(parents=True)
    link = bad / "sub-2" / "anat" / "sub-2_T1w.nii.gz"
    link.symlink_to("../../.git/annex/objects/none")
    before = {p: p.lstat().st_mtime_ns for p in bad.rglob("*")}
    result = run_bids(bad, tmp_path / "out", bids_model)
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if "error: " in line]
    assert len(errors) == 3
    for number in range(2):
        path = tmp_path / "out" / "provenance" / f"sub-{number}_T1w.json"
        reason = Record.from_json(path.read_text()).data["failed"]
        assert f"sub-{number}_T1w.nii.gz" in reason
        assert any(reason in line for line in errors)
    assert before == {p: p.lstat().st_mtime_ns for p in bad.rglob("*")}
    # A file that was mended is done by the same command, beside those that are not.
    good = data / "sub-01" / "ses-a" / "anat" / "sub-01_ses-a_T1w.nii.gz"
    mended = bad / "sub-0" / "anat" / "sub-0_T1w.nii.gz"
    shutil.copy(good, mended)
    before |= {p: p.lstat().st_mtime_ns for p in (mended, mended.parent)}
    again = run_bids(bad, tmp_path / "out", bids_model)
    assert again.exit_code == 1 and "done     1\nfailed   2, see" in again.stdout
    assert before == {p: p.lstat().st_mtime_ns for p in bad.rglob("*")}
    record = Record.from_json(
        (tmp_path / "out" / "provenance" / "sub-0_T1w.json").read_text()
    )
    assert record.ended and "failed" not in record.data
    (of_input,) = record.inputs
    assert of_input.sha256 == hashlib.sha256(mended.read_bytes()).hexdigest()
    group = nobrainer_("bids", bad, tmp_path / "out", "group")
    assert group.exit_code == 0
    failed, absent = errors_of(group.stderr)
    assert "sub-1_T1w.nii.gz: failed" in failed and "datalad get" in absent
