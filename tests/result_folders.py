"""Folders of results that commands write for four balls, and what is in them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from click.testing import Result

from commands import nobrainer_
from nobrainer.provenance import Result as Record

SCANS = range(4)


def scan(folder: Path, number: int) -> Path:
    return folder / f"sub-{number}_T1w.nii"


def run(
    command: str,
    folder: Path,
    out: Path,
    *options: object,
    numbers: Sequence[int] = SCANS,
    n_samples: int = 2,
) -> Result:
    """Call a command for scans of a folder, with its model if none is among options."""
    files = [scan(folder, number) for number in numbers]
    model = () if "--model" in options else ("--model", folder / "model")
    return nobrainer_(
        *(command, *files, *model, "--output-dir", out, "--n-samples", n_samples),
        *options,
    )


def said(result: Result) -> list[str]:
    """What is said on standard error besides the progress and how scans look."""
    lines = [line.removeprefix("nobrainer: ") for line in result.stderr.splitlines()]
    return [line for line in lines if line.startswith("error: ") or "done" in line]


def contents(out: Path) -> dict[str, bytes]:
    """The results in a folder, without the records, in which times stand."""
    return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}


def stamps(out: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}


def record_of(out: Path, number: int) -> Path:
    return out / "provenance" / f"sub-{number}_T1w.json"


def unfinish(path: Path) -> None:
    """Make a record that of work which was killed."""
    record = Record.from_json(path.read_text())
    assert record.ended
    path.write_text(replace(record, ended="", data={}).to_json())
