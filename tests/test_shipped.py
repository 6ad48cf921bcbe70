"""The models that come with nobrainer: what is told of them, and how one is found."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import nobrainer as nb
from boxes import box_of, state_of, use
from bundles import make_bundle
from nobrainer.bundle import save
from nobrainer.errors import InputError
from nobrainer.shipped import describe, find, folder_of, names
from recipes import SEARCH

MOST_BYTES = 12_000_000
# A search whose test split was not scored yet.
LOCKED = replace(SEARCH, test=None, baseline_test=None, test_difference=None)


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """The box that comes with nobrainer, or one like it where that is empty."""
    return box_of(tmp_path_factory.mktemp("box"))


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A box with the models `brain` and `tissue`, and two folders that are none."""
    folder = tmp_path / "made"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "notes").mkdir()
    (folder / "notes" / "README.md").write_text("not a model")
    for name in ("tissue", "brain"):
        save(make_bundle(), folder / name)
    use(monkeypatch, folder)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_names_are_those_of_the_folders_that_hold_a_model(made):
    assert names() == ("brain", "tissue")


def test_all_that_is_told_of_a_model_comes_from_its_files(made):
    bundle = make_bundle()
    provenance = replace(
        bundle.recipe.provenance,
        ended="2026-03-01T23:59:59+00:00",
        metrics={"dice": 0.99, "validation_dice": 0.75},
    )
    bundle = replace(bundle, recipe=replace(bundle.recipe, provenance=provenance))
    folder = save(bundle, made / "brain", overwrite=True)
    found = describe("brain")
    assert found.version == "2026.03.01"
    assert found.classes == ("grey matter", "Weiße Substanz")
    sums = (folder / "SHA256SUMS").read_bytes()
    assert found.digest == hashlib.sha256(sums).hexdigest()
    assert found.expected_dice == 0.75
    assert found.size_bytes == sum(len(p.read_bytes()) for p in folder.iterdir())
    assert found.folder == folder == folder_of("brain")


@pytest.mark.parametrize(
    ("search", "metrics", "expected"),
    [
        (None, {}, None),
        (None, {"dice": 0.9}, None),
        (replace(SEARCH, test={"dice": 0.5}), {"validation_dice": 0.75}, 0.5),
        (LOCKED, {"validation_dice": 0.75}, 0.75),
    ],
)
def test_the_dice_to_expect_is_of_scans_that_did_not_teach_the_weights(
    search, metrics, expected
):
    provenance = make_bundle().recipe.provenance
    provenance = replace(provenance, search=search, metrics=metrics)
    assert provenance.expected_dice == expected


def test_a_name_is_found_from_anywhere(made, here):
    assert find("brain") == made / "brain"


def test_a_folder_without_a_model_does_not_stand_in_the_way(made, here):
    (here / "brain").mkdir()
    (here / "brain" / "README.md").write_text("my results")
    assert find("brain") == made / "brain"


def test_a_model_or_file_of_that_name_in_the_working_directory_comes_first(made, here):
    save(make_bundle(), here / "brain")
    assert find("brain") == Path("brain")
    (here / "tissue").write_bytes(b"a checkpoint")
    assert find("tissue") == Path("tissue")
    # The default of a command is not asked for by name.
    assert folder_of("brain") == made / "brain"


def test_a_damaged_model_of_that_name_is_not_passed_over(made, here):
    folder = save(make_bundle(), here / "brain")
    (folder / "recipe.json").unlink()
    with pytest.raises(InputError, match=r"^brain/recipe\.json: missing"):
        nb.Segmentation.load("brain")


def test_a_model_that_a_killed_save_left_beside_its_place_comes_first(made, here):
    save(make_bundle(), here / ".brain.4194305.old")
    assert find("brain") == Path("brain")
    assert nb.bundle.load(find("brain")).recipe == make_bundle().recipe


@pytest.mark.parametrize("place", ["./brain", "sub/brain"])
def test_a_path_is_never_a_name(made, here, place):
    with pytest.raises(InputError, match=f"^{place}: no such directory"):
        find(place)
    assert find(Path("brain")) == Path("brain")
    with pytest.raises(InputError, match=r"^brain: no such directory; give"):
        nb.Segmentation.load(Path("brain"))


def test_the_error_for_an_unknown_name_lists_the_names(made, here):
    with pytest.raises(
        InputError,
        match=r"^brian: no such directory, and no model of that name comes with "
        r"nobrainer: did you mean 'brain'\? .* or the name brain or tissue$",
    ):
        nb.Segmentation.load("brian")
    with pytest.raises(InputError, match="did you mean 'tissue'"):
        nb.Segmentation.load("Tissues")
    with pytest.raises(InputError, match=r"^the name of the model is empty: give the"):
        nb.Segmentation.load("")
    with pytest.raises(InputError, match=r"no model called 'brian'.*brain or tissue$"):
        describe("brian")


def test_an_empty_box_says_so(tmp_path, here, monkeypatch):
    use(monkeypatch, tmp_path)
    assert names() == ()
    with pytest.raises(InputError, match=r"no model called 'brain' comes with nobra"):
        folder_of("brain")
    with pytest.raises(InputError, match=r"brain: no such directory.* saved to$"):
        find("brain")


def test_a_damaged_file_of_a_model_is_refused_and_named(made):
    path = made / "brain" / "labels.tsv"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(InputError, match=r"brain/labels\.tsv: truncated or changed"):
        describe("brain")


# --- the model that comes with nobrainer, or one like it


def test_the_model_in_the_box_says_what_it_is_and_is_small(box, monkeypatch):
    use(monkeypatch, box)
    found = describe("brain")
    assert found.size_bytes <= MOST_BYTES
    model = nb.Segmentation.load("brain")
    assert found.classes == model.labels_.names[1:]
    assert len(found.classes) >= 1
    assert 0.5 < found.expected_dice < 1
    assert model.recipe_.model.weights == "float16"
    # Only its own files are there, each of them listed.
    listed = (found.folder / "SHA256SUMS").read_text().splitlines()
    there = {path.name for path in found.folder.iterdir()}
    assert there == {line.split("  ")[1] for line in listed} | {"SHA256SUMS"}


def test_the_model_in_the_box_predicts_offline_and_writes_nothing_beside_the_package(
    box, here, monkeypatch
):
    use(monkeypatch, box)
    before = state_of(box)
    scan = np.random.default_rng(0).normal(size=(24, 24, 24)).astype(np.float32)
    model = nb.Segmentation.load("brain")
    label, _, entropy = model.predict((scan, np.eye(4)), n_samples=2, seed=0)
    assert label.shape == scan.shape
    assert 0 <= entropy.get_fdata().min() <= entropy.get_fdata().max()
    assert entropy.get_fdata().max() <= np.log(len(model.labels_.names))
    assert set(np.unique(label.dataobj)) <= set(model.labels_.values)
    assert state_of(box) == before and not list(here.iterdir())
