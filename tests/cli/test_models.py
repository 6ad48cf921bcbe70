"""`nobrainer models`, and the commands that are not given a model."""

import json
from pathlib import Path

import pytest

import nobrainer as nb
from boxes import state_of, use
from bundles import make_bundle
from commands import is_narrow, nobrainer_
from nobrainer.bundle import save
from nobrainer.cli import COMMANDS
from nobrainer.cli.options import find_model
from nobrainer.provenance import Method, Result
from result_folders import contents, run, scan


@pytest.fixture
def box(two_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A box in which `brain` is the model of the balls."""
    nb.Segmentation.load(two_models / "model").save(tmp_path / "box" / "brain")
    use(monkeypatch, tmp_path / "box")
    return tmp_path / "box"


def test_models_are_listed_with_what_their_files_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, tmp_path)
    assert json.loads(nobrainer_("models", "--json").stdout) == []
    assert nobrainer_("models").stdout == "no model comes with this nobrainer\n"
    save(make_bundle(), tmp_path / "brain")
    found = nb.shipped.describe("brain")
    (listed,) = json.loads(nobrainer_("models", "--json").stdout)
    assert listed == {
        "name": "brain",
        "version": found.version,
        "classes": ["grey matter", "Weiße Substanz"],
        "digest": nb.bundle.digest(tmp_path / "brain"),
        "expected_dice": found.expected_dice,
        "size_bytes": found.size_bytes,
        "folder": str(tmp_path / "brain"),
    }
    printed = nobrainer_("models").stdout
    assert is_narrow(printed)
    head, row, blank, classes = printed.splitlines()
    assert head.split() == ["name", "version", "structures", "Dice", "size", "SHA-256"]
    dice = f"{found.expected_dice:.3f}"
    assert row.split() == [
        *("brain", found.version, "2", dice, "0.0", "MB", found.digest[:12])
    ]
    assert not blank
    assert classes == "brain: grey matter, Weiße Substanz"


def test_a_damaged_model_in_the_box_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, tmp_path)
    path = save(make_bundle(), tmp_path / "brain") / "history.jsonl"
    path.write_text("")
    result = nobrainer_("models")
    assert result.exit_code == 2 and not result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"nobrainer: error: {path}: truncated or changed")


@pytest.mark.parametrize("command", ["predict", "qc"])
def test_without_a_model_results_are_those_of_the_model_in_the_box(
    command: str,
    box: Path,
    two_models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A model of that name where one works is not the default.
    monkeypatch.chdir(tmp_path)
    nb.Segmentation.load(two_models / "other").save(tmp_path / "brain")
    before = state_of(box)
    scans = [scan(two_models, number) for number in range(4)]
    out = tmp_path / "out"
    result = nobrainer_(command, *scans, "--output-dir", out, "--n-samples", 2)
    assert result.exit_code == 0, result.stderr
    named = tmp_path / "named"
    assert run(command, two_models, named).exit_code == 0
    there, wanted = contents(out), contents(named)
    methods = [
        Method.from_json(one.pop("provenance.json").decode()) for one in (there, wanted)
    ]
    assert there == wanted
    assert not methods[0].unlike(methods[1])
    assert [method.model for method in methods] == ["brain", "model"]
    assert state_of(box) == before


def test_a_model_can_be_named(box: Path, two_models: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("predict", two_models, out, "--model", "brain", numbers=[0])
    assert result.exit_code == 0, result.stderr
    method = Method.from_json((out / "provenance.json").read_text())
    assert method.model_sha256 == nb.bundle.digest(box / "brain")


def test_all_commands_take_the_model_in_the_box(
    box: Path, two_models: Path, tmp_path: Path
) -> None:
    ball, digest = scan(two_models, 0), nb.bundle.digest(box / "brain")
    story = json.loads(nobrainer_("info", "--json").stdout)
    assert story["recipe"]["model"]["args"] == {
        **{"base_filters": 1, "levels": 1, "n_classes": 2}
    }
    table = tmp_path / "next.tsv"
    result = nobrainer_("rank", ball, "--n-samples", 2, "--output", table)
    assert result.exit_code == 0, result.stderr
    record = Result.from_json((tmp_path / "next_provenance.json").read_text())
    assert record.method.model_sha256 == digest
    labelled = ("--data", two_models / "scans.csv", "--output-dir", tmp_path / "out")
    # The model in the box knows these scans, and any other would be taken.
    for command in ("evaluate", "calibrate"):
        result = nobrainer_(command, *labelled, "--n-samples", 2)
        assert result.exit_code == 2
        assert ".nii: the model " in result.stderr


def test_report_and_qc_take_their_model_in_the_same_way() -> None:
    models = [
        next(one for one in COMMANDS[name].params if one.name == "model_dir")
        for name in ("qc", "report")
    ]
    assert models[0].callback is models[1].callback is find_model


def test_a_command_that_needs_a_model_says_what_to_give(
    tmp_path: Path, two_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, tmp_path)
    result = run("predict", two_models, tmp_path / "out", "--model", "brian")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("nobrainer: error: brian: no such directory, and no model")
    result = nobrainer_("rank", scan(two_models, 0))
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("nobrainer: error: no model called 'brain' comes with nobra")


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"models"}))
def test_a_shell_completes_options_without_a_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, tmp_path)
    command = COMMANDS[name]
    command.make_context(name, [], resilient_parsing=True)
