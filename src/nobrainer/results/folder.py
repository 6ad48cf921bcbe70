"""A folder of results: which are done, which are half done, and how all were made.

The record of a scan is written before the first of its files, and again, with the time
of its end, after the last one. So a scan whose record has no end was interrupted and is
done again, and a file that no record names was written by something else. The module
`records` knows where the records lie.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import nibabel as nib

import nobrainer as nb
from nobrainer.errors import InputError
from nobrainer.formats import require_file
from nobrainer.io import write, write_text
from nobrainer.naming import scan_names
from nobrainer.provenance import InputFile, Method, Result, now
from nobrainer.results.places import make_directory, refuse_existing
from nobrainer.results.records import METHOD, Records, clear

FAILED = "failed"
"""What a record calls the reason for which a scan could not be done."""


class Work:
    """A scan in progress; call `begin` before its first file is written.

    Args:
        results: the folder of results.
        name: name of the scan.
        record: what is read and written for the scan, or was by earlier work on it.
        kept: files that are there and whole, which are not written again.
        stale: files of earlier work that are not written again and are of no use.

    Attributes:
        data: what is found about the scan; goes into its record.
    """

    def __init__(
        self,
        results: "Results",
        name: str,
        record: Result,
        kept: frozenset[Path],
        stale: frozenset[Path],
    ) -> None:
        self.data: dict[str, Any] = {}
        self._results, self._name, self._record = results, name, record
        self._kept, self._stale = kept, stale

    def begin(self) -> None:
        """Record which files are about to be written."""
        self._results.write_record(self._name, self._record)

    def write(self, contents: Mapping[Path, nib.Nifti1Image | str]) -> None:
        """Write files of the scan, but for those that are there and whole.

        Args:
            contents: the image or the text of each file.
        """
        for path, content in contents.items():
            if path in self._kept:
                continue
            if isinstance(content, str):
                write_text(content, path, overwrite=True)
            else:
                write(content, path, overwrite=True)

    def end(self) -> None:
        """Record that all files are written, and remove those that are stale."""
        for path in self._stale:
            path.unlink(missing_ok=True)
        stale = set(map(self._results.relative, self._stale))
        files = tuple(one for one in self._record.files if one not in stale)
        done = replace(self._record, files=files, ended=now(), data=self.data)
        self._results.write_record(self._name, done)


class Results:
    """The folder that a command writes to.

    Args:
        directory: the folder, which is made when something is written.
        method: how this command makes its results.
        device: name of the device that computes.
        overwrite: whether to replace results of the same scans.
        keeps: names of the data that a record must have; a scan whose record lacks some
            of it is done again.
        option: what the command calls the folder, for messages.

    directory, method: as above.
    """

    def __init__(
        self,
        directory: Path,
        method: Method,
        device: str,
        *,
        overwrite: bool,
        keeps: Collection[str] = (),
        option: str = "--output-dir",
    ) -> None:
        self.directory, self._keeps = directory, frozenset(keeps)
        self._option = option
        self.method, self._device, self._overwrite = method, device, overwrite
        self._records = Records(directory)

    def open(self, names: Collection[str], shared: Collection[Path]) -> None:
        """Check before any work that results of this method may be added.

        Args:
            names: names of the scans of this command.
            shared: files that all results share, such as tables.

        Raises:
            InputError: results of another method are there, or files that are not
                results.
        """
        if self.directory.exists() and not self.directory.is_dir():
            raise InputError(
                f"{self.directory}: is a file: give another {self._option}"
            )
        there = self._records.method()
        if there is None:
            refuse_existing(shared, overwrite=self._overwrite)
        elif not self._overwrite:
            self._refuse_other(there)
        elif unlike := self.method.unlike(there):
            others = [
                name
                for name in sorted(self._records.names() - set(names))
                if self._is_other(self._records.find(name))
            ]
            if others:
                raise InputError(
                    f"{self.directory}: holds results of another method for "
                    f"{len(others)} scans that are not given "
                    f"({'; '.join(unlike)}): give these scans, too, such as "
                    f"{others[0]}, or another {self._option}"
                )
        make_directory(self.directory)

    def keep_names(self, names: Mapping[Path, str]) -> dict[Path, str]:
        """Let scans that are done keep the names under which they were recorded.

        The name of a scan depends on the scans that it is given with. One that is given
        again with others must not get a second row in the tables.

        Args:
            names: the name of each file, if all of them were new.

        Returns: the names to use; if two scans would share one, those given.
        """
        # By every part of a name that follows an underscore: given alone, a scan is
        # called by such a part.
        by_ending: dict[str, dict[str, tuple[InputFile, ...]]] = defaultdict(dict)
        for other in self._records.names():
            if (record := self._records.find(other)) is not None:
                parts = other.split("_")
                for first in range(len(parts)):
                    by_ending["_".join(parts[first:])][other] = record.inputs
        kept = dict(names)
        for file, name in names.items():
            similar = by_ending.get(scan_names([str(file)])[0], {})
            if not similar.keys() - {name} or not file.is_file():
                continue
            # A file that cannot be read is reported when its turn comes.
            with suppress(OSError):
                given = (InputFile.of(file),)
                same = sorted(n for n, inputs in similar.items() if inputs == given)
                if same and name not in same:
                    kept[file] = same[0]
        return kept if len(set(kept.values())) == len(kept) else dict(names)

    def find_done(
        self, name: str, inputs: Sequence[Path], files: Collection[Path]
    ) -> Result | None:
        """Find the record of a scan that need not be done again.

        It may name files that are not asked for, which another call has written.

        Args:
            name: name of the scan.
            inputs: the files that it is made from.
            files: the files that its results consist of.

        Returns: the record; None where the scan must be done.

        Raises:
            InputError: the files that it was made from have changed since, or their
                number has.
        """
        record = self._records.find(name)
        if self._overwrite or not self._is_whole(record) or record is None:
            return None
        if len(inputs) != len(record.inputs):
            raise InputError(
                f"{self.directory}: the results of {name} there were made from "
                f"{len(record.inputs)} files, not from {len(inputs)}: give "
                f"--overwrite, or another {self._option}"
            )
        for path, was in zip(inputs, record.inputs, strict=True):
            if not was.is_still(path):
                raise InputError(
                    f"{path}: is not the file that the results of {name} in "
                    f"{self.directory} were made from ({was.name}, sha256 "
                    f"{was.sha256[:8]}): give --overwrite where it has changed; if it "
                    "is another scan, give both in one command, or another "
                    f"{self._option}"
                )
        is_there = all(path.exists() for path in files)
        is_all = set(map(self.relative, files)) <= set(record.files)
        return record if is_there and is_all else None

    @contextmanager
    def work(
        self, name: str, inputs: Sequence[Path], files: Collection[Path]
    ) -> Iterator[Work]:
        """A context for the work on one scan; no other process works on it meanwhile.

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
        with self._records.working(name):
            earlier = self._records.find(name)
            mine: set[Path] = set()
            kept: frozenset[Path] = frozenset()
            if earlier is not None:
                mine = {
                    self.directory / one for one in earlier.files if _is_inside(one)
                }
                if not earlier.ended:
                    clear(mine)
                elif self._is_whole(earlier) and not self._overwrite:
                    kept = frozenset(one for one in mine if one.exists())
            foreign = [one for one in files if one not in mine]
            refuse_existing(foreign, overwrite=self._overwrite)
            # What is not asked for now stays ours: it is kept, or removed at the end.
            others = sorted(mine.difference(files))
            record = Result(
                method=self.method,
                inputs=tuple(InputFile.of(one) for one in inputs),
                files=tuple(map(self.relative, (*files, *others))),
                device=self._device,
                started=now(),
            )
            work = Work(self, name, record, kept, frozenset(others) - kept)
            yield work
            work.end()

    def fail(self, name: str, reason: str) -> None:
        """Record why a scan could not be done; one that is done stays done.

        Args:
            name: name of the scan.
            reason: what is wrong with it.

        Raises:
            InputError: another process works on the scan.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._records.working(name):
            earlier = self._records.find(name)
            if earlier is not None and earlier.ended:
                return
            # What was begun stays on record as ours, so that it can be replaced.
            files = () if earlier is None else earlier.files
            record = Result(
                self.method, (), files, self._device, now(), data={FAILED: reason}
            )
            self.write_record(name, record)

    def is_at_work(self, name: str) -> bool:
        """Whether a process works on a scan at this moment.

        Args:
            name: name of the scan.
        """
        return self._records.is_at_work(name)

    def records(self) -> dict[str, Result]:
        """The records of all scans that are done by this method, sorted by name."""
        found = {
            name: self._records.find(name) for name in sorted(self._records.names())
        }
        return {
            n: record
            for n, record in found.items()
            if record and self._is_whole(record)
        }

    def sharing(self, files: Collection[Path]) -> AbstractContextManager[None]:
        """A context in which one process at a time writes files that all results share.

        Args:
            files: paths of these files.
        """
        return self._records.sharing(files)

    def close(self) -> None:
        """Remove the folder of records if nothing was recorded."""
        self._records.close()

    def write_record(self, name: str, record: Result) -> None:
        """Write the record of a scan; before the first one, how all results are made.

        Args:
            name: name of the scan.
            record: what is read and written for it.
        """
        self.write_method()
        self._records.write(name, record)

    def relative(self, file: Path) -> str:
        """The path of a file as records have it.

        Args:
            file: a file in the folder.
        """
        return file.relative_to(self.directory).as_posix()

    def write_method(self) -> None:
        """Record how all results are made, before the first of them is written."""
        if self._records.method() == self.method:
            return
        path = self.directory / METHOD
        with self.sharing([path]):
            # Another process may have written it since `open`.
            there = self._records.method()
            if there is not None and not self._overwrite:
                self._refuse_other(there)
            write_text(self.method.to_json(), path, overwrite=True)

    def _refuse_other(self, there: Method) -> None:
        if unlike := self.method.unlike(there):
            raise InputError(
                f"{self.directory}: holds results of another method "
                f"({'; '.join(unlike)}): give another {self._option}, or --overwrite"
            )

    def _is_other(self, record: Result | None) -> bool:
        return record is not None and bool(record.method.unlike(self.method))

    def _is_whole(self, record: Result | None) -> bool:
        return (
            record is not None
            and bool(record.ended)
            and self._keeps <= record.data.keys()
            and not self._is_other(record)
        )


def _is_inside(file: str) -> bool:
    """Whether a recorded path stays in its folder; such files may be removed."""
    path = PurePosixPath(file)
    return not path.is_absolute() and ".." not in path.parts


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
    """Describe how a command makes its results.

    Args:
        command: name of the command.
        model_dir: folder of the model.
        segmentation: the model.
        n_samples: number of draws of the weights that is asked for.
        seed: seed of the draws.
        precision: type of the numbers in the network, "float32", "tf32"
            or "bfloat16".
        options: other options that decide on the results, by name.
    """
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
        n_passes=segmentation.n_draws(n_samples),
    )
