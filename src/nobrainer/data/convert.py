"""From files to a store: every scan is prepared once, by as many processes as wanted.

A scan counts as done once its row is written, which comes after its voxels and is whole
or not there. So a conversion that was killed goes on where it stopped.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from nobrainer.cores import share_threads, use_threads
from nobrainer.data import zarr_store
from nobrainer.data.entries import Scan, require_pair
from nobrainer.data.prepare import read_pair, split_message
from nobrainer.data.preprocess import (
    background_value,
    preprocess_image,
    preprocess_labels,
)
from nobrainer.data.windows import VOXELS_PER_CLASS, index_voxels
from nobrainer.data.zarr_store.table import (
    FILL,
    LISTED,
    TABLE,
    ScanRow,
    SourceFile,
    check_prepared_as,
    read_rows,
    write_table,
)
from nobrainer.errors import InputError, list_problems
from nobrainer.io import write_text
from nobrainer.io.nifti_zarr import stored_header
from nobrainer.naming import relative_names
from nobrainer.provenance import checksum
from nobrainer.recipe import PreprocessConfig
from nobrainer.system import end_with_parent
from nobrainer.types import Shape3
from nobrainer.volume import conformed_geometry

MOST_ROUNDING = 0.002
"""The most by which 16-bit integers may round intensities, in their usual range."""

_ROWS = "rows"
"""Folder of the rows of an unfinished store."""
_EARLIER = "earlier.tsv"
"""The table of a finished store to which scans are being added."""
_LOCK = ".lock"
_STEPS = 2**16 - 1
_SAMPLE = 2**20


@dataclass(frozen=True)
class _Job:
    """A scan to convert.

    store: path of the store.
    scan: the scan.
    index: its place along the first axis of the arrays.
    names: what its image and label are called in the store's table.
    """

    store: Path
    scan: Scan
    index: int
    names: tuple[str, str]


def convert(
    scans: Sequence[Scan],
    preprocess: PreprocessConfig,
    store: Path,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Prepare scans, and write them into a store.

    Scans that the store has already are not read again. Others are added.

    Args:
        scans: files of scans with labels.
        preprocess: how they are prepared.
        store: path of the store, in a folder that exists.
        workers: number of processes; 1 works in this one.
        progress: called after each scan with (scans done, scans in all).

    Raises:
        InputError: the store cannot be written to or was made in another way; or some
            scans cannot be used, a line for each. The others are done then.
    """
    files = _check(scans)
    arrays = _open(store, scans, preprocess)
    with _locked(store):
        done = _read_done(arrays)
        jobs, rows = _plan(arrays, scans, files, done)
        if not jobs and rows == done and (store / TABLE).exists():
            return
        _begin(store)
        arrays.grow(max([row.index for row in rows.values()], default=-1) + 1)
        arrays.grow(max([job.index for job in jobs], default=-1) + 1)
        problems = []
        n_before = len(scans) - len(jobs)
        for number, found in enumerate(_run(jobs, workers), start=n_before):
            if isinstance(found, ScanRow):
                rows[found.scan] = found
            else:
                problems.append(found)
            if progress is not None:
                progress(number + 1, len(scans))
        if problems:
            raise InputError(
                f"{list_problems(problems)}\n{store}: has {len(rows)} of "
                f"{len(rows) + len(problems)} scans and is not finished: correct these "
                "files, or leave them out, and convert again"
            )
        _finish(store, rows.values())


def _check(scans: Sequence[Scan]) -> list[tuple[Path, Path]]:
    """The files of scans that can be stored: image and label.

    Raises:
        InputError: a scan has no labels or is not a file, or a person is in two splits.
    """
    part_of: dict[str, str | None] = {}
    for scan in scans:
        who = scan.subject or scan.shown
        if part_of.setdefault(who, scan.split) != scan.split:
            raise InputError(
                f"{who}: has scans in the splits {part_of[who] or 'n/a'} and "
                f"{scan.split or 'n/a'}: put all scans of a person into one split"
            )
    return [require_pair(scan) for scan in scans]


def _open(
    store: Path, scans: Sequence[Scan], preprocess: PreprocessConfig
) -> "zarr_store.Arrays":
    """Open a store, or make it with room for the largest of the scans.

    Raises:
        InputError: something else is there, or it was made with another preprocessing.
    """
    if not store.parent.is_dir():
        raise InputError(f"{store.parent}: is not a folder: create it first")
    if not store.exists() or (store.is_dir() and not any(store.iterdir())):
        zarr_store.Arrays.create(store, preprocess, _largest(scans, preprocess))
    arrays = zarr_store.Arrays.open(store, writable=True)
    check_prepared_as(store, arrays.preprocess, preprocess)
    return arrays


def _largest(scans: Iterable[Scan], preprocess: PreprocessConfig) -> Shape3:
    """The most voxels along each axis that a scan has on the working grid.

    Scans whose header cannot be read do not count.
    """
    shapes = []
    for scan in scans:
        try:
            grid = scan.geometry
        except InputError:
            continue
        to = preprocess
        shapes.append(conformed_geometry(grid, to.orientation, to.spacing_mm).shape)
    i, j, k = np.max(shapes, axis=0).tolist() if shapes else (1, 1, 1)
    return i, j, k


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    """Have the store for this process alone."""
    lock = FileLock(store / _LOCK)
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            f"{store}: another process converts scans into it: wait for it to end"
        ) from error
    except OSError as error:
        raise InputError(
            f"{store}: cannot be written to ({error.strerror}): check its permissions "
            "and the free space"
        ) from error


def _read_done(arrays: "zarr_store.Arrays") -> dict[str, ScanRow]:
    """The scans that a store has, by name; those whose files are gone do not count."""
    store = arrays.path
    tables = [store / TABLE, store / _ROWS / _EARLIER]
    found = [row for table in tables if table.exists() for row in read_rows(table)]
    for file in sorted((store / _ROWS).glob("*.json")):
        found.append(ScanRow.from_json(file.read_text("utf-8"), str(file)))
    return {row.scan: row for row in found if arrays.missing(row) is None}


def _plan(
    arrays: "zarr_store.Arrays",
    scans: Sequence[Scan],
    files: Sequence[tuple[Path, Path]],
    done: Mapping[str, ScanRow],
) -> tuple[list[_Job], dict[str, ScanRow]]:
    """What is to do, and the rows of what the store has, with what the scans now say.

    Raises:
        InputError: the store has a scan of the same name from other files.
    """
    rows, jobs, problems = dict(done), [], []
    used = {row.index for row in done.values()}
    free = (index for index in count() if index not in used)
    names = relative_names([path for pair in files for path in pair])
    pairs = zip(names[::2], names[1::2], strict=True)
    for scan, paths, pair in zip(scans, files, pairs, strict=True):
        row = done.get(scan.shown)
        if row is None:
            jobs.append(_Job(arrays.path, scan, next(free), pair))
        elif _is_same(row.image, paths[0]) and _is_same(row.label, paths[1]):
            rows[row.scan] = replace(
                row, subject=scan.subject, session=scan.session, split=scan.split
            )
        else:
            problems.append(
                (
                    scan.name,
                    f"the store {arrays.path} has a scan of its name, {row.scan}, from "
                    "other files: name subjects and sessions in the table, or convert "
                    "into another store",
                )
            )
    if problems:
        raise InputError(list_problems(problems))
    return jobs, rows


def _is_same(known: SourceFile, path: Path) -> bool:
    """Whether a file is the one that a row was made from."""
    about = path.stat()
    if about.st_size != known.size_bytes:
        return False
    return about.st_mtime_ns == known.mtime_ns or checksum(path) == known.sha256


def _begin(store: Path) -> None:
    """Mark a store as unfinished."""
    (store / _ROWS).mkdir(exist_ok=True)
    if (store / TABLE).exists():
        (store / TABLE).replace(store / _ROWS / _EARLIER)


def _run(jobs: Sequence[_Job], workers: int) -> Iterator[ScanRow | tuple[str, str]]:
    """Convert scans; yield the row of each as it is done, or what is wrong with it."""
    if workers == 1 or len(jobs) < 2:
        yield from map(_convert_one, jobs)
        return
    n_workers = min(workers, len(jobs))
    pool = ProcessPoolExecutor(
        n_workers,
        get_context("spawn"),
        _begin_worker,
        (os.getpid(), share_threads(n_workers)),
    )
    with pool:
        futures = [pool.submit(_convert_one, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise InputError(
                f"{jobs[0].store}: a process that converts scans was killed, perhaps "
                "for want of memory: convert again with fewer workers; what is done is "
                "kept"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin_worker(parent: int, threads: int) -> None:
    """Set up a new process, which shares the cores with others like it."""
    end_with_parent(parent)
    use_threads(threads)


def _convert_one(job: _Job) -> ScanRow | tuple[str, str]:
    """Convert one scan; gives its row, or the file with a problem and the problem."""
    try:
        row = _write_scan(job, zarr_store.Arrays.open(job.store, writable=True))
        write_text(
            row.to_json(), job.store / _ROWS / f"{job.index}.json", overwrite=True
        )
    except InputError as error:
        return split_message(job.scan, str(error))
    return row


def _write_scan(job: _Job, arrays: "zarr_store.Arrays") -> ScanRow:
    """Prepare a scan and write its voxels.

    Raises:
        InputError: a file cannot be used, the scan is larger than the store's, or
            16-bit integers would round its intensities too much.
    """
    scan = job.scan
    image_path, label_path = require_pair(scan)
    volume, labels = read_pair(scan)
    assert labels is not None
    image = preprocess_image(volume, arrays.preprocess)
    values = preprocess_labels(labels, arrays.preprocess).data.astype(np.int32)
    if np.greater(image.data.shape, arrays.largest).any():
        room = " x ".join(map(str, arrays.largest))
        size = " x ".join(map(str, image.data.shape))
        raise InputError(
            f"{scan.name}: has {size} voxels on the working grid, the store has room "
            f"for {room}: convert into another store, with the largest scan in the list"
        )
    codes, slope, intercept = to_int16(image.data)
    found = codes.astype(np.float32) * slope + intercept
    usual = usual_range(image.data)
    rounding = float(np.abs(found - image.data).max()) / usual
    if not rounding <= MOST_ROUNDING:
        raise InputError(
            f"{scan.name}: its intensities reach from {image.data.min():g} to "
            f"{image.data.max():g}, most of them within {usual:g}: 16-bit integers "
            f"would round them by {rounding:.3g} of that, and {MOST_ROUNDING} is the "
            "most: normalise them by zscore or minmax, which clip first"
        )
    present, counts = np.unique(values, return_counts=True)
    most = min(VOXELS_PER_CLASS, LISTED // len(present))
    # Background is listed, too: a mapping of labels may make it a class.
    place = np.searchsorted(present, values) + 1
    listed = index_voxels(place, np.random.default_rng(0), most).voxels
    headers = [
        stored_header(path, image.geometry, np.dtype(kind), scaling)
        for path, kind, scaling in (
            (image_path, np.int16, (float(slope), float(intercept))),
            (label_path, np.int32, (1.0, 0.0)),
        )
    ]
    arrays.write(job.index, codes, values, [np.sort(one) for one in listed], headers)
    return ScanRow(
        scan=scan.shown,
        subject=scan.subject,
        session=scan.session,
        split=scan.split,
        index=job.index,
        shape=image.data.shape,
        affine=tuple(image.affine.ravel().tolist()),
        voxel_mm=volume.geometry.spacing_mm,
        slope=float(slope),
        intercept=float(intercept),
        rounding=rounding,
        background=background_value(found),
        floor=float(found.min()),
        spread=float(found.std(dtype=np.float64)),
        label_values=tuple(present.tolist()),
        label_voxels=tuple(counts.tolist()),
        listed=tuple(map(len, listed)),
        is_synthetic=scan.is_synthetic,
        image=_describe(image_path, job.names[0]),
        label=_describe(label_path, job.names[1]),
        checksums=arrays.checksums(job.index),
    )


def usual_range(image: np.ndarray) -> float:
    """The range of all intensities above the minimum but the lowest and highest 2 %.

    Where this is 0, as in an image of two values, it is the range of all.

    Args:
        image: intensities (I, J, K), not constant.
    """
    values = image.ravel()[:: max(1, image.size // _SAMPLE)]
    low, high = np.percentile(values[values > values.min()], (2, 98))
    return float(high - low) or float(np.ptp(image))


def to_int16(image: np.ndarray) -> tuple[np.ndarray, np.float32, np.float32]:
    """Intensities as 16-bit integers, which reach from the least to the largest.

    Args:
        image: intensities, float32 (I, J, K), not constant.

    Returns:
        The integers, slope and intercept: intensities are integers * slope + intercept,
        in single precision, to half a slope or to the precision itself.
    """
    low, high = float(image.min()), float(image.max())
    slope = np.float32((high - low) / _STEPS)
    intercept = np.float32(low - FILL * float(slope))
    codes = np.rint((image.astype(np.float64) - intercept) / slope)
    return np.clip(codes, FILL, FILL + _STEPS).astype(np.int16), slope, intercept


def _describe(path: Path, name: str) -> SourceFile:
    about = path.stat()
    return SourceFile(name, checksum(path), about.st_size, about.st_mtime_ns)


def _finish(store: Path, rows: Iterable[ScanRow]) -> None:
    """Write the table of all scans, which marks the store as finished."""
    write_table(rows, store / TABLE)
    shutil.rmtree(store / _ROWS)
