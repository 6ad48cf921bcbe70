"""The files of a derivative that are about all of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nobrainer as nb
from nobrainer.bids.layout import DESCRIPTION
from nobrainer.errors import InputError
from nobrainer.io import write_text
from nobrainer.json_records import to_json
from nobrainer.results import Results, make_directory

_STANDARD = "1.11.0"
_CODE = "https://github.com/neuronets/nobrainer"
# A pattern of a folder must not end in a slash: the validator would report the folder.
_IGNORED = """\
*.html
group_*
**/figures
*_entropy.nii.gz
*_variance.nii.gz
*_quality.json
*_morph.tsv
*_morph.json
*_draws.tsv
provenance
provenance.json
"""
_README = """\
# Segmentations by nobrainer

Made by `nobrainer bids`, version {version}, with the model {model}
(sha256 {digest}). `provenance.json` says how, `provenance/` from which files.

For each scan, `anat/` has the label map (`_dseg`, its values in the table beside it),
the mask of the brain where the model knows the brain, maps of the uncertainty
(`_entropy` of the mean class probabilities in nats, `_variance` of the probabilities
across draws; rounded to multiples of 2^-14 and 2^-24), the volumes of the structures
with error bars (`_desc-volumetric_morph.tsv`, after the draft of BIDS extension 11),
these volumes in each draw (`_draws.tsv`, mm^3, by which sessions are compared) and what
is said of the quality (`_quality.json`). The suffixes entropy, variance, morph, draws
and quality are not of the standard; `.bidsignore` lists them. `sub-*.html` are pages to
look at; `group*` are the tables and the page of all scans. Not a medical device.
"""


def shared_files(out_dir: Path) -> list[Path]:
    """The files that are about all scans of a derivative.

    Args:
        out_dir: folder of the derivative.
    """
    return [out_dir / name for name in (DESCRIPTION, ".bidsignore", "README.md")]


def write_shared(bids_dir: Path, results: Results) -> None:
    """Write the files that are about all scans, where they are not there as they are.

    Args:
        bids_dir: folder of the data set.
        results: the records of the derivative.
    """
    out_dir, method = results.directory, results.method
    description = {
        "Name": f"nobrainer: segmentations by the model {method.model}",
        "BIDSVersion": _STANDARD,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "nobrainer",
                "Version": nb.__version__,
                "CodeURL": _CODE,
                "Description": f"model sha256 {method.model_sha256}",
            }
        ],
        "SourceDatasets": [_describe_source(bids_dir)],
        "DatasetLinks": {"raw": bids_dir.resolve().as_uri()},
    }
    readme = _README.format(
        version=method.version, model=method.model, digest=method.model_sha256
    )
    texts = (to_json(description) + "\n", _IGNORED, readme)
    files = shared_files(out_dir)
    # From now on these files are known to be ours.
    make_directory(out_dir)
    results.write_method()
    with results.sharing(files):
        for path, text in zip(files, texts, strict=True):
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                write_text(text, path, overwrite=True)


def check_places(bids_dir: Path, out_dir: Path) -> None:
    """Check that results would not be written among the data.

    Args:
        bids_dir: folder of the data set.
        out_dir: folder of the derivative.

    Raises:
        InputError: the derivative is in the data set, but not below `derivatives`, or
            the data set is in the derivative.
    """
    data, out = bids_dir.resolve(), out_dir.resolve()
    if data.is_relative_to(out):
        raise InputError(
            f"{out_dir}: holds the data set {bids_dir}: give another OUT_DIR, such as "
            f"{bids_dir / 'derivatives' / 'nobrainer'}"
        )
    if out.is_relative_to(data):
        inside = out.relative_to(data).parts
        if len(inside) < 2 or inside[0] != "derivatives":
            raise InputError(
                f"{out_dir}: lies in the data set, which is only read: give another "
                f"OUT_DIR, such as {bids_dir / 'derivatives' / 'nobrainer'}"
            )


def _describe_source(bids_dir: Path) -> Mapping[str, Any]:
    """What the description of the derivative says of the data set."""
    source: dict[str, Any] = {"URL": bids_dir.resolve().as_uri()}
    path = bids_dir / DESCRIPTION
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return source
        if isinstance(found, dict) and isinstance(found.get("DatasetDOI"), str):
            source["DOI"] = found["DatasetDOI"]
    return source
