"""What a first run needs: ten subjects with labels, or one brain to segment."""

import csv
import io
import os
import sys
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread
from urllib.parse import urlsplit

import nibabel as nib
import numpy as np
import platformdirs
import pooch
import requests
from nilearn.datasets import load_mni152_template

from nobrainer.checks import check_choice
from nobrainer.data.phantom import GENERATION, write_subjects
from nobrainer.errors import InputError

# FreeSurfer results of ten subjects of OpenNeuro ds000114, 1 mm, 256 voxels a side.
_SAMPLE_URL = (
    "https://datasets.datalad.org/workshops/nih-2017/ds000114/derivatives/freesurfer/"
)
_SOURCES = ("auto", "remote", "embedded")
_CONNECT_S, _READ_S, _RETRIES = 4.0, 15.0, 2
_NOTICE = "MNI152 (C) 1993-2004 Louis Collins, McConnell BIC, MNI, McGill University"
_MNI_SPACE = 4
"""NIfTI's code for coordinates of the MNI152 space."""


def get_data(
    cache_dir: str | os.PathLike[str] | None = None,
    source: str = "auto",
    *,
    resolution_mm: float = 2.0,
) -> str:
    """Provide an image and its labels of ten subjects, and say on stderr of which.

    Args:
        cache_dir: where the files are kept; by default `$NOBRAINER_CACHE`, else the
            user's cache directory.
        source: `remote` downloads a public sample (T1-weighted images and
            FreeSurfer's aparc+aseg, 1 mm); `embedded` makes synthetic heads on this
            machine; `auto` takes the public sample if it is cached or can be
            downloaded, else `embedded`.
        resolution_mm: voxel size of the embedded subjects, 1 to 10 mm.

    Returns:
        The path of a CSV file with the header `features,labels` and ten rows of
        absolute paths.

    Raises:
        InputError: the source is unknown, the sample cannot be downloaded, or the
            cache cannot be written.
    """
    check_choice("source", source, _SOURCES)
    chosen = cache_dir or os.environ.get("NOBRAINER_CACHE")
    cache = Path(chosen or platformdirs.user_cache_dir("nobrainer")).expanduser()
    cache = cache.resolve()
    sample = _sample(cache, _SAMPLE_URL, _sample_checksums())
    try:
        return str(_provide(cache, source, sample, resolution_mm))
    except OSError as error:
        raise InputError(
            f"{cache}: the data cannot be kept there ({error.strerror or error}): "
            "pass another cache_dir or set NOBRAINER_CACHE"
        ) from error


def get_template() -> nib.Nifti1Image:
    """Provide the MNI152 template, which needs no network: it comes with nilearn.

    It shows no person. It is the mean of 152 adults' T1-weighted scans that were
    matched to each other, without the skull: free of noise, blurred in the cortex, and
    exactly the same on both sides.

    Returns:
        The image (I, J, K), float32, 0 to 1, 0 outside the brain, voxels of 1 mm; its
        description holds the copyright notice that every copy must carry.

    Source: Fonov et al. 2011, NeuroImage 54:313, doi:10.1016/j.neuroimage.2010.07.033.
    """
    template = load_mni152_template(resolution=1)
    image = nib.Nifti1Image(np.asarray(template.dataobj, np.float32), template.affine)
    image.set_sform(image.affine, code=_MNI_SPACE)
    image.set_qform(image.affine, code=_MNI_SPACE)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = _NOTICE
    return image


def _sample_checksums() -> dict[str, str]:
    """SHA-256 of each file of the sample, by its path below the sample's address."""
    table = files("nobrainer.data").joinpath("sample_checksums.tsv").read_text("utf-8")
    _, *rows = csv.reader(table.splitlines(), delimiter="\t")
    names = ("t1.mgz", "aparc+aseg.mgz")
    return {
        f"{subject}/mri/{name}": checksum
        for subject, *checksums in rows
        for name, checksum in zip(names, checksums, strict=True)
    }


def _sample(cache: Path, url: str, checksums: dict[str, str]) -> pooch.Pooch:
    """The public sample; pooch names a file only once its checksum is right."""
    return pooch.create(
        path=cache / "ds000114",
        base_url=url,
        registry=checksums,
        retry_if_failed=_RETRIES,
    )


def _provide(
    cache: Path, source: str, sample: pooch.Pooch, resolution_mm: float
) -> Path:
    """The path of the table of subjects, from the chosen source."""
    why = "as asked"
    if source != "embedded":
        try:
            return _public_sample(sample)
        except InputError as error:
            if source == "remote":
                raise InputError(
                    f"{error}: try again later or use source='embedded'"
                ) from error
            why = str(error)
    directory = cache / f"embedded-{GENERATION}-{resolution_mm:g}mm"
    _say(f"synthetic subjects in {directory} ({why})")
    return _write_table(directory, write_subjects(directory, 10, resolution_mm))


def _public_sample(sample: pooch.Pooch) -> Path:
    names = sample.registry_files
    missing = [name for name in names if not _is_cached(sample, name)]
    if missing:
        host = urlsplit(sample.base_url).netloc
        fault = _connection_fault(sample.get_url(missing[0]), _CONNECT_S)
        if fault:
            raise InputError(f"{host}: cannot be reached: {fault}")
        _say(f"public sample from {host} into {sample.abspath} (not cached yet)")
        _download(sample, missing)
    else:
        _say(f"public sample in {sample.abspath} (cached)")
    paths = [sample.abspath / name for name in names]
    return _write_table(sample.abspath, list(zip(paths[::2], paths[1::2], strict=True)))


def _is_cached(sample: pooch.Pooch, name: str) -> bool:
    path = sample.abspath / name
    return path.is_file() and pooch.file_hash(str(path)) == sample.registry[name]


def _connection_fault(url: str, limit_s: float) -> str | None:
    """Why `url` does not answer within `limit_s` seconds; None if it does."""
    faults: SimpleQueue[str | None] = SimpleQueue()

    def probe() -> None:
        try:
            with requests.get(url, timeout=limit_s, stream=True) as answer:
                answer.raise_for_status()
            faults.put(None)
        except requests.RequestException as error:
            faults.put(type(error).__name__)

    # In a thread because looking up a name has no time-out of its own.
    Thread(target=probe, daemon=True).start()
    try:
        return faults.get(timeout=limit_s)
    except Empty:
        return f"no answer in {limit_s:g} s"


def _download(sample: pooch.Pooch, names: list[str]) -> None:
    downloader = pooch.HTTPDownloader(
        progressbar=True, chunk_size=2**16, timeout=(_CONNECT_S, _READ_S)
    )
    for name in names:
        url = sample.get_url(name)
        try:
            sample.fetch(name, downloader=downloader)
        except requests.RequestException as error:
            raise InputError(
                f"{url}: the download failed: {type(error).__name__}"
            ) from error
        except ValueError as error:
            raise InputError(f"{url}: what came does not match its checksum") from error


def _write_table(directory: Path, pairs: list[tuple[Path, Path]]) -> Path:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("features", "labels"), *pairs])
    path = directory / "subjects.csv"
    # A complete cache may be shared and read-only, or have moved since.
    if not (path.is_file() and path.read_text("utf-8") == text.getvalue()):
        with TemporaryDirectory(dir=directory) as scratch:
            table = Path(scratch) / path.name
            table.write_text(text.getvalue(), "utf-8")
            table.replace(path)
    return path


def _say(line: str) -> None:
    with suppress(OSError):  # A closed stderr must not stop the download.
        print(f"nobrainer data: {line}", file=sys.stderr, flush=True)
