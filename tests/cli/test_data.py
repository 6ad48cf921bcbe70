"""`nobrainer data`: ten subjects for a first run; scans into a store."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from commands import nobrainer_
from nobrainer.data.zarr_store.table import read_rows
from scans import write_scan

SMALL = (
    *("--binarize", "--model", "vnet", "--model-arg", "base_filters=1"),
    *("--model-arg", "levels=1", "--block-shape", 8, 8, 8),
    *("--patches-per-volume", 1, "--max-steps", 1),
)


def test_data_prints_the_table(sample_csv: Path) -> None:
    plain = nobrainer_("data", "--source", "embedded")
    assert plain.stdout == f"{sample_csv}\n"
    as_json = nobrainer_("data", "--source", "embedded", "--json")
    assert json.loads(as_json.stdout) == {"csv": str(sample_csv)}
    assert nobrainer_("data", "--source", "nowhere").exit_code == 2


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [["features", "labels", "split"]]
    for number, split in enumerate(["train", "train", "validate"]):
        rows.append([*map(str, write_scan(tmp_path, f"sub-{number}")), split])
    with (tmp_path / "scans.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path / "scans.csv"


def test_a_model_from_a_store_is_that_of_the_files(table: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    done = nobrainer_("data", "convert", table, store, "--spacing", 1, 1, 2)
    assert done.stdout == f"{store}\n", done.stderr
    again = nobrainer_("data", "convert", table, store)
    assert (again.exit_code, again.stdout) == (0, f"{store}\n"), again.stderr
    assert [row.shape for row in read_rows(store / "scans.tsv")] == [(18, 16, 10)] * 3
    stories = []
    for source, spacing in ((store, ()), (table, ("--spacing", 1, 1, 2))):
        place = tmp_path / f"model-{source.suffix}"
        asked = ("--split", "train", "--validate-split", "validate", *spacing)
        made = nobrainer_(
            "train", "--data", source, "--output-dir", place, *SMALL, *asked
        )
        assert made.exit_code == 0, made.stderr
        stories.append(json.loads(nobrainer_("info", place, "--json").stdout)["recipe"])
    refused = nobrainer_(
        *("evaluate", "--data", table, "--model", tmp_path / "model-.zarr"),
        *("--output-dir", tmp_path / "evaluation"),
    )
    assert "sub-0_T1w.nii.gz: the model has used it in training" in refused.stderr
    of_store, of_files = stories
    assert of_store["preprocess"] == of_files["preprocess"]
    assert of_store["data"] == of_files["data"]
    files = of_store["provenance"]["files"]
    assert files == of_files["provenance"]["files"]
    assert [one["role"] for one in files] == [
        *("train-image", "train-label") * 2,
        *("validate-image", "validate-label"),
    ]
    one, other = (story["provenance"]["cohort"] for story in stories)
    for name in ("n_subjects", "n_scans", "log_mean", "log_sd", "n_having"):
        assert one[name] == other[name]
    seen, expected = one["appearance"], other["appearance"]
    assert np.allclose(seen["mean"], expected["mean"], atol=1e-3)


def test_a_damaged_file_of_a_store_is_named(table: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    nobrainer_("data", "convert", table, store)
    whole = nobrainer_("data", "verify", store)
    assert whole.stdout == f"{store}: all 15 files are as they were written\n"
    file = store / "nifti" / "c" / "2" / "0"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    damaged = nobrainer_("data", "verify", store)
    assert (damaged.exit_code, damaged.stdout) == (2, "")
    assert f"{file}: of scan sub-2_T1w, subject sub-2, is damaged: remove it, and" in (
        damaged.stderr
    )


def test_a_store_is_written_as_files_that_make_the_same_labels(
    table: Path, tmp_path: Path
) -> None:
    store, again = tmp_path / "s.zarr", tmp_path / "again.zarr"
    nobrainer_("data", "convert", table, store)
    done = nobrainer_("data", "export", store, tmp_path / "files", "--split", "train")
    assert done.stdout == f"{tmp_path / 'files' / 'scans.csv'}\n", done.stderr
    nobrainer_("data", "convert", tmp_path / "files" / "scans.csv", again)
    rows = read_rows(again / "scans.tsv")
    assert [(row.subject, row.split) for row in rows] == [
        *(("sub-0", "train"), ("sub-1", "train"))
    ]
    for row, before in zip(rows, read_rows(store / "scans.tsv"), strict=False):
        file = f"labels/values/0/c/{row.index}/0/0/0"
        assert row.checksums[file] == before.checksums[file]


def test_a_bids_data_set_is_converted_with_the_labels_of_another(
    tmp_path: Path,
) -> None:
    bids = tmp_path / "bids"
    maps = bids / "derivatives" / "manual"
    for number, session in ((1, "a"), (1, "b"), (2, "a")):
        name = f"sub-{number}_ses-{session}"
        place = Path(f"sub-{number}", f"ses-{session}", "anat")
        _, label = write_scan(bids / place, name)
        (maps / place).mkdir(parents=True)
        label.rename(maps / place / f"{name}_seg-aseg_desc-edited_dseg.nii.gz")
    (bids / "dataset_description.json").write_text('{"Name": "a", "BIDSVersion": "1"}')
    store = tmp_path / "s.zarr"
    done = nobrainer_("data", "convert", bids, store, "--labels", maps)
    assert done.exit_code == 0, done.stderr
    rows = read_rows(store / "scans.tsv")
    assert [(row.subject, row.session) for row in rows] == [
        *(("sub-1", "ses-a"), ("sub-1", "ses-b"), ("sub-2", "ses-a"))
    ]
    assert zarr.open_group(store)["images"].shape == (3, 20, 16, 18)
    assert nobrainer_("data", "convert", bids, store).exit_code == 2
    place = maps / "sub-1" / "ses-b" / "anat"
    next(place.glob("*.gz")).unlink()
    refused = nobrainer_("data", "convert", bids, store, "--labels", maps)
    assert refused.exit_code == 2
    assert "sub-1/ses-b/anat/sub-1_ses-b_T1w.nii.gz: needs one label map" in (
        refused.stderr
    )


def test_what_is_asked_of_a_store_must_be_there(table: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    nobrainer_("data", "convert", table, store)
    train = ("train", "--output-dir", tmp_path / "m", *SMALL)
    for asked, says in (
        (("--data", store, "--split", "test"), "its splits are train, validate"),
        (("--data", table, "--split", "test"), "has no scan in the split 'test'"),
        (("--data", store, "--validate-split", "train"), "another split of --data"),
        (("--data", tmp_path, "--split", "train"), "is no store: make one by"),
        (("--label-maps", table, "--split", "train"), "--split is for --data"),
        (("--data", store, "--spacing", 2, 2, 2), "spacing_mm (1.0, 1.0, 1.0), not"),
    ):
        refused = nobrainer_(*train, *asked)
        assert refused.exit_code == 2
        assert says in refused.stderr, refused.stderr
