"""The command line, as a shell sees it: files, streams and exit codes."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner, Result

import nobrainer
from nobrainer.cli import main
from nobrainer.cli.outputs import save_model
from nobrainer.data.labels import LabelTable
from nobrainer.errors import InputError

pytestmark = pytest.mark.slow(seconds=120)

PROGRAM = [sys.executable, "-c", "from nobrainer.cli import main; main()"]
AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])


def nobrainer_(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def shell(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *(str(arg) for arg in args)], capture_output=True, text=True
    )


def errors_of(stderr: str) -> list[str]:
    """What is said on standard error besides the progress."""
    return [line for line in stderr.splitlines() if line.startswith("nobrainer: ")]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three bright balls with labels, and the table `scans.csv`."""
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    rows = [["features", "labels"]]
    for n in range(3):
        grid = np.indices((24, 22, 20)) - rng.uniform(9, 12, (3, 1, 1, 1))
        label = (np.square(grid).sum(0) < 49).astype(np.uint8)
        image = 100 * label + rng.normal(50, 5, label.shape)
        names = [f"sub-{n}_T1w.nii.gz", f"sub-{n}_dseg.nii.gz"]
        nib.save(nib.Nifti1Image(image.astype(np.float32), AFFINE), folder / names[0])
        nib.save(nib.Nifti1Image(label, AFFINE), folder / names[1])
        rows.append(names)
    with (folder / "scans.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


TRAIN = (
    *("--binarize", "--epochs", 6, "--patches-per-volume", 16, "--batch-size", 4),
    *("--block-shape", 16, 16, 16, "--learning-rate", 0.02, "--validate", 1),
    *("--model-arg", "base_filters=2", "--model-arg", "levels=1"),
)


@pytest.fixture(scope="module")
def model(scans: Path) -> Path:
    """A model trained by the command line."""
    path = scans / "model"
    result = nobrainer_(
        "train", "--data", scans / "scans.csv", *TRAIN, "--output-dir", path
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{path}\n"
    return path


def labels_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_help_lists_every_command() -> None:
    result = nobrainer_("--help")
    assert result.exit_code == 0
    for name in main.commands:
        assert f"\n  {name} " in result.stdout


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_help_has_an_example(command: str) -> None:
    result = nobrainer_(command, "--help")
    assert result.exit_code == 0
    assert f"Examples:\n    nobrainer {command}" in result.stdout


def test_version() -> None:
    result = nobrainer_("--version")
    assert result.stdout == f"nobrainer, version {nobrainer.__version__}\n"


# --- train and info


def test_info_tells_what_train_was_asked_for(model: Path) -> None:
    story = json.loads(nobrainer_("info", model, "--json").stdout)
    recipe = story["recipe"]
    assert recipe["model"]["name"] == "bayesian_vnet"
    assert recipe["model"]["args"]["base_filters"] == 2
    assert recipe["data"]["block_shape"] == [16, 16, 16]
    assert recipe["data"]["patches_per_volume"] == 16
    assert recipe["training"]["opt_args"] == {"lr": 0.02}
    roles = [file["role"] for file in recipe["provenance"]["files"]]
    assert roles.count("train-image") == 2 and roles.count("validate-label") == 1
    assert story["labels"] == ["background", "foreground"]
    assert [row["epoch"] for row in story["history"]] == [1, 2, 3, 4, 5, 6]


def test_train_ends_after_steps_and_works_at_a_spacing(
    scans: Path, tmp_path: Path
) -> None:
    args = (
        *("train", "--data", scans / "scans.csv", "--output-dir", tmp_path / "m"),
        *("--binarize", "--model", "vnet", "--model-arg", "base_filters=1"),
        *("--model-arg", "levels=1", "--block-shape", 8, 8, 8, "--spacing", 2, 2, 3),
        *("--patches-per-volume", 1, "--max-steps", 3, "--averaging", 0.9),
    )
    result = nobrainer_(*args)
    assert result.exit_code == 0, result.stderr
    story = json.loads(nobrainer_("info", tmp_path / "m", "--json").stdout)
    assert story["recipe"]["preprocess"]["spacing_mm"] == [2, 2, 3]
    training = story["recipe"]["training"]
    assert (training["epochs"], training["max_steps"]) == (None, 3)
    assert training["averaging"] == 0.9
    # Three scans in batches of two: two steps an epoch.
    assert [row["steps"] for row in story["history"]] == [2, 1]


def test_info_prints_a_table(model: Path) -> None:
    lines = nobrainer_("info", model).stdout.splitlines()
    assert lines[0] == "model"
    assert "  base_filters         2" in lines
    assert (
        "  files                train-image 2, train-label 2, validate-image 1, "
        "validate-label 1" in lines
    )


@pytest.mark.parametrize(
    ("command", "text", "told"),
    [
        ("train", "give another checkpoint_filepath", "give another --checkpoint-dir"),
        ("train", "go on with resume=True, or stop", "go on with --resume, or stop"),
        ("train", "epochs must be >= 1, got 0", "--epochs must be >= 1, got 0"),
        ("train", "7 is not below n_classes=2: no", "7 is not below --n-classes=2: no"),
        ("train", "with opt_args={'lr': -1.0}", "with --learning-rate={'lr': -1.0}"),
        ("train", "a smaller eval_size", "a smaller --validate"),
        ("train", "n_members must be at most 9", "--members must be at most 9"),
        ("research", "n_draws=3 before", "--n-samples=3 before"),
        # What the command has no option for, and what is no argument.
        ("predict", "n_classes must be 2", "n_classes must be 2"),
        ("train", "overwrite it if clip=True", "overwrite it if clip=True"),
        ("train", "batch_size: is a file", "batch_size: is a file"),
        ("train", "a/n_classes n_classes.csv", "a/n_classes n_classes.csv"),
        ("train", "data.batch_size was 2", "data.batch_size was 2"),
        ("train", "3 epochs must do", "3 epochs must do"),
    ],
)
def test_messages_name_the_options_of_the_command(
    monkeypatch: pytest.MonkeyPatch, command: str, text: str, told: str
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise InputError(text)

    monkeypatch.setattr(main.commands[command], "invoke", refuse)
    arguments = {
        "train": ["--data", "a.csv", "--output-dir", "b"],
        "predict": ["a.nii", "--model", "b", "--output-dir", "c"],
        "research": ["run"],
    }
    result = nobrainer_(command, *arguments[command])
    assert (result.exit_code, result.stderr) == (2, f"nobrainer: error: {told}\n")


def test_train_refuses_before_it_trains(scans: Path, model: Path) -> None:
    before = (model / "weights.safetensors").read_bytes()
    data = ("train", "--data", scans / "scans.csv")
    taken = nobrainer_(*data, *TRAIN, "--output-dir", model)
    assert taken.exit_code == 2
    assert taken.stderr == (
        f"nobrainer: error: {model}: a model is already there: give another directory, "
        "or --overwrite to replace it\n"
    )
    assert (model / "weights.safetensors").read_bytes() == before
    foreign = nobrainer_(*data, *TRAIN, "--output-dir", scans, "--overwrite")
    assert foreign.exit_code == 2
    assert "not a model" in foreign.stderr
    near = nobrainer_(
        *data, "--output-dir", scans / "x", "--binarize", "--model-arg", "lvels=2"
    )
    assert near.exit_code == 2
    assert "did you mean 'levels'" in near.stderr
    assert not (scans / "x").exists()


def test_a_finished_training_that_is_resumed_keeps_its_model(
    scans: Path, tmp_path: Path
) -> None:
    small = ("--model-arg", "base_filters=2", "--model-arg", "levels=1")
    for members in ((), ("--members", 2)):
        folder = tmp_path / str(len(members))
        command = (
            *("train", "--data", scans / "scans.csv", "--binarize", "--model", "vnet"),
            *(*small, *members, "--block-shape", 16, 16, 16, "--patches-per-volume", 2),
            *("--output-dir", folder / "m", "--checkpoint-dir", folder / "c"),
            *("--resume", "--epochs"),
        )
        first = nobrainer_(*command, 1)
        assert first.exit_code == 0, first.stderr
        kept = {path: path.stat().st_mtime_ns for path in (folder / "m").iterdir()}
        again = nobrainer_(*command, 1)
        assert again.exit_code == 0, again.stderr
        assert again.stdout == first.stdout == f"{folder / 'm'}\n"
        last = again.stderr.splitlines()[-1]
        assert last == "nobrainer: the training is finished: the model is kept"
        assert kept == {p: p.stat().st_mtime_ns for p in (folder / "m").iterdir()}
        more = nobrainer_(*command, 2)
        assert more.exit_code == 2 and "a model is already there" in more.stderr
        other = nobrainer_(*command, 1, "--learning-rate", 0.5)
        assert other.exit_code == 2 and "cannot resume" in other.stderr


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_read(
    scans: Path, model: Path, tmp_path: Path
) -> None:
    for command in (
        ("train", "--data", "missing.csv", "--output-dir"),
        ("calibrate", "--data", "missing.csv", "--model", model, "--output-dir"),
        ("demo", "--output-dir"),
    ):
        result = nobrainer_(*command, scans / "scans.csv" / "below")
        assert result.exit_code == 2
        assert "missing.csv" not in result.stderr
        assert "Not a directory" in result.stderr and result.stderr.count("\n") == 1


def test_a_model_is_kept_elsewhere_when_its_place_is_full(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = nobrainer.bundle.place._write

    def write_elsewhere(path: Path, data: bytes) -> None:
        if path.is_relative_to(tmp_path / "full"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(nobrainer.bundle.place, "_write", write_elsewhere)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    trained = nobrainer.Segmentation.load(model)
    with pytest.raises(InputError, match="No space left on device") as caught:
        save_model(trained, tmp_path / "full" / "model", overwrite=False)
    kept = str(caught.value).splitlines()[1].partition(": the model is kept here")[0]
    again = nobrainer.Segmentation.load(kept)
    for name, tensor in trained.model_.state_dict().items():
        assert tensor.equal(again.model_.state_dict()[name])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    with pytest.raises(InputError, match=r"No space left on device[^\n]*$"):
        save_model(trained, tmp_path / "full" / "model", overwrite=False)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--model-arg", "levels"), "--model-arg levels: must be KEY=VALUE"),
        (("--validate", "some"), "--validate some: must be a share"),
        (("--relabel", "7-class"), "did you mean '6-class'"),
        (("--relabel", "aseg", "--n-classes", "3"), "aseg: has 46 classes with"),
        (("--relabel", "aseg", "--n-classes", "2"), "relabel: has 46 classes with"),
        (("--data", "missing.csv"), "missing.csv: cannot be read"),
    ],
)
def test_bad_options_are_one_line(
    scans: Path, tmp_path: Path, option: tuple[str, ...], message: str
) -> None:
    start = ("train", "--data", scans / "scans.csv", "--output-dir", tmp_path / "m")
    result = nobrainer_(*start, *option)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("features,labels\n", "has no rows"),
        ("image,label\na.nii,b.nii\n", "its header is image, label, without"),
        ("features,labels\na.nii,b.nii\nc.nii\n", "line 3: needs a path in each"),
    ],
)
def test_a_bad_table_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "table.csv"
    table.write_text(text)
    result = nobrainer_("train", "--data", table, "--output-dir", tmp_path / "m")
    assert result.exit_code == 2
    assert message in result.stderr and str(table) in result.stderr


# --- predict


def test_predict_writes_maps_on_the_scans_grid_and_tables(
    scans: Path, model: Path, tmp_path: Path
) -> None:
    scan = scans / "sub-0_T1w.nii.gz"
    out = tmp_path / "new" / "maps"
    args = ("predict", scan, "--model", model, "--output-dir", out, "--n-samples", 3)
    result = nobrainer_(*args, "--json")
    assert result.exit_code == 0, result.stderr
    names = ("label", "variance", "entropy")
    paths = {name: out / f"sub-0_T1w_{name}.nii.gz" for name in names}
    tables = {
        "classes": out / "sub-0_T1w_label.tsv",
        "structures": out / "sub-0_T1w_structures.tsv",
    }
    written = {name: str(path) for name, path in (paths | tables).items()}
    assert json.loads(result.stdout) == [{"input": str(scan)} | written]
    sidecar = out / "structures.json"
    origin = {out / "provenance.json", out / "provenance"}
    assert set(out.iterdir()) == {*paths.values(), *tables.values(), sidecar, *origin}
    for name, path in paths.items():
        image = nib.load(path)
        assert image.get_data_dtype() == (np.uint8 if name == "label" else np.float32)
        np.testing.assert_allclose(image.affine, AFFINE)
    truth, label = labels_of(scans / "sub-0_dseg.nii.gz"), labels_of(paths["label"])
    assert 2 * (truth & label).sum() / (truth.sum() + label.sum()) > 0.95
    segmentation = nobrainer.Segmentation.load(model)
    prediction = segmentation.predict(scan, n_samples=3, seed=0)
    by_hand = nobrainer.structures.to_tsv({"sub-0_T1w": prediction.structures})
    assert tables["structures"].read_text() == by_hand
    header, row = by_hand.splitlines()
    assert set(json.loads(sidecar.read_text())) == set(header.split("\t"))
    volume_mm3 = float(row.split("\t")[header.split("\t").index("volume_mm3")])
    assert volume_mm3 == pytest.approx(label.sum() * 8, rel=0.05)
    assert tables["classes"].read_text() == segmentation.labels_.to_tsv()
    entropy = labels_of(paths["entropy"])
    assert entropy.min() >= 0 and 0 < entropy.max() <= np.log(2) + 1e-6

    # The same seed gives the same maps, and nothing is done again unasked.
    stamp = paths["label"].stat().st_mtime_ns
    again = nobrainer_(*args, "--json")
    assert again.exit_code == 0 and again.stdout == result.stdout
    assert paths["label"].stat().st_mtime_ns == stamp
    tiles = ("--block-shape", 8, 9, 10, "--batch-size", 2, "--overwrite")
    assert nobrainer_(*args, *tiles).exit_code == 0
    np.testing.assert_allclose(labels_of(paths["entropy"]), entropy, atol=1e-5)


def test_label_maps_carry_ids_unless_class_numbers_are_asked_for(
    scans: Path, model: Path, tmp_path: Path
) -> None:
    segmentation = nobrainer.Segmentation.load(model)
    table = LabelTable(("air", "brain"), ids=(0, 1035))
    segmentation.learned_ = replace(segmentation.learned_, labels=table)
    named = segmentation.save(tmp_path / "named")
    for options, value in (((), 1035), (("--class-numbers",), 1)):
        out = tmp_path / f"maps-{value}"
        args = ("--model", named, "--output-dir", out, "--n-samples", 2, *options)
        result = nobrainer_("predict", scans / "sub-0_T1w.nii.gz", *args)
        assert result.exit_code == 0, result.stderr
        label = np.asarray(nib.load(out / "sub-0_T1w_label.nii.gz").dataobj)
        assert np.unique(label).tolist() == [0, value]
        classes, structures = (
            [row.split("\t") for row in (out / name).read_text().splitlines()]
            for name in ("sub-0_T1w_label.tsv", "sub-0_T1w_structures.tsv")
        )
        assert classes[0] == ["index", "name", "color", "original"]
        assert classes[2] == [str(value), "brain", "#1f77b4", "1035"]
        assert structures[1][:3] == ["sub-0_T1w", str(value), "brain"]
    told = nobrainer_("info", named).stdout.splitlines()
    assert "  1035                 brain" in told


def test_one_bad_file_does_not_stop_the_others(
    scans: Path, model: Path, tmp_path: Path
) -> None:
    bad, missing = tmp_path / "bad.nii.gz", tmp_path / "missing.nii"
    bad.write_bytes(b"not an image")
    done = shell(
        *("predict", bad, scans / "sub-1_T1w.nii.gz", missing, scans / "scans.csv"),
        *("--model", model, "--output-dir", tmp_path, "--n-samples", 0),
    )
    assert done.returncode == 1
    results = [tmp_path / f"sub-1_T1w_label.{suffix}" for suffix in ("nii.gz", "tsv")]
    assert done.stdout == "".join(f"{path}\n" for path in results)
    first, second, third = errors_of(done.stderr)
    assert first.startswith(f"nobrainer: error: {bad}: ")
    assert second.startswith(f"nobrainer: error: {missing}: ")
    assert third.startswith(f"nobrainer: error: {scans / 'scans.csv'}: unknown suffix")
    origin = [tmp_path / "provenance", tmp_path / "provenance.json"]
    assert sorted(tmp_path.iterdir()) == sorted([bad, *results, *origin])


def test_a_sidecar_that_says_something_else_is_kept(
    scans: Path, model: Path, tmp_path: Path
) -> None:
    sidecar = tmp_path / "structures.json"
    sidecar.write_text("precious")
    args = ("predict", scans / "sub-1_T1w.nii.gz", "--model", model, "--n-samples", 1)
    args = (*args, "--output-dir", tmp_path)
    refused = nobrainer_(*args)
    assert refused.exit_code == 2
    assert f"{sidecar}: exists already" in refused.stderr
    assert list(tmp_path.iterdir()) == [sidecar] and sidecar.read_text() == "precious"
    assert nobrainer_(*args, "--overwrite").exit_code == 0
    assert json.loads(sidecar.read_text()) == nobrainer.structures.sidecar()
    # What another run wrote alike is no reason to stop.
    other = (args[0], scans / "sub-2_T1w.nii.gz", *args[2:])
    assert nobrainer_(*other).exit_code == 0


def test_a_scan_given_twice_is_refused_first(scans: Path, tmp_path: Path) -> None:
    result = nobrainer_(
        *("predict", scans / "sub-1_T1w.nii.gz", scans / "." / "sub-1_T1w.nii.gz"),
        *("--model", tmp_path / "no-model", "--output-dir", tmp_path / "out"),
    )
    assert result.exit_code == 2
    assert "sub-1_T1w.nii.gz: given twice" in result.stderr
    assert not (tmp_path / "out").exists()


def test_only_debug_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    plain, debug = nobrainer_("info", tmp_path), nobrainer_("--debug", "info", tmp_path)
    assert plain.exit_code == 2
    assert plain.stderr.startswith(f"nobrainer: error: {tmp_path}")
    assert plain.stderr.count("\n") == 1
    assert isinstance(debug.exception, InputError)


def test_warnings_are_one_line(scans: Path, tmp_path: Path) -> None:
    table = tmp_path / "map.csv"
    table.write_text("value,class\n0,1\n")
    result = nobrainer_(
        *("train", "--data", scans / "scans.csv", "--output-dir", tmp_path / "m"),
        *("--relabel", table, "--epochs", 1, "--patches-per-volume", 1),
        *(
            "--model",
            "vnet",
            "--model-arg",
            "base_filters=1",
            "--model-arg",
            "levels=1",
        ),
    )
    assert result.exit_code == 0, result.stderr
    line, epoch = result.stderr.splitlines()
    assert epoch.startswith("epoch 1: loss ")
    assert line.startswith("nobrainer: warning: label values that the mapping")


def test_interrupt_says_where_the_weights_are(scans: Path, tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    process = subprocess.Popen(
        [
            *PROGRAM,
            *("train", "--data", scans / "scans.csv", "--output-dir", tmp_path / "m"),
            *map(str, TRAIN),
            *("--epochs", "100000", "--checkpoint-dir", checkpoints),
        ],
        stderr=subprocess.PIPE,
        text=True,
        # A suite run in the background of a shell ignores it, and its children do.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not checkpoints.is_dir() or not any(checkpoints.iterdir()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    *epochs, line = stderr.splitlines()
    assert all(row.startswith("epoch ") for row in epochs)
    assert line.startswith("nobrainer: interrupted in epoch ")
    assert str(checkpoints) in line


# --- data and demo


def test_data_prints_the_table(sample_csv: Path) -> None:
    plain = nobrainer_("data", "--source", "embedded")
    assert plain.stdout == f"{sample_csv}\n"
    as_json = nobrainer_("data", "--source", "embedded", "--json")
    assert json.loads(as_json.stdout) == {"csv": str(sample_csv)}
    assert nobrainer_("data", "--source", "nowhere").exit_code == 2


def test_demo_refuses_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    result = nobrainer_("demo", "--output-dir", tmp_path)
    assert result.exit_code == 2
    assert f"{tmp_path}: is not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_demo_from_data_to_picture(sample_csv: Path, tmp_path: Path) -> None:
    result = nobrainer_(
        *("demo", "--output-dir", tmp_path / "out", "--epochs", 1, "--n-samples", 2),
        "--json",
    )
    assert result.exit_code == 0, result.stderr
    story = json.loads(result.stdout)
    metrics, files = story["metrics"], story["files"]
    assert metrics["dice"] > 0.8
    assert 0 < metrics["ece"] < metrics["nll"] < metrics["nll/foreground"] < 1
    label = labels_of(files["label"])
    mean_ml = story["brain_ml"]["mean"]
    assert mean_ml == pytest.approx(label.sum() * 8 / 1000, rel=0.1)
    assert Path(files["figure"]).read_bytes().startswith(b"\x89PNG")
    assert "bayesian_vnet" in nobrainer_("info", files["model"]).stdout
