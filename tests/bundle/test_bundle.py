import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlcroissant as mlc
import pytest
import torch
from safetensors.torch import save as save_tensors

from bundles import (
    ALL_NAMES,
    CALIBRATION,
    FITTED,
    NAMES,
    QUALITY,
    assert_same,
    contents,
    sign,
)
from nobrainer.bundle import is_taken, load, save
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.recipe import FORMAT_VERSION


def test_round_trip_is_bit_equal(bundle, tmp_path):
    assert save(bundle, tmp_path / "model") == tmp_path / "model"
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == sorted(ALL_NAMES)
    assert_same(load(tmp_path / "model"), bundle)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_loaded_weights_are_contiguous_cpu_tensors_that_can_be_changed(saved):
    for tensor in load(saved).weights.values():
        assert tensor.device.type == "cpu"
        assert tensor.is_contiguous()
        tensor.add_(1)


def test_saving_what_was_loaded_gives_the_same_bytes(saved, tmp_path):
    again = save(load(saved), tmp_path / "again")
    assert contents(again) == contents(saved)


def test_sha256sum_accepts_the_checksums(saved):
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"],
        cwd=saved,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [f"{name}: OK" for name in NAMES]


@pytest.mark.parametrize(
    ("fixture", "names"), [("saved", NAMES[:-1]), ("fitted", (*NAMES[:-1], *FITTED))]
)
def test_croissant_describes_the_files_and_passes_the_validator(
    fixture, names, request
):
    saved = request.getfixturevalue(fixture)
    document = json.loads((saved / "croissant.json").read_text())
    files = {f["contentUrl"]: f["sha256"] for f in document["distribution"]}
    assert files == {
        name: hashlib.sha256((saved / name).read_bytes()).hexdigest() for name in names
    }
    done = subprocess.run(
        [
            Path(sys.executable).with_name("mlcroissant"),
            "validate",
            "--jsonld",
            saved / "croissant.json",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len((done.stdout + done.stderr).splitlines()) == 1, done
    assert "Done." in done.stderr


def test_labels_can_be_read_through_their_description(bundle, tmp_path):
    named = replace(bundle, labels=LabelTable(bundle.labels.names, ids=(0, None, 2)))
    for model, ids in ((bundle, [None] * 3), (named, [0, None, 2])):
        folder = save(model, tmp_path / "model", overwrite=True)
        rows = list(mlc.Dataset(folder / "croissant.json").records("labels"))
        assert [row["labels/original"] for row in rows] == ids
        assert [row["labels/color"].decode() for row in rows] == [
            *("#000000", "#1f77b4", "#ff7f0e")
        ]


def test_what_was_fitted_is_kept_and_listed(bundle, fitted, tmp_path):
    full = replace(bundle, calibration=CALIBRATION, quality=QUALITY)
    assert_same(load(fitted), full)
    names = sorted(path.name for path in fitted.iterdir())
    assert names == sorted((*ALL_NAMES, *FITTED))
    subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=fitted, check=True
    )
    assert (fitted / "SHA256SUMS").read_text().count("\n") == len(names) - 1
    assert json.loads((fitted / "calibration.json").read_text())["weight"][1] == 0.5
    one = replace(bundle, quality=QUALITY)
    folder = save(one, tmp_path / "one")
    assert_same(load(folder), one)
    assert not (folder / "calibration.json").exists()


def test_replacing_a_model_takes_away_what_was_fitted(bundle, fitted):
    save(bundle, fitted, overwrite=True)
    assert_same(load(fitted), bundle)
    assert sorted(path.name for path in fitted.iterdir()) == sorted(ALL_NAMES)


def test_the_card_tells_of_the_model_and_what_was_fitted(saved, fitted):
    card = (saved / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# unet: brain MRI in 3 classes\n")
    assert "| 2 | Weiße Substanz |" in card
    assert "Epochs trained: 2." in card
    assert "`nobrainer calibrate` was not run" in card
    card = (fitted / "README.md").read_text(encoding="utf-8")
    assert "(vector), fitted on 4 scans" in card
    assert "20 cases of 5 subjects" in card


def _take_card(folder):
    """Make a model as older versions saved it: without a card."""
    (folder / "README.md").unlink()
    raw = json.loads((folder / "recipe.json").read_text())
    raw["format_version"] = 2
    del raw["provenance"]["search"]
    (folder / "recipe.json").write_text(json.dumps(raw))
    sign(folder)


def test_models_without_a_card_are_read_and_saved_with_one(bundle, saved, tmp_path):
    card = (saved / "README.md").read_bytes()
    _take_card(saved)
    assert b"README" not in (saved / "SHA256SUMS").read_bytes()
    assert_same(load(saved), bundle)
    save(load(saved), saved, overwrite=True)
    assert (saved / "README.md").read_bytes() == card


def test_a_readme_beside_an_older_model_is_somebodys_own(bundle, saved):
    _take_card(saved)
    assert is_taken(saved)
    (saved / "README.md").write_text("precious")
    before = contents(saved)
    with pytest.raises(InputError, match=r"not a model's \(README\.md\)"):
        save(bundle, saved, overwrite=True)
    with pytest.raises(InputError, match=r"README\.md: truncated or changed"):
        load(saved)
    assert contents(saved) == before


def test_models_of_the_first_format_are_read(bundle, saved):
    _take_card(saved)
    raw = json.loads((saved / "recipe.json").read_text())
    raw["format_version"] = 1
    for name in ("cohort", "member_seeds"):
        del raw["provenance"][name]
    for name in ("warm_start", "warm_start_delta"):
        del raw["training"][name]
    (saved / "recipe.json").write_text(json.dumps(raw))
    rows = "".join(f"{i}\t{name}\n" for i, name in enumerate(bundle.labels.names))
    (saved / "labels.tsv").write_text("index\tname\n" + rows)
    sign(saved)
    assert_same(load(saved), bundle)


@pytest.mark.parametrize("name", FITTED)
def test_a_fitted_file_is_in_the_list_and_the_directory_or_in_none(fitted, saved, name):
    kept = (fitted / name).read_bytes()
    (fitted / name).unlink()
    with pytest.raises(InputError, match=rf"fitted/{name}: missing"):
        load(fitted)
    (saved / name).write_bytes(kept)
    with pytest.raises(InputError, match=rf"model/{name}: truncated or changed"):
        load(saved)
    (fitted / name).write_bytes(kept.replace(b"0", b"1", 1))
    with pytest.raises(InputError, match=rf"fitted/{name}: truncated or changed"):
        load(fitted)


@pytest.mark.parametrize("kept", [0, 70, -1])
def test_a_list_that_is_cut_short_is_blamed_itself(fitted, kept):
    sums = (fitted / "SHA256SUMS").read_bytes()
    (fitted / "SHA256SUMS").write_bytes(sums[:kept])
    with pytest.raises(InputError, match="fitted/SHA256SUMS: truncated or changed"):
        load(fitted)


def test_a_calibration_of_other_classes_is_refused(bundle, tmp_path):
    two = replace(CALIBRATION, weight=(1.0, 1.0), bias=(0.0, 0.0), intervals=None)
    folder = save(replace(bundle, calibration=two), tmp_path / "model")
    with pytest.raises(
        InputError, match=r"calibration\.json: scales 2 classes, but the model has 3"
    ):
        load(folder)


def test_a_model_without_history_is_valid_too(bundle, tmp_path):
    folder = save(replace(bundle, history=()), tmp_path / "model")
    assert load(folder).history == ()
    document = json.loads((folder / "croissant.json").read_text())
    assert [table["name"] for table in document["recordSet"]] == ["labels"]


def test_no_directory_and_no_model_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="gone: no such directory"):
        load(tmp_path / "gone")
    with pytest.raises(InputError, match=r"recipe\.json: missing"):
        load(tmp_path)


@pytest.mark.parametrize("name", ALL_NAMES)
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(InputError, match=f"{name}: missing"):
        load(saved)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
@pytest.mark.parametrize("name", ALL_NAMES)
def test_a_file_that_cannot_be_read_is_named(saved, name, make):
    (saved / name).unlink()
    make(saved / name)
    with pytest.raises(InputError, match=f"{name}: cannot be read"):
        load(saved)


@pytest.mark.parametrize("name", ALL_NAMES)
def test_any_changed_byte_is_refused_and_the_file_named(saved, name):
    path = saved / name
    original = path.read_bytes()
    for position in range(0, len(original), max(1, len(original) // 40)):
        for flip in (1, 0x80):
            changed = bytearray(original)
            changed[position] ^= flip
            path.write_bytes(changed)
            with pytest.raises(InputError, match=name) as error:
                load(saved)
            assert "\n" not in str(error.value)
    path.write_bytes(original)
    load(saved)


@pytest.mark.parametrize("name", ALL_NAMES)
@pytest.mark.parametrize("kept", [0, -1])
def test_a_truncated_or_extended_file_is_refused_and_named(saved, name, kept):
    path = saved / name
    original = path.read_bytes()
    for changed in (original[:kept], original + b"\n"):
        path.write_bytes(changed)
        with pytest.raises(InputError, match=f"{name}.*truncated or changed"):
            load(saved)


def test_the_file_of_another_model_is_refused_and_named(bundle, saved, tmp_path):
    weights = {name: tensor + 1 for name, tensor in bundle.weights.items()}
    other = save(replace(bundle, weights=weights), tmp_path / "other")
    shutil.copy(other / "weights.safetensors", saved)
    with pytest.raises(InputError, match=r"weights\.safetensors: truncated or changed"):
        load(saved)


def test_a_newer_format_is_refused_before_anything_else_is_read(saved):
    raw = {"format_version": FORMAT_VERSION + 1, "of_the_future": []}
    (saved / "recipe.json").write_text(json.dumps(raw))
    for name in ALL_NAMES:
        if name != "recipe.json":
            (saved / name).unlink()
    with pytest.raises(InputError, match=r"recipe\.json: .*upgrade nobrainer"):
        load(saved)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("weights.safetensors", b"", "header"),
        ("weights.safetensors", b"\xff" * 64, "header"),
        (
            "weights.safetensors",
            save_tensors({"a": torch.ones(9)})[:-1],
            "not fully covered",
        ),
        ("recipe.json", b"{}", "lacks the field"),
        ("recipe.json", b"\xff", "utf-8"),
        ("labels.tsv", b"0\tbackground\n", "label table"),
        ("history.jsonl", b"{", "Expecting"),
        ("calibration.json", b"{", "calibration is not JSON"),
        ("calibration.json", b"\xff", "utf-8"),
        ("quality.json", b"{}", "lacks the field"),
    ],
)
def test_damage_under_right_checksums_is_refused_and_named(
    fitted, name, content, message
):
    (fitted / name).write_bytes(content)
    sign(fitted)
    with pytest.raises(InputError, match=f"{name}: .*{message}"):
        load(fitted)


class _Trap:
    def __reduce__(self):
        return (os.mkdir, ("sprung",))


def test_no_pickled_code_runs(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": _Trap()}, saved / "weights.safetensors")
    sign(saved)
    with pytest.raises(InputError, match=r"weights\.safetensors"):
        load(saved)
    assert not (tmp_path / "sprung").exists()
