"""The command line as a whole: help, messages, warnings, exit codes."""

import runpy
import subprocess
from pathlib import Path

import pytest

import nobrainer as nb
from commands import PROGRAM, TEST, nobrainer_, scans_of
from nobrainer.cli import COMMANDS
from nobrainer.errors import InputError


def test_help_lists_every_command() -> None:
    result = nobrainer_("--help")
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.stdout


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_help_has_an_example(command: str) -> None:
    result = nobrainer_(command, "--help")
    assert result.exit_code == 0
    assert f"Examples:\n    nobrainer {command}" in result.stdout


def test_version() -> None:
    result = nobrainer_("--version")
    assert result.stdout == f"nobrainer, version {nb.__version__}\n"


def test_the_module_is_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["__main__.py", "predict", "--help"])
    with pytest.raises(SystemExit):
        runpy.run_module("nobrainer", run_name="__main__")
    usage = "Usage: nobrainer predict [OPTIONS] FILE...\n"
    assert capsys.readouterr().out.startswith(usage)


@pytest.mark.parametrize(
    ("command", "text", "told"),
    [
        ("train", "give another checkpoint_filepath", "give another --checkpoint-dir"),
        ("train", "go on with resume=True, or stop", "go on with --resume, or stop"),
        ("train", "epochs must be >= 1, got 0", "--epochs must be >= 1, got 0"),
        ("train", "7 is not below n_classes=2: no", "7 is not below --n-classes=2: no"),
        ("train", "lr must be > 0, got -1.0", "--learning-rate must be > 0, got -1.0"),
        ("train", "with opt_args={'eps': 'a'}", "with --optimizer-arg={'eps': 'a'}"),
        ("train", "give relabel=aseg, else", "give --relabel=aseg, else"),
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

    monkeypatch.setattr(COMMANDS[command], "invoke", refuse)
    arguments = {
        "train": ["--data", "a.csv", "--output-dir", "b"],
        "predict": ["a.nii", "--model", ".", "--output-dir", "c"],
        "research": ["run"],
    }
    result = nobrainer_(command, *arguments[command])
    assert (result.exit_code, result.stderr) == (2, f"nobrainer: error: {told}\n")


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
        *("--model", "vnet"),
        *("--model-arg", "base_filters=1", "--model-arg", "levels=1"),
    )
    assert result.exit_code == 0, result.stderr
    line, epoch = result.stderr.splitlines()
    assert epoch.startswith("epoch 1: loss ")
    assert line.startswith("nobrainer: warning: label values that the mapping")


def test_an_interrupt_without_words_is_named(
    balls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(nb.Segmentation, "rank", stop)
    files = scans_of(balls, TEST)
    result = nobrainer_("rank", *files, "--model", balls / "brain")
    assert (result.exit_code, result.stderr) == (130, "nobrainer: interrupted\n")


def test_a_full_device_is_one_line(two_models: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [*PROGRAM, "info", str(two_models / "model")],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("nobrainer: error: ") and "No space left" in line
