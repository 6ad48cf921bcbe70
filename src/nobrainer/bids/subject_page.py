"""The page of a participant, made from the files of the scans that are done."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nobrainer as nb
from nobrainer.bids.tables import read_morphometry, to_number

_QUALITY = "_quality.json"


def write_subject_page(out_dir: Path, subject: str) -> Path:
    """Write the page of a participant with all scans that are done.

    Args:
        out_dir: folder of the derivative.
        subject: the participant, with "sub-".

    Returns: the path of the page.
    """
    found = sorted(Path(out_dir, subject).glob(f"**/anat/*{_QUALITY}"))
    told = [json.loads(path.read_text(encoding="utf-8")) for path in found]
    scans = [
        _read(out_dir, subject, path, of_scan)
        for path, of_scan in zip(found, told, strict=True)
    ]
    # All scans of a derivative are of one model.
    caution = told[0]["caution"] if told else ""
    return nb.report.write_subject(
        out_dir / f"{subject}.html", subject, scans, caution=caution
    )


def _read(
    out_dir: Path, subject: str, quality: Path, found: Mapping[str, Any]
) -> "nb.report.SubjectScan":
    """What the files of a scan say, of which `found` is that of its quality."""
    prefix = quality.name.removesuffix(_QUALITY)
    figures = out_dir / subject / "figures"
    table = quality.with_name(f"{prefix}_desc-volumetric_morph.tsv")
    _, rows = read_morphometry(table)
    score = "" if found["score"] is None else f"{found['score']:.3f}"
    return nb.report.SubjectScan(
        name=found["scan"],
        score=f"Its score, from 0 to 1, is {score}: {found['score_is']}.",
        flags=found["flags"],
        slices=nb.report.Picture(
            "image/png",
            (figures / f"{prefix}_dseg.png").read_bytes(),
            f"Slices of {found['scan']} with outlines and maps of uncertainty",
        ),
        page=f"{subject}/figures/{prefix}_report.html",
        volumes_mm3={
            row["name"]: (to_number(row["volume_mm3"]), to_number(row["volume_sd_mm3"]))
            for row in rows
        },
    )
