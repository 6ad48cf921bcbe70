"""The tables of the group level, as R and pandas read them."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import nobrainer as nb
from nobrainer.bids.group.level import write_group
from nobrainer.bids.layout import read_layout
from nobrainer.errors import InputError, UnusualScanWarning

pandas = pytest.importorskip("pandas")
PART = "Left-Hippocampus"


def table(cohort, name):
    return pandas.read_csv(cohort.directory / f"group_{name}.tsv", sep="\t")


def test_the_wide_table_has_a_row_for_each_scan_that_is_done(cohort) -> None:
    wide = table(cohort, "volumes")
    assert len(wide) == 16 and wide["scan"].is_unique
    assert list(wide.columns[:3]) == ["participant_id", "session_id", "scan"]
    row = wide.set_index("scan").loc["sub-05_ses-a_T1w"]
    assert row["session_id"] == "ses-a" and row["site"] == "Köln"
    from_file = pandas.read_csv(
        cohort.directory / "sub-05/ses-a/anat/sub-05_ses-a_desc-volumetric_morph.tsv",
        sep="\t",
    ).set_index("name")["volume-mm3"]
    assert row[PART] == pytest.approx(from_file[PART])
    assert row["intracranial_mm3"] == pytest.approx(from_file["intracranial"])
    assert row["brain_mm3"] == pytest.approx(from_file["brain"])
    share = from_file[PART] / from_file["intracranial"]
    assert row[f"{PART}_per_icv"] == pytest.approx(share)
    assert row["score"] == 0.5 and bool(row["flagged"]) is True
    assert row["flags"] == "<u>odd volume; low"
    # A column of the data set that is called like one of ours gets another name.
    assert row["participants_score"] == 2 and row["age"] == 45
    assert "brain" not in wide and "intracranial" not in wide


def test_the_tidy_table_has_a_row_for_each_structure_of_each_scan(cohort) -> None:
    tidy = table(cohort, "structures")
    assert len(tidy) == 16 * 4
    parts = tidy[tidy["name"] == PART].set_index("scan")
    assert parts["index"].unique().tolist() == [10]
    assert tidy[tidy["name"] == "brain"]["index"].isna().all()
    assert (parts["volume_per_icv"] * parts["intracranial_mm3"]).to_numpy() == (
        pytest.approx(parts["volume_mm3"].to_numpy(), rel=1e-6)
    )
    logs = np.log(parts["volume_per_icv"])
    spread = 1.4826 * np.median(np.abs(logs - np.median(logs)))
    expected = (logs - np.median(logs)) / spread
    assert parts["robust_z"].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-4)
    assert parts.index[parts["outlier"]].tolist() == ["sub-05_ses-a_T1w"]
    lost = tidy[(tidy["status"] == "not found")].iloc[0]
    assert lost["participant_id"] == "sub-06" and bool(lost["outlier"]) is True
    assert np.isnan(lost["robust_z"]) and np.isnan(lost["volume_low_mm3"])
    assert parts["site"].value_counts().to_dict() == {"</script><b>x": 8, "Köln": 8}


def test_the_table_of_the_quality_lists_what_is_not_done_and_why(cohort) -> None:
    quality = table(cohort, "quality")
    assert len(quality) == 16 + 7
    gone = quality[quality["state"] != "done"].set_index("source")
    states = gone["state"].to_dict()
    assert states == {
        "sub-21/ses-a/anat/sub-21_ses-a_T1w.nii.gz": "failed",
        "sub-20/ses-a/anat/sub-20_ses-a_T1w.nii.gz": "waiting",
        "sub-22/ses-a/anat/sub-22_ses-a_T1w.nii.gz": "waiting",
        "sub-23": "missing",
        "sub-99": "missing",
        "sub-24/anat/sub-24_T1w.nii": "unusable",
        "sub-24/anat/sub-24_T1w.nii.gz": "unusable",
    }
    reasons = {where.split("/")[0]: text for where, text in gone["reason"].items()}
    assert reasons["sub-21"] == "is cut short"
    assert "was interrupted" in reasons["sub-22"]
    assert reasons["sub-23"].startswith("has no T1w")
    assert "has the same entities" in reasons["sub-24"]
    assert gone["session_id"].iloc[0] == "ses-a"
    # Who has no scan has an age, so that one can look whether they differ.
    assert gone.loc["sub-99", "age"] == 51
    odd = quality.set_index("scan").loc["sub-05_ses-a_T1w"]
    assert (odd["n_outliers"], odd["page"], odd["score_is"]) == (
        *(1, "sub-05.html"),
        "predicted Dice",
    )
    assert odd["entropy"] == 0.5


def test_changes_have_the_interval_of_the_common_draws(cohort) -> None:
    changes = table(cohort, "changes")
    assert len(changes) == 2 * 4
    row = changes.set_index(["participant_id", "name"]).loc["sub-00", PART]
    assert (row["earlier_session_id"], row["session_id"]) == ("ses-a", "ses-b")
    folder = cohort.directory / "sub-00"
    before, after = (
        pandas.read_csv(folder / f"ses-{s}/anat/sub-00_ses-{s}_draws.tsv", sep="\t")
        for s in "ab"
    )
    change = after[PART] - before[PART]
    assert row["change_mm3"] == pytest.approx(change.mean(), rel=1e-6)
    assert row["change_sd_mm3"] == pytest.approx(change.std(), rel=1e-5)
    assert row["years"] == 2
    assert row["percent_per_year"] == pytest.approx(row["percent"] / 2, rel=1e-6)
    assert row["change_high_mm3"] < 0 and row["age"] == 22
    other = changes.set_index(["participant_id", "name"]).loc["sub-01", PART]
    assert np.isnan(other["years"]) and np.isnan(other["percent_per_year"])


def test_sidecars_explain_every_column(cohort) -> None:
    for name in ("structures", "volumes", "quality", "changes"):
        about = json.loads((cohort.directory / f"group_{name}.json").read_text())
        columns = list(table(cohort, name).columns)
        assert list(about) == columns, name
        assert all(one["Description"] for one in about.values())
    wide = json.loads((cohort.directory / "group_volumes.json").read_text())
    assert wide[PART]["Units"] == "mm^3"
    assert wide["site"] == {"Description": "Where."}
    assert wide["participants_score"] == {"Description": "From the data set."}
    tidy = json.loads((cohort.directory / "group_structures.json").read_text())
    assert "3.5" in tidy["outlier"]["Description"]
    assert "90 %" in tidy["conformal_low_mm3"]["Description"]


def test_the_participant_level_leaves_what_the_group_level_needs(
    grouped: Path, data: Path, bids_model: Path
) -> None:
    wide = pandas.read_csv(grouped / "group_volumes.tsv", sep="\t")
    assert wide["scan"].tolist() == [
        *("sub-01_ses-a_T1w", "sub-01_ses-b_T1w"),
        "sub-02_T2w",
    ]
    # Without a class for the fluid around the brain no skull is known.
    assert wide["intracranial_mm3"].isna().all() and (wide["brain_mm3"] > 0).all()
    model = nb.Segmentation.load(bids_model)
    names = [name for name in model.labels_.names[1:] if name in wide]
    assert len(names) == 4
    scans = [data / f"sub-01/ses-{s}/anat/sub-01_ses-{s}_T1w.nii.gz" for s in "ab"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusualScanWarning)
        before, after = model.predict(scans, n_samples=2, seed=0, verbose=False)
    changes = pandas.read_csv(grouped / "group_changes.tsv", sep="\t")
    assert changes["name"].tolist() == [*names, "brain"]
    for row, change in zip(
        changes.itertuples(), after.changes_since(before), strict=True
    ):
        assert row.change_mm3 == pytest.approx(change.change_mm3, rel=1e-5)
        low = pytest.approx(change.change_low_mm3, rel=1e-5, nan_ok=True)
        assert row.change_low_mm3 == low


def test_only_its_own_files_are_written_and_a_second_run_writes_the_same(
    cohort, tmp_path: Path
) -> None:
    copy = tmp_path / "out"
    shutil.copytree(cohort.directory, copy)
    ours = [copy / path.name for path in cohort.group.files]
    assert len(ours) == 9 and all(one.name.startswith("group") for one in ours)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    write_group(read_layout(cohort.root), copy)
    after = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert before == after
    # Restricted to people without sessions to compare, no old table stays.
    few = read_layout(cohort.root, participants=["02", "03"])
    group = write_group(few, copy)
    assert len(group.scans) == 2 and not (copy / "group_changes.tsv").exists()
    (line,) = group.problems
    assert "belongs to no scan that was asked for (of such files there are 14)" in line


def test_damaged_results_and_empty_folders_are_told(cohort, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no scan of .* is done: run the participant"):
        write_group(read_layout(cohort.root), tmp_path)
    copy = tmp_path / "out"
    shutil.copytree(cohort.directory, copy)
    folder = copy / "sub-02" / "ses-a" / "anat"
    (folder / "sub-02_ses-a_quality.json").write_text("{")
    folder = copy / "sub-03" / "ses-a" / "anat"
    (folder / "sub-03_ses-a_desc-volumetric_morph.tsv").write_text("name\nx\n")
    (copy / "sub-04/ses-a/anat/sub-04_ses-a_quality.json").unlink()
    group = write_group(read_layout(cohort.root), copy)
    told = {gap.subject: f"{gap.state}: {gap.reason}" for gap in group.gaps}
    assert "sub-02_ses-a_quality.json: cannot be read" in told["sub-02"]
    assert "morph.tsv: lacks index, status, volume-mm3" in told["sub-03"]
    assert told["sub-04"].startswith("waiting: its files are gone")
    assert told["sub-02"].startswith("failed: ")
