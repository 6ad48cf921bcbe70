"""The command itself: its options, and what it says."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bids_sets import make_set
from commands import errors_of, nobrainer_
from nobrainer.cli import bids_app


@pytest.fixture(scope="module")
def scans_of_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of three participants, one of whom has no T1w."""
    names = ("sub-01_T1w", "sub-02_T1w", "sub-03_T2w")
    return make_set(tmp_path_factory.mktemp("three") / "data", *names, side=12)


def test_options_take_several_values_as_in_other_apps(
    scans_of_three: Path, model: Path, tmp_path: Path
) -> None:
    """A cap on the memory keeps the test from segmenting anything."""
    result = nobrainer_(
        *("bids", scans_of_three, tmp_path / "out", "participant"),
        *("--participant-label", "01", "sub-02", "03", "--suffix", "T1w", "T2w"),
        *("--model", model, "--mem-mb", 1, "--json"),
    )
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    names = ["sub-01_T1w", "sub-02_T1w", "sub-03_T2w"]
    assert [one["name"] for one in found["scans"]] == names
    assert {one["state"] for one in found["scans"]} == {"failed"}
    assert all("--mem-mb" in one["reason"] for one in found["scans"])
    errors = errors_of(result.stderr)
    assert len(errors) == 3 and "needs about" in errors[0]


def test_who_has_no_scan_is_said_and_is_no_error(
    scans_of_three: Path, model: Path, tmp_path: Path
) -> None:
    result = nobrainer_(
        *("bids", scans_of_three, tmp_path / "out", "participant"),
        *("--participant-label", "03", "--model", model),
    )
    assert result.exit_code == 0
    assert "sub-03: has no T1w that was asked for" in result.stderr
    assert "missing  1" in result.stdout
    assert not (tmp_path / "out" / "sub-03").exists()


def test_what_cannot_be_is_refused_before_anything_is_written(
    scans_of_three: Path, model: Path, tmp_path: Path
) -> None:
    def refused(*args: object) -> str:
        result = nobrainer_("bids", *args, "--model", model)
        assert result.exit_code == 2
        (line,) = errors_of(result.stderr)
        return line

    data, out = scans_of_three, tmp_path / "out"
    before = sorted(data.rglob("*"))
    close = refused(data, out, "participant", "--participant-label", "1")
    assert "there is no sub-1: did you mean 01" in close
    assert "has no folder sub-" in refused(
        tmp_path, out, "participant", "--skip-bids-validation"
    )
    assert "is only read" in refused(data, data / "out", "participant")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "dataset_description.json").write_text("{}")
    foreign = refused(data, tmp_path / "mine", "participant")
    assert "dataset_description.json: exists already" in foreign
    assert sorted(data.rglob("*")) == before and not out.exists()


def test_the_app_is_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["nobrainer-bids", "--help"])
    runner = CliRunner()
    with runner.isolation() as streams, pytest.raises(SystemExit):
        bids_app()
    text = streams[0].getvalue().decode()
    assert text.startswith("Usage: nobrainer bids [OPTIONS] BIDS_DIR OUT_DIR LEVEL")
