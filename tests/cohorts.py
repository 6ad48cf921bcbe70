"""Made cohorts: a data set in BIDS without voxels, and the results of its scans."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nobrainer.bids.layout import read_layout
from nobrainer.bids.names import Names
from nobrainer.provenance import Method, Result
from nobrainer.results.records import Records

COLUMNS = (
    *("index", "name", "status", "volume-mm3", "volume-std-mm3"),
    *("volume-low-mm3", "volume-high-mm3", "conformal_low_mm3", "conformal_high_mm3"),
)
METHOD = {
    "model": "box",
    "model_sha256": "0" * 64,
    "version": "0.1.0",
    "seed": 0,
    "n_samples": 10,
    "coverage": 0.9,
}


def make_source(root: Path, names: Sequence[str], tables: Mapping[str, str]) -> Path:
    """A data set of empty scans.

    Args:
        root: folder to make.
        names: the scans by name, such as "sub-01_ses-a_T1w".
        tables: text of further files by their path in the data set.
    """
    for name in names:
        folders = [part for part in name.split("_") if part[:4] in ("sub-", "ses-")]
        scan = Path(root, *folders, "anat", f"{name}.nii.gz")
        scan.parent.mkdir(parents=True, exist_ok=True)
        scan.touch()
    about = {"Name": "Made & small", "BIDSVersion": "1.11.0"}
    for path, text in {"dataset_description.json": json.dumps(about), **tables}.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return root


def named(root: Path) -> dict[str, Names]:
    """The names of the results of each scan of a data set, by name of the scan."""
    found = [Names.of(source, "") for source in read_layout(root).sources]
    return {names.scan: names for names in found}


def write_results(
    directory: Path,
    names: Names,
    draws: Mapping[str, np.ndarray],
    *,
    score: float = 0.9,
    flags: Sequence[str] = (),
    **method: object,
) -> None:
    """What the participant level leaves of a scan that the group level reads.

    Args:
        directory: folder of the results.
        names: the names of the scan's results.
        draws: volume in each draw, (n_draws,), mm³, by structure; "intracranial" and
            "brain" are wholes.
        score: the score of the quality.
        flags: reasons to look at it.
        method: what differs from `METHOD`.
    """
    (directory / names.folder).mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(COLUMNS)]
    for index, (name, volumes) in enumerate(draws.items(), 10):
        mean, sd = float(np.mean(volumes)), float(np.std(volumes, ddof=1))
        is_whole = name in ("intracranial", "brain")
        cells = [
            "n/a" if is_whole else str(index),
            name,
            "found" if mean else "not found",
            f"{mean:.8g}",
            f"{sd:.8g}",
        ]
        ends = [mean - 2 * sd, mean + 2 * sd, mean - 3 * sd, mean + 3 * sd]
        cells += [f"{end:.8g}" if mean else "n/a" for end in ends]
        lines.append("\t".join(cells))
    text = "\n".join(lines) + "\n"
    (directory / names.morphometry()).write_text(text, encoding="utf-8")
    rows = zip(*draws.values(), strict=True)
    lines = ["\t".join(draws), *("\t".join(f"{v:.8g}" for v in row) for row in rows)]
    (directory / names.draws).write_text("\n".join(lines) + "\n", encoding="utf-8")
    quality = {
        "name": names.scan,
        "score": score,
        "score_is": "predicted Dice",
        "predicted_dice": score,
        "features": {"entropy": 1 - score},
        "flags": list(flags),
        **METHOD,
        **method,
    }
    (directory / names.quality).write_text(json.dumps(quality), encoding="utf-8")
    (directory / names.page).write_text("<!DOCTYPE html><title>page</title>")
    write_record(directory, names, ended="2025-01-01T00:00:09+00:00")


def write_record(
    directory: Path, names: Names, ended: str = "", failed: str = ""
) -> None:
    """The record of a scan: of one that is done where it has an end."""
    method = Method("bids", network="vnet", options={}, precision="float32", **METHOD)
    (directory / "provenance").mkdir(parents=True, exist_ok=True)
    (directory / "provenance.json").write_text(method.to_json())
    data = {"failed": failed} if failed else {}
    started = "2025-01-01T00:00:00+00:00"
    record = Result(method, (), (), "cpu", started, ended, data)
    Records(directory).write(names.scan, record)
