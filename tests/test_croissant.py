import getpass
import hashlib
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlcroissant as mlc
import pytest

import recipes
from nobrainer.croissant import (
    Field,
    FileEntry,
    fields_of,
    model_metadata,
    to_json,
    write_dataset,
)
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.recipe import FileRecord, Fold, Source, Statement

VALIDATE = Path(sys.executable).with_name("mlcroissant")
# Every request of the validator would go to this closed port and fail.
OFFLINE = {
    name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "ALL_PROXY")
}


def _validate(path):
    return subprocess.run(
        [VALIDATE, "validate", "--jsonld", path],
        capture_output=True,
        text=True,
        env=os.environ | OFFLINE,
        check=False,
    )


def _assert_valid(path):
    done = _validate(path)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Done." in said
    assert "warning" not in said.lower()
    assert "error" not in said.lower()
    assert len(said.splitlines()) == 1, said


def _strings(node):
    if isinstance(node, dict):
        for key, value in node.items():
            yield key
            yield from _strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value)
    elif isinstance(node, str):
        yield node


def _assert_tells_no_place(document, *places):
    for text in _strings(document):
        assert not text.startswith(("/", "file:")), text
        for place in (*map(str, places), str(Path.home()), f"/{getpass.getuser()}/"):
            assert place not in text


def _recipe(metrics):
    roles = ("train-image", "train-label", "validate-image", "validate-label")
    return recipes.make_recipe(
        model={"args": {"n_classes": 2, "kl_weight": 1e-3}},
        data={"relabel": {"2": 1, "41": 1}},
        training={"opt_args": {"lr": 1e-3}, "loss": "elbo"},
        provenance={
            "versions": {"nobrainer": "0.1.dev3+g1234", "torch": "2.13.0+cpu"},
            "files": tuple(
                FileRecord(f"sub {i}.nii.gz", role, f"{i}" * 64, 100 + i)
                for i, role in enumerate(roles)
            ),
            "metrics": metrics,
            "folds": (Fold(("sub-1", "sub-2"), 3, ("0" * 64,)), Fold(("b",), 1, ())),
        },
    )


def _bundle_files(folder):
    rows = [
        {"epoch": 1, "loss": 1.5, "validation_dice": None},
        {"epoch": 2, "loss": 1, "validation_dice": 0.25},
    ]
    texts = {
        "weights.safetensors": ("application/octet-stream", "w", ()),
        "labels.tsv": (
            "text/tab-separated-values",
            LabelTable(("background", "brain"), ids=(0, None)).to_tsv(),
            (
                Field("index", "sc:Integer"),
                Field("name", "sc:Text"),
                Field("color", "sc:Text"),
                Field("original", "sc:Integer"),
            ),
        ),
        "history.jsonl": (
            "application/jsonlines",
            "".join(json.dumps(row) + "\n" for row in rows),
            fields_of(rows),
        ),
        "calibration.json": ("application/json", "{}", ()),
    }
    files = []
    for name, (encoding, text, fields) in texts.items():
        (folder / name).write_text(text)
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        files.append(FileEntry(name, sha256, len(text), encoding, "words", fields))
    return files


@pytest.fixture
def model(tmp_path):
    recipe = _recipe({"validation_dice": 0.5, "nll": math.nan})
    document = model_metadata(recipe, _bundle_files(tmp_path))
    path = tmp_path / "croissant.json"
    path.write_text(to_json(document))
    return path


def test_model_metadata_passes_the_validator_without_a_warning(model):
    _assert_valid(model)


def test_the_validation_helper_notices_a_warning(model):
    document = json.loads(model.read_text())
    del document["license"]
    model.write_text(json.dumps(document))
    assert "warning" in (done := _validate(model)).stderr.lower(), done


def test_the_tables_of_a_model_can_be_read_through_their_description(model):
    dataset = mlc.Dataset(model)
    labels = list(dataset.records("labels"))
    assert [row["labels/index"] for row in labels] == [0, 1]
    assert [row["labels/name"] for row in labels] == [b"background", b"brain"]
    assert [row["labels/color"] for row in labels] == [b"#000000", b"#1f77b4"]
    assert [row["labels/original"] for row in labels] == [0, None]
    history = list(dataset.records("history"))
    assert [row["history/loss"] for row in history] == [1.5, 1.0]
    assert history[1]["history/validation_dice"] == 0.25


def test_provenance_holds_files_times_versions_seed_and_figures(model):
    document = json.loads(model.read_text())
    derived = document["prov:wasDerivedFrom"]
    assert [d["sha256"] for d in derived] == ["0" * 64, "1" * 64]
    activity = document["prov:wasGeneratedBy"]
    assert [used["@id"] for used in activity["prov:used"]] == [
        "train-image-0",
        "train-label-1",
        "validate-image-2",
        "validate-label-3",
    ]
    assert activity["prov:startedAtTime"]["@value"] == "2025-01-02T03:04:05+00:00"
    assert activity["prov:endedAtTime"]["@value"] == "2025-01-02T03:05:05+00:00"
    software = {
        agent["name"]: agent["softwareVersion"]
        for agent in activity["prov:wasAssociatedWith"]
    }
    assert software == {"nobrainer": "0.1.dev3+g1234", "torch": "2.13.0+cpu"}
    parameters = {p["name"]: p["value"] for p in activity["additionalProperty"]}
    assert parameters["training.seed"] == 7
    assert parameters["training.epochs"] == 3
    assert json.loads(parameters["training.opt_args"]) == {"lr": 1e-3}
    assert json.loads(parameters["provenance.folds"]) == [["sub-1", "sub-2"], ["b"]]
    assert json.loads(parameters["data.block_shape"]) == [32, 32, 32]
    assert parameters["data.shuffle"] is True
    assert "training.max_minutes" not in parameters
    assert "provenance.member_seeds" not in parameters
    figures = {p["name"]: p["value"] for p in document["additionalProperty"]}
    assert figures == {"validation_dice": 0.5, "nll": "NaN"}
    titles = {p["name"]: p.get("description") for p in document["additionalProperty"]}
    assert titles["validation_dice"].startswith("Dice on validation scans")
    assert titles["nll"] is None


def test_the_seeds_of_members_are_among_the_parameters(tmp_path):
    recipe = _recipe({})
    made = replace(recipe.provenance, member_seeds=(3, 5))
    document = model_metadata(replace(recipe, provenance=made), ())
    activity = document["prov:wasGeneratedBy"]
    parameters = {p["name"]: p["value"] for p in activity["additionalProperty"]}
    assert parameters["provenance.member_seeds"] == "[3, 5]"


SEARCH = replace(
    recipes.SEARCH,
    validation={"dice": 0.91, "nll": math.nan},
    baseline_validation={"dice": 0.88},
    spread={"dice": 0.004},
    test={"dice": 0.9, "dice/white matter": 0.8},
)


def _searched(search):
    recipe = _recipe({"validation_dice": 0.5})
    return replace(recipe, provenance=replace(recipe.provenance, search=search))


def test_a_search_informed_the_training(tmp_path):
    path = tmp_path / "croissant.json"
    files = _bundle_files(tmp_path)
    path.write_text(to_json(model_metadata(_searched(SEARCH), files)))
    _assert_valid(path)
    document = json.loads(path.read_text())
    search = document["prov:wasGeneratedBy"]["prov:wasInformedBy"]
    assert (search["@id"], search["@type"]) == ("search", "prov:Activity")
    assert search["prov:startedAtTime"]["@value"] == "2025-01-01T20:00:00+00:00"
    assert search["prov:endedAtTime"]["@value"] == "2025-01-02T04:00:00+00:00"
    parameters = {p["name"]: p["value"] for p in search["additionalProperty"]}
    assert parameters == {
        "search.family": "bayesian_vnet",
        "search.proposer": "tpe",
        "search.objectives": '["dice", "nll"]',
        "search.seed": 3,
        "search.run": 7,
        "search.n_runs": 15,
        "search.n_failed": 2,
        "search.n_train": 6,
        "search.n_validate": 2,
        "search.n_test": 2,
        "search.space.base_filters": '{"values": [8, 16]}',
        "search.space.levels": '{"high": 4, "low": 2}',
        "search.values.base_filters": 16,
        "search.values.levels": 3,
    }
    figures = {p["name"]: p["value"] for p in document["additionalProperty"]}
    assert figures == {
        "validation_dice": 0.5,
        "search.validation.dice": 0.91,
        "search.validation.nll": "NaN",
        "search.baseline_validation.dice": 0.88,
        "search.spread.dice": 0.004,
        "search.test.dice": 0.9,
        "search.test.dice/white matter": 0.8,
        "search.baseline_test.dice": 0.87,
        "search.test_difference.mean": 0.03,
        "search.test_difference.low": 0.01,
        "search.test_difference.high": 0.05,
    }


def test_no_search_and_no_test_are_not_claimed():
    plain = model_metadata(_recipe({"validation_dice": 0.5}), ())
    assert "prov:wasInformedBy" not in plain["prov:wasGeneratedBy"]
    untested = replace(SEARCH, test=None, baseline_test=None, test_difference=None)
    document = model_metadata(_searched(untested), ())
    names = {p["name"] for p in document["additionalProperty"]}
    assert names == {
        "validation_dice",
        *("search.validation.dice", "search.validation.nll"),
        *("search.baseline_validation.dice", "search.spread.dice"),
    }


def test_model_metadata_tells_no_place(model, tmp_path):
    _assert_tells_no_place(json.loads(model.read_text()), tmp_path)


def test_no_license_is_claimed_for_a_users_model(model):
    assert json.loads(model.read_text())["license"] == "NOASSERTION"


def test_what_is_stated_of_a_model_is_in_its_metadata(tmp_path):
    recipe = _recipe({"validation_dice": 0.5})
    source = Source("maps", "https://example.org/maps", "CC-BY-4.0", "Doe 2025.")
    statement = Statement("brain", "Apache-2.0", "A brain, 2026.", (source,))
    provenance = replace(recipe.provenance, statement=statement)
    recipe = replace(recipe, provenance=provenance)
    path = tmp_path / "croissant.json"
    path.write_text(to_json(model_metadata(recipe, _bundle_files(tmp_path))))
    _assert_valid(path)
    document = json.loads(path.read_text())
    assert document["name"] == "brain"
    assert document["license"] == "Apache-2.0"
    assert document["citeAs"] == "A brain, 2026."
    assert document["prov:wasDerivedFrom"][-1] == {
        "@id": "https://example.org/maps",
        "@type": "prov:Entity",
        "name": "maps",
        "license": "CC-BY-4.0",
        "creditText": "Doe 2025.",
    }


def test_fields_of_takes_types_from_all_rows():
    rows = [
        {"epoch": 1, "loss": 2, "dice": None, "note": "a", "best": True, "none": None},
        {"epoch": 2, "loss": 0.5, "dice": [0.1, 1], "note": 3, "best": False},
    ]
    assert fields_of(rows) == (
        Field("epoch", "sc:Integer"),
        Field("loss", "sc:Float"),
        Field("note", "sc:Text"),
        Field("best", "sc:Boolean"),
        Field("dice", "sc:Float", is_array=True),
    )
    assert fields_of([]) == ()


WHOM = ("sub-1", "sub-1", "sub-2")


@pytest.fixture
def subjects(tmp_path):
    """Three subjects: beside, below and outside the folder of the metadata."""
    places = ("study/a.nii.gz", "study/deep er/b.mgz", "elsewhere/ü.nii")
    pairs = []
    for i, place in enumerate(places):
        image = tmp_path / place
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(bytes([i]))
        label = image.with_name(f"label{i}.nii.gz")
        label.write_bytes(bytes([10 + i]))
        pairs.append((image, label if i < 2 else None))
    return pairs


def test_dataset_passes_the_validator_without_a_warning(subjects, tmp_path):
    path = tmp_path / "study" / "croissant.json"
    assert write_dataset(path, "my study", subjects, 6, WHOM) == path
    _assert_valid(path)
    _assert_tells_no_place(json.loads(path.read_text()), tmp_path)
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "a.nii.gz",
        "croissant.json",
        "deep er",
        "label0.nii.gz",
    ]


def test_dataset_records_paths_and_checksums(subjects, tmp_path):
    path = write_dataset(tmp_path / "study" / "c.json", "my study", subjects, 6, WHOM)
    document = json.loads(path.read_text())
    files = {f["@id"]: f for f in document["distribution"]}
    assert list(files) == ["image-0", "label-0", "image-1", "label-1", "image-2"]
    assert {i: f["contentUrl"] for i, f in files.items()} == {
        "image-0": "a.nii.gz",
        "label-0": "label0.nii.gz",
        "image-1": "deep er/b.mgz",
        "label-1": "deep er/label1.nii.gz",
        "image-2": "../elsewhere/ü.nii",
    }
    for file in files.values():
        content = (path.parent / file["contentUrl"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        assert file["contentSize"] == "1 B"
    assert "MghFormat" in files["image-1"]["encodingFormat"]
    assert "nifti" in files["image-2"]["encodingFormat"]
    records = list(mlc.Dataset(path).records("scans"))
    assert [r["scans/subject"] for r in records] == ["sub-1", "sub-1", "sub-2"]
    described = json.loads(path.read_text())["description"]
    assert described == "Brain MRI: 3 scans of 2 subjects, 6 classes."
    assert [r["scans/image"] for r in records] == [
        "a.nii.gz",
        "deep er/b.mgz",
        "../elsewhere/ü.nii",
    ]


def test_paths_hold_when_the_metadata_is_reached_through_a_link(subjects, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    link = tmp_path / "a" / "b" / "link"
    link.symlink_to(tmp_path / "study")
    path = write_dataset(link / "c.json", "my study", subjects, 6, WHOM)
    for file in json.loads(path.read_text())["distribution"]:
        assert (path.parent / file["contentUrl"]).is_file()


def test_relative_paths_are_relative_to_the_metadata(subjects, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "elsewhere")
    pairs = [(Path("../study/a.nii.gz"), Path("ü.nii"))]
    path = write_dataset("../study/c.json", "my study", pairs, 6, ["sub-1"])
    urls = [f["contentUrl"] for f in json.loads(path.read_text())["distribution"]]
    assert urls == ["a.nii.gz", "../elsewhere/ü.nii"]


def test_a_missing_file_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(InputError, match=r"gone\.nii: cannot be read"):
        write_dataset(
            tmp_path / "c.json", "x", [(tmp_path / "gone.nii", None)], 2, [""]
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["no/such/folder/c.json", "a.nii/c.json", "folder"])
def test_an_unwritable_place_is_named(tmp_path, place):
    image = tmp_path / "a.nii"
    image.write_bytes(b"0")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=f"{place}: cannot be written"):
        write_dataset(tmp_path / place, "x", [(image, None)], 2, ["sub-1"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii", "folder"]
