"""A folder of results: which are done, which are half done, and how all were made.

| file | what it holds |
|---|---|
| `provenance.json` | the method, see `nobrainer.provenance.Method`: one in a folder |
| `provenance/NAME.json` | what one scan was, and what was written for it: a `Result` |

The record of a scan is written before its first file, and once more, with the time,
after its last one. So a scan whose record has no end was interrupted and is done again,
and a file that no record names is not ours. A process holds a lock while it works on a
scan; the system frees the lock however the process ends.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import nobrainer as nb
from nobrainer.cli.outputs import make_directory, refuse_existing
from nobrainer.errors import InputError
from nobrainer.formats import require_file
from nobrainer.io import write_text
from nobrainer.naming import scan_names
from nobrainer.provenance import InputFile, Method, Result, now

METHOD = "provenance.json"
RECORDS = "provenance"


class Work:
    """A scan in progress; call `begin` before its first file is written.

    kept: files that are there and whole, which need not be written again.
    data: what is found of the scan, to be kept in its record.
    """

    def __init__(
        self, results: "Results", path: Path, record: Result, kept: frozenset[Path]
    ) -> None:
        self.kept = kept
        self.data: dict[str, Any] = {}
        self._results, self._path, self._record = results, path, record

    def begin(self) -> None:
        """Record which files are about to be written."""
        self._results.write_method()
        write_text(self._record.to_json(), self._path, overwrite=True)

    def end(self) -> None:
        """Record that all of them are written."""
        self._results.write_method()
        done = replace(self._record, ended=now(), data=self.data)
        write_text(done.to_json(), self._path, overwrite=True)


class Results:
    """The folder that a command writes to.

    Args:
        directory: the folder, which is made when something is written.
        method: how this command makes its results.
        device: name of the device that computes.
        overwrite: replace results of the same scans.
        keeps: names of what is kept with the record of a scan; one that lacks some
            of it is not taken for done.
    """

    def __init__(
        self,
        directory: Path,
        method: Method,
        device: str,
        *,
        overwrite: bool,
        keeps: Collection[str] = (),
    ) -> None:
        self.directory, self._keeps = directory, frozenset(keeps)
        self._method, self._device, self._overwrite = method, device, overwrite
        self._records = directory / RECORDS

    def open(self, names: Collection[str], shared: Collection[Path]) -> None:
        """Check that results of this method may be added, before any work.

        Args:
            names: names of the scans of this command.
            shared: files that all results share, such as tables.

        Raises:
            InputError: results of another method are there, or files that are not
                results.
        """
        if self.directory.exists() and not self.directory.is_dir():
            raise InputError(f"{self.directory}: is a file: give another --output-dir")
        there = self._there()
        if there is None:
            refuse_existing(shared, overwrite=self._overwrite)
        elif not self._overwrite:
            self._refuse_other(there)
        elif unlike := self._method.unlike(there):
            others = [
                name
                for name in sorted(self._names() - set(names))
                if self._is_other(self._find(name))
            ]
            if others:
                raise InputError(
                    f"{self.directory}: holds results of another method for "
                    f"{len(others)} scans that are not given "
                    f"({'; '.join(unlike)}): give these scans, too, such as "
                    f"{others[0]}, or another --output-dir"
                )
        make_directory(self.directory)

    def keep_names(self, names: Mapping[Path, str]) -> dict[Path, str]:
        """The names of scans, of which those that are done keep the name they have.

        What a scan is called depends on the scans it is given with, and one that is
        given once more with others shall have no second row in the tables.
        """
        # By every ending that follows an underscore: what a scan may be called alone.
        by_ending: dict[str, dict[str, tuple[InputFile, ...]]] = defaultdict(dict)
        for other in self._names():
            if (record := self._find(other)) is not None:
                parts = other.split("_")
                for first in range(len(parts)):
                    by_ending["_".join(parts[first:])][other] = record.inputs
        kept = dict(names)
        for file, name in names.items():
            similar = by_ending.get(scan_names([str(file)])[0], {})
            if not similar.keys() - {name} or not file.is_file():
                continue
            # What cannot be read is told when its turn comes.
            with suppress(OSError):
                given = (InputFile.of(file),)
                same = sorted(n for n, inputs in similar.items() if inputs == given)
                if same and name not in same:
                    kept[file] = same[0]
        return kept if len(set(kept.values())) == len(kept) else dict(names)

    def find_done(
        self, name: str, inputs: Sequence[Path], files: Collection[Path]
    ) -> Result | None:
        """The record of a scan that need not be done again; None for any other scan.

        Raises:
            InputError: the files that it was made from have changed since, or are not
                as many.
        """
        record = self._find(name)
        if self._overwrite or not self._is_whole(record) or record is None:
            return None
        if len(inputs) != len(record.inputs):
            raise InputError(
                f"{self.directory}: the results of {name} there were made from "
                f"{len(record.inputs)} files, not from {len(inputs)}: give "
                "--overwrite, or another --output-dir"
            )
        for path, was in zip(inputs, record.inputs, strict=True):
            require_file(path)
            if InputFile.of(path) != was:
                raise InputError(
                    f"{path}: is not the file that the results of {name} in "
                    f"{self.directory} were made from ({was.name}, sha256 "
                    f"{was.sha256[:8]}): give --overwrite where it has changed; if it "
                    "is another scan, give both in one command, or another --output-dir"
                )
        is_there = all(path.exists() for path in files)
        is_all = set(record.files) == {path.name for path in files}
        return record if is_there and is_all else None

    @contextmanager
    def work(
        self, name: str, inputs: Sequence[Path], files: Collection[Path]
    ) -> Iterator[Work]:
        """A context for the work on one scan, which no other process does meanwhile.

        Args:
            name: name of the scan.
            inputs: the files that are read.
            files: the files that will be written.

        Raises:
            InputError: another process works on the scan, or a file is there that no
                earlier work on the scan has written.
        """
        for path in inputs:
            require_file(path)
        with self._working(name):
            earlier, path = self._find(name), self._records / f"{name}.json"
            _clear([path])
            mine: set[Path] = set()
            kept: frozenset[Path] = frozenset()
            if earlier is not None:
                mine = {self.directory / file for file in earlier.files}
                if not earlier.ended:
                    _clear(mine)
                elif self._is_whole(earlier) and not self._overwrite:
                    kept = frozenset(one for one in mine if one.exists())
            foreign = [one for one in files if one not in mine]
            refuse_existing(foreign, overwrite=self._overwrite)
            record = Result(
                method=self._method,
                inputs=tuple(InputFile.of(one) for one in inputs),
                files=tuple(one.name for one in files),
                device=self._device,
                started=now(),
            )
            work = Work(self, path, record, kept)
            yield work
            work.end()

    def records(self) -> dict[str, Result]:
        """The records of all scans that are done by this method, sorted by name."""
        found = {name: self._find(name) for name in sorted(self._names())}
        return {
            n: record
            for n, record in found.items()
            if record and self._is_whole(record)
        }

    @contextmanager
    def sharing(self, files: Collection[Path]) -> Iterator[None]:
        """A context in which to write files that all results share, for one process."""
        with self._locked(".lock"):
            _clear(files)
            yield

    def close(self) -> None:
        """Remove the folder of records if nothing was recorded."""
        if not self._names():
            with suppress(OSError):
                self._records.rmdir()

    def write_method(self) -> None:
        """Write how the results are made, unless that is written already."""
        path = self.directory / METHOD
        if self._there() == self._method:
            return
        with self.sharing([path]):
            # Another process may have begun since `open`.
            there = self._there()
            if there is not None and not self._overwrite:
                self._refuse_other(there)
            write_text(self._method.to_json(), path, overwrite=True)

    @contextmanager
    def _working(self, name: str) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                stack.enter_context(self._locked(f".{name}.lock", 0))
            except Timeout as error:
                raise InputError(
                    f"{self.directory}: another process is at work on {name}: wait for "
                    "it, and give the same command again"
                ) from error
            yield

    def _there(self) -> Method | None:
        path = self.directory / METHOD
        text = _read(path)
        if text is None:
            return None
        try:
            return Method.from_json(text)
        except InputError as error:
            raise InputError(
                f"{path}: {error}: give another --output-dir, or remove it with the "
                "results beside it"
            ) from error

    def _refuse_other(self, there: Method) -> None:
        if unlike := self._method.unlike(there):
            raise InputError(
                f"{self.directory}: holds results of another method "
                f"({'; '.join(unlike)}): give another --output-dir, or --overwrite"
            )

    def _find(self, name: str) -> Result | None:
        text = _read(self._records / f"{name}.json")
        # A record that cannot be read is none: its scan is done again.
        with suppress(InputError):
            return None if text is None else Result.from_json(text)
        return None

    def _names(self) -> set[str]:
        if not self._records.is_dir():
            return set()
        return {path.stem for path in self._records.iterdir() if path.suffix == ".json"}

    def _is_other(self, record: Result | None) -> bool:
        return record is not None and bool(record.method.unlike(self._method))

    def _is_whole(self, record: Result | None) -> bool:
        return (
            record is not None
            and bool(record.ended)
            and self._keeps <= record.data.keys()
            and not self._is_other(record)
        )

    @contextmanager
    def _locked(self, name: str, timeout_s: float = -1) -> Iterator[None]:
        """Hold a lock of the folder, which ends with the process if not before."""
        self._records.mkdir(exist_ok=True)
        lock = FileLock(self._records / name, timeout=timeout_s)
        try:
            lock.acquire()
        except NotImplementedError:
            # A file system without locks: who does the same twice writes the same.
            yield
            return
        try:
            yield
        finally:
            # While it is held, so that nobody else's is removed.
            (self._records / name).unlink(missing_ok=True)
            lock.release()


def make_method(
    command: str,
    model_dir: Path,
    segmentation: "nb.Segmentation",
    *,
    n_samples: int,
    seed: int,
    precision: str = "float32",
    options: Mapping[str, Any] = {},
) -> Method:
    """The method of a command with a model and options that decide its results."""
    return Method(
        command=command,
        version=nb.__version__,
        model=model_dir.resolve().name,
        model_sha256=nb.bundle.digest(model_dir),
        network=segmentation.recipe_.model.name,
        n_samples=n_samples,
        seed=seed,
        precision=precision,
        coverage=segmentation.coverage(n_samples),
        options=dict(options),
    )


def _read(path: Path) -> str | None:
    """The text of a file, None where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _clear(files: Collection[Path]) -> None:
    """Remove what killed processes have left of files that they were writing."""
    for path in files:
        pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}(\.\w+)*")
        if path.parent.is_dir():
            for left in path.parent.iterdir():
                if pattern.fullmatch(left.name):
                    left.unlink(missing_ok=True)
