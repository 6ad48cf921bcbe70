import hashlib
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mlcroissant as mlc
import pytest
import torch
from safetensors.torch import save as save_tensors

import nobrainer.bundle
from nobrainer.bundle import Bundle, check_place, is_taken, load, save
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError
from nobrainer.posthoc import Calibration, Intervals, QualityModel
from nobrainer.recipe import FORMAT_VERSION, FileRecord
from recipes import make_recipe

NAMES = (
    "weights.safetensors",
    "recipe.json",
    "labels.tsv",
    "history.jsonl",
    "README.md",
    "croissant.json",
)
ALL_NAMES = (*NAMES, "SHA256SUMS")
FITTED = ("calibration.json", "quality.json")
CALIBRATION = Calibration(
    method="vector",
    weight=(1.0, 0.5, 0.1 + 0.2),
    bias=(0.0, -0.25, 1e-9),
    n_subjects=4,
    nll_before=0.5,
    nll_after=0.25,
    intervals=Intervals(0.9, 4, 10, (None, 1.5, 2.0)),
)
QUALITY = QualityModel(
    features=("entropy", "mean_dice"),
    centre=(0.1, 0.9),
    scale=(0.5, 0.25),
    coefficients=(-0.1, 0.3),
    intercept=1.2,
    low=(-2.0, -3.0),
    high=(2.0, 3.0),
    n_subjects=5,
    n_cases=20,
    n_draws=10,
    error=0.02,
)


def _recipe():
    return make_recipe(
        model={"name": "unet", "args": {"n_classes": 3}},
        data={"n_classes": 3},
        training={"epochs": 2, "seed": 0, "gradient_clip": 1.0},
        provenance={
            "files": (
                FileRecord("t1.nii.gz", "train-image", "0" * 64, 10),
                FileRecord("seg.nii.gz", "train-label", "1" * 64, 10),
            )
        },
    )


def _weights():
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn((4, 2, 3, 3, 3), generator=generator)
    return {
        "conv.weight": dense,
        "conv.channels_last": dense.to(memory_format=torch.channels_last_3d),
        "shares.memory": dense[1:3],
        "transposed": dense[0, 0, 0].t(),
        "half": dense.to(torch.bfloat16),
        "special": torch.tensor([float("nan"), -0.0, float("inf"), 1e-45]),
        "norm.num_batches_tracked": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }


@pytest.fixture
def bundle():
    return Bundle(
        recipe=_recipe(),
        weights=_weights(),
        labels=LabelTable(("background", "grey matter", "Weiße Substanz")),
        history=(
            {"epoch": 1, "loss": 0.1 + 0.2, "validation_dice": None},
            {"epoch": 2, "loss": 1e-3, "validation_dice": 0.5},
        ),
    )


@pytest.fixture
def saved(bundle, tmp_path):
    return save(bundle, tmp_path / "model")


@pytest.fixture
def fitted(bundle, tmp_path):
    """A saved model with everything that is fitted after training."""
    full = replace(bundle, calibration=CALIBRATION, quality=QUALITY)
    return save(full, tmp_path / "fitted")


def _bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _assert_same(left, right):
    assert left.recipe == right.recipe
    assert left.labels == right.labels
    assert left.history == right.history
    assert left.calibration == right.calibration
    assert left.quality == right.quality
    assert left.weights.keys() == right.weights.keys()
    for name, tensor in left.weights.items():
        other = right.weights[name]
        assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape)
        assert torch.equal(_bits(tensor), _bits(other)), name


def _contents(folder):
    return {
        p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def _sign(folder):
    """Make the checksums right again, as someone who means harm would."""
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in (*NAMES[:-2], *FITTED, *NAMES[-2:])
        if (folder / name).exists()
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))


@contextmanager
def _files_limited_to(size):
    """No file of this process may grow beyond `size` bytes: a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_round_trip_is_bit_equal(bundle, tmp_path):
    assert save(bundle, tmp_path / "model") == tmp_path / "model"
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == sorted(ALL_NAMES)
    _assert_same(load(tmp_path / "model"), bundle)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_loaded_weights_are_contiguous_cpu_tensors_that_can_be_changed(saved):
    for tensor in load(saved).weights.values():
        assert tensor.device.type == "cpu"
        assert tensor.is_contiguous()
        tensor.add_(1)


def test_saving_what_was_loaded_gives_the_same_bytes(saved, tmp_path):
    again = save(load(saved), tmp_path / "again")
    assert _contents(again) == _contents(saved)


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
    _assert_same(load(fitted), full)
    names = sorted(path.name for path in fitted.iterdir())
    assert names == sorted((*ALL_NAMES, *FITTED))
    subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=fitted, check=True
    )
    assert (fitted / "SHA256SUMS").read_text().count("\n") == len(names) - 1
    assert json.loads((fitted / "calibration.json").read_text())["weight"][1] == 0.5
    one = replace(bundle, quality=QUALITY)
    folder = save(one, tmp_path / "one")
    _assert_same(load(folder), one)
    assert not (folder / "calibration.json").exists()


def test_replacing_a_model_takes_away_what_was_fitted(bundle, fitted):
    save(bundle, fitted, overwrite=True)
    _assert_same(load(fitted), bundle)
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
    _sign(folder)


def test_models_without_a_card_are_read_and_saved_with_one(bundle, saved, tmp_path):
    card = (saved / "README.md").read_bytes()
    _take_card(saved)
    assert b"README" not in (saved / "SHA256SUMS").read_bytes()
    _assert_same(load(saved), bundle)
    save(load(saved), saved, overwrite=True)
    assert (saved / "README.md").read_bytes() == card


def test_a_readme_beside_an_older_model_is_somebodys_own(bundle, saved):
    _take_card(saved)
    assert is_taken(saved, overwrite=True)
    (saved / "README.md").write_text("precious")
    before = _contents(saved)
    with pytest.raises(InputError, match=r"not a model's \(README\.md\)"):
        save(bundle, saved, overwrite=True)
    with pytest.raises(InputError, match=r"README\.md: truncated or changed"):
        load(saved)
    assert _contents(saved) == before


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
    _sign(saved)
    _assert_same(load(saved), bundle)


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


def test_an_empty_directory_is_used_and_missing_parents_are_made(bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    _assert_same(load(save(bundle, tmp_path / "empty")), bundle)
    _assert_same(load(save(bundle, tmp_path / "a" / "b")), bundle)


def test_the_current_directory_and_links_are_used(bundle, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "here")
    _assert_same(load(save(bundle, tmp_path / "link")), bundle)
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    save(bundle, ".")
    _assert_same(load(tmp_path / "there"), bundle)


def test_permissions_follow_the_umask(bundle, tmp_path):
    umask = os.umask(0o022)
    try:
        folder = save(bundle, tmp_path / "model")
    finally:
        os.umask(umask)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert (folder / "recipe.json").stat().st_mode & 0o777 == 0o644


def test_a_model_is_replaced_only_on_request(bundle, saved, tmp_path):
    before = _contents(saved)
    newer = replace(bundle, history=bundle.history[:1])
    with pytest.raises(InputError, match=r"model: a model is already there"):
        save(newer, saved)
    assert _contents(saved) == before
    save(newer, saved, overwrite=True)
    _assert_same(load(saved), newer)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "foreign",
    [
        ("thesis.txt",),
        ("weights.safetensors",),
        ("recipe.json",),
        ("recipe.json", "README.md"),
        ("recipe.json", "SHA256SUMS", "weights.safetensors"),
        (*ALL_NAMES, "notes.md"),
    ],
)
def test_a_foreign_directory_is_never_touched(bundle, tmp_path, foreign, overwrite):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in foreign:
        (folder / name).write_text("precious")
    before = _contents(tmp_path)
    with pytest.raises(InputError, match="mine: holds files that are not a model's"):
        save(bundle, folder, overwrite=overwrite)
    assert _contents(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_way_is_kept(bundle, tmp_path, overwrite):
    (tmp_path / "model").write_text("precious")
    with pytest.raises(InputError, match="model: is a file"):
        save(bundle, tmp_path / "model", overwrite=overwrite)
    with pytest.raises(InputError, match="cannot be written"):
        save(bundle, tmp_path / "model" / "below", overwrite=overwrite)
    assert _contents(tmp_path) == {Path("model"): b"precious"}


def test_a_full_disk_leaves_nothing_behind(bundle, tmp_path):
    with _files_limited_to(500), pytest.raises(InputError, match="model: the model"):
        save(bundle, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_place_is_tried_before_there_is_a_model_for_it(saved, tmp_path):
    check_place(tmp_path / "a" / "model", overwrite=False)
    check_place(saved, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(InputError, match="a model is already there"):
        check_place(saved, overwrite=False)
    with pytest.raises(InputError, match=r"recipe\.json/model: cannot be written"):
        check_place(saved / "recipe.json" / "model", overwrite=False)
    # The name beside it, for the time of saving, is longer.
    with pytest.raises(InputError, match="File name too long"):
        check_place(tmp_path / ("m" * 253), overwrite=False)


def test_a_full_disk_leaves_the_old_model(bundle, saved, tmp_path):
    before = _contents(tmp_path)
    with _files_limited_to(500), pytest.raises(InputError, match="cannot be written"):
        save(bundle, saved, overwrite=True)
    assert _contents(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("interruption", [OSError(5, "I/O error"), KeyboardInterrupt()])
def test_the_old_model_comes_back_when_the_swap_fails(
    bundle, saved, tmp_path, monkeypatch, interruption
):
    before = _contents(tmp_path)
    rename = Path.rename
    monkeypatch.setattr(nobrainer.bundle, "exchange", lambda new, target: False)

    def fail_for_the_new_one(self, target):
        if self.name.endswith(".new"):
            raise interruption
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises((InputError, KeyboardInterrupt)):
        save(replace(bundle, history=()), saved, overwrite=True)
    assert _contents(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_folder_by_the_name_of_a_models_file_is_kept(bundle, saved):
    (saved / "history.jsonl").unlink()
    (saved / "history.jsonl").mkdir()
    (saved / "history.jsonl" / "thesis.txt").write_text("precious")
    before = _contents(saved)
    with pytest.raises(InputError, match=r"not a model's \(history\.jsonl\)"):
        save(bundle, saved, overwrite=True)
    assert _contents(saved) == before


def _save_killed(bundle, folder, at, can_exchange):
    """Save in a copy of this process that is killed before a step of it, from 1.

    Returns: whether it came to that.
    """
    pid = os.fork()
    if pid == 0:
        steps = itertools.count(1)

        def watched(function):
            def call(*args, **kwargs):
                if next(steps) == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return call

        exchange = nobrainer.bundle.exchange if can_exchange else lambda *_: False
        nobrainer.bundle.exchange = watched(exchange)
        nobrainer.bundle._write = watched(nobrainer.bundle._write)
        for name in ("mkdir", "rename", "rmdir"):
            setattr(Path, name, watched(getattr(Path, name)))
        save(bundle, folder, overwrite=True)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_save_that_is_killed_at_any_step_leaves_a_whole_model(
    bundle, saved, tmp_path, can_exchange
):
    step = 1
    while _save_killed(bundle, saved, step, can_exchange):
        _assert_same(load(saved), bundle)
        step += 1
    # Seven files, and more. The last one has cleared what the others left.
    assert step > 10
    _assert_same(load(saved), bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


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
    _sign(fitted)
    with pytest.raises(InputError, match=f"{name}: .*{message}"):
        load(fitted)


class _Trap:
    def __reduce__(self):
        return (os.mkdir, ("sprung",))


def test_no_pickled_code_runs(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": _Trap()}, saved / "weights.safetensors")
    _sign(saved)
    with pytest.raises(InputError, match=r"weights\.safetensors"):
        load(saved)
    assert not (tmp_path / "sprung").exists()
