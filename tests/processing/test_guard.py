"""Whatever goes wrong with one scan is a line, and the other scans are done."""

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result

import nobrainer as nb
from balls import write_ball
from commands import nobrainer_
from nobrainer.errors import printable
from nobrainer.processing import assembly, readings
from nobrainer.processing.guard import Batch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three balls with labels, the table `scans.csv`, and `model`, hardly trained."""
    folder = tmp_path_factory.mktemp("guard")
    pairs = [write_ball(folder, number) for number in range(3)]
    with (folder / "scans.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("features", "labels"), *pairs])
    dataset = nb.Dataset.from_files(pairs, (16, 16, 16)).batch(2).patches(per_volume=2)
    model = nb.Segmentation("bayesian_vnet", {"base_filters": 1, "levels": 1})
    model.fit(dataset, verbose=False).save(folder / "model")
    return folder


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes the work on `sub-1_T1w` end with an error."""
    real = assembly.preprocess_image
    real_scan = nb.processing.dataset.prepare_scan

    def break_with(error: BaseException) -> None:
        def preprocess(volume, *rest):
            if "sub-1" in volume.source:
                raise error
            return real(volume, *rest)

        def prepare(scan, *rest):
            if "sub-1" in scan.name:
                raise error
            return real_scan(scan, *rest)

        for module in (assembly, readings):
            monkeypatch.setattr(module, "preprocess_image", preprocess)
        monkeypatch.setattr(nb.processing.dataset, "prepare_scan", prepare)

    return break_with


def arguments(command: str, folder: Path, out: Path) -> tuple[object, ...]:
    model = ("--model", folder / "model", "--n-samples", 2)
    if command == "evaluate":
        model = (*model, "--allow-seen")
        return (command, "--data", folder / "scans.csv", *model, "--output-dir", out)
    scans = sorted(folder.glob("*_T1w.nii"))
    where = ("--output", out / "r.tsv") if command == "rank" else ("--output-dir", out)
    return (command, *scans, *model, *where)


def errors_of(result: Result) -> list[str]:
    lines = result.stderr.splitlines()
    return [line for line in lines if line.startswith("nobrainer: error: ")]


COMMANDS = ("predict", "qc", "report", "rank", "evaluate")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_error_of_any_kind_is_a_line_and_the_others_are_done(
    command: str, folder: Path, tmp_path: Path, breaking
) -> None:
    breaking(IndexError("index 3 is out of bounds\nfor axis 0"))
    result = nobrainer_(*arguments(command, folder, tmp_path / "out"))
    assert result.exit_code == 1, result.exception
    (line,) = errors_of(result)
    assert line.startswith(f"nobrainer: error: {folder / 'sub-1_T1w.nii'}: IndexError")
    assert "index 3 is out of bounds for axis 0" in line
    places = ("test_guard.py", "assembly.py", "readings.py", "dataset.py")
    assert any(place in line for place in places)
    assert "/issues" in line
    texts = [p.read_bytes() for p in (tmp_path / "out").rglob("*.tsv")]
    together = b"".join(texts) + str(list((tmp_path / "out").iterdir())).encode()
    assert b"sub-0" in together and b"sub-2" in together and b"sub-1" not in together


@pytest.mark.parametrize("command", COMMANDS)
def test_an_interruption_is_never_kept_back(
    command: str, folder: Path, tmp_path: Path, breaking
) -> None:
    breaking(KeyboardInterrupt())
    result = nobrainer_(*arguments(command, folder, tmp_path / "out"))
    assert result.exit_code == 130


def test_debug_shows_the_traceback_of_a_defect(
    folder: Path, tmp_path: Path, breaking
) -> None:
    breaking(IndexError("here"))
    args = arguments("predict", folder, tmp_path / "out")
    assert isinstance(nobrainer_("--debug", *args).exception, IndexError)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"),
    ],
)
def test_a_scan_beyond_memory_is_named_with_its_size(
    error: Exception, folder: Path, breaking
) -> None:
    breaking(error)
    model = nb.Segmentation.load(folder / "model")
    scans = sorted(folder.glob("*_T1w.nii"))
    with pytest.raises(nb.BatchError) as found:
        model.predict(scans, n_samples=1, seed=0, verbose=False)
    assert [one is None for one in found.value.results] == [False, True, False]
    (problem,) = found.value.problems
    assert problem.startswith(f"{scans[1]}: a scan of 24 x 24 x 24 voxels is too large")
    assert "--block-shape" in problem


def test_one_scan_alone_keeps_its_error(folder: Path, breaking) -> None:
    breaking(IndexError("here"))
    model = nb.Segmentation.load(folder / "model")
    with pytest.raises(IndexError, match="here"):
        model.predict(folder / "sub-1_T1w.nii")


def test_evaluate_gives_the_others(folder: Path, breaking) -> None:
    breaking(AttributeError("no affine"))
    model = nb.Segmentation.load(folder / "model")
    pairs = [write_ball(folder, number) for number in range(3)]
    how = {"n_samples": 2, "allow_seen": True, "verbose": False}
    with pytest.raises(nb.BatchError) as found:
        model.evaluate(model.dataset(pairs), **how)
    subjects = {row.subject for row in found.value.results}
    assert subjects == {"sub-0_T1w", "sub-2_T1w"}
    others = model.dataset([pairs[0], pairs[2]])
    assert found.value.results == model.evaluate(others, **how)


def test_a_scan_in_memory_is_named_as_such() -> None:
    batch = Batch()
    with batch.scan((np.zeros((2, 2, 2)), np.eye(4))):
        raise ZeroDivisionError("division by zero")
    (problem,) = batch.problems
    assert problem.startswith("a scan in memory: ZeroDivisionError: division by zero (")


@pytest.mark.skipif(os.name != "posix", reason="names are bytes there")
@pytest.mark.parametrize("command", ["predict", "qc", "report", "rank"])
def test_a_name_that_is_not_utf8_is_done_like_any_other(
    command: str, folder: Path, tmp_path: Path
) -> None:
    name = os.fsdecode(b"sub-\xe9_T1w.nii")
    try:
        shutil.copy(folder / "sub-0_T1w.nii", tmp_path / name)
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    model = ("--model", folder / "model", "--n-samples", 2)
    out = tmp_path / "out"
    where = ("--output", out / "r.tsv") if command == "rank" else ("--output-dir", out)
    result = nobrainer_(command, tmp_path / name, *model, *where)
    assert result.exit_code == 0, result.stderr
    assert r"sub-\udce9_T1w" in result.stdout
    if command != "predict":
        table = out / ("r.tsv" if command == "rank" else "qc.tsv")
        assert r"sub-\udce9_T1w" in table.read_text(encoding="utf-8")


def test_names_cannot_steer_the_terminal(folder: Path, tmp_path: Path) -> None:
    name = "sub-1\x1b[2J\x1b]0;owned\x07.nii"
    shutil.copy(folder / "sub-0_T1w.nii", tmp_path / name)
    model = ("--model", folder / "model", "--n-samples", 2)
    result = nobrainer_(
        *("predict", tmp_path / name, tmp_path / f"no-{name}", *model),
        *("--output-dir", tmp_path / "out"),
    )
    assert result.exit_code == 1
    assert r"sub-1\x1b[2J\x1b]0;owned\x07_label.nii.gz" in result.stdout
    for text in (result.stdout, result.stderr):
        assert "\x1b" not in text and "\x07" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Größe 5 mm³\tTab\n", "Größe 5 mm³\tTab\n"),
        ("\x1b[31m", r"\x1b[31m"),
        ("a\r\x9bb", r"a\r\x9bb"),
        ("gnp\u202e.exe", r"gnp\u202e.exe"),
        ("\udce9", r"\udce9"),
    ],
)
def test_what_could_steer_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
