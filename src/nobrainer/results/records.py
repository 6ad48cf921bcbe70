"""The records in a folder of results, and the locks that let one process write.

| file | what it holds |
|---|---|
| `provenance.json` | the method, see `nobrainer.provenance.Method`: one in a folder |
| `provenance/NAME.json` | a scan, and the files written for it: a `Result` |

A process holds a lock while it works on a scan; the system frees the lock however the
process ends.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from nobrainer.errors import InputError
from nobrainer.io import write_text
from nobrainer.provenance import Method, Result

METHOD = "provenance.json"
RECORDS = "provenance"


class Records:
    """The records of one folder of results.

    Args:
        directory: the folder, which need not be there yet.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._folder = directory / RECORDS

    def names(self) -> set[str]:
        """The names of all scans that have a record."""
        if not self._folder.is_dir():
            return set()
        return {path.stem for path in self._folder.iterdir() if path.suffix == ".json"}

    def find(self, name: str) -> Result | None:
        """Find the record of a scan; None where there is none that can be read.

        A record that cannot be read counts as none, so that the scan is done again.

        Args:
            name: name of the scan.
        """
        text = _read(self._path(name))
        with suppress(InputError):
            return None if text is None else Result.from_json(text)
        return None

    def write(self, name: str, record: Result) -> None:
        """Write the record of a scan, over the one that is there.

        Args:
            name: name of the scan.
            record: what was read and written for it.
        """
        write_text(record.to_json(), self._path(name), overwrite=True)

    def method(self) -> Method | None:
        """Read how all results were made; None where nothing was recorded yet.

        Raises:
            InputError: the file is damaged.
        """
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

    @contextmanager
    def working(self, name: str) -> Iterator[None]:
        """A context in which no other process works on a scan.

        Args:
            name: name of the scan.

        Raises:
            InputError: another process works on it.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(self._locked(f".{name}.lock", 0))
            except Timeout as error:
                raise InputError(
                    f"{self.directory}: another process is at work on {name}: wait for "
                    "it, and give the same command again"
                ) from error
            clear([self._path(name)])
            yield

    def is_at_work(self, name: str) -> bool:
        """Whether a process works on a scan at this moment.

        Args:
            name: name of the scan.
        """
        lock = f".{name}.lock"
        if not (self._folder / lock).exists():
            return False
        try:
            with self._locked(lock, 0):
                # A process that was killed has left it.
                return False
        except Timeout:
            return True

    @contextmanager
    def sharing(self, files: Collection[Path]) -> Iterator[None]:
        """A context in which one process at a time writes files that all results share.

        Args:
            files: paths of these files.
        """
        with self._locked(".lock"):
            clear(files)
            yield

    def close(self) -> None:
        """Remove the folder of records if nothing was recorded."""
        if not self.names():
            with suppress(OSError):
                self._folder.rmdir()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    @contextmanager
    def _locked(self, name: str, timeout_s: float = -1) -> Iterator[None]:
        """Hold a lock of the folder; the system frees it if the process dies."""
        self._folder.mkdir(exist_ok=True)
        lock = FileLock(self._folder / name, timeout=timeout_s)
        try:
            lock.acquire()
        except NotImplementedError:
            # A file system without locks: processes with the same work write the same.
            yield
            return
        try:
            yield
        finally:
            # Before the lock is released, or that of another process would be removed.
            (self._folder / name).unlink(missing_ok=True)
            lock.release()


def _read(path: Path) -> str | None:
    """The text of a file, None where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def clear(files: Collection[Path]) -> None:
    """Remove the temporary files that killed processes have left.

    Args:
        files: paths of the files that these processes were writing.
    """
    for path in files:
        pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}(\.\w+)*")
        if path.parent.is_dir():
            for left in path.parent.iterdir():
                if pattern.fullmatch(left.name):
                    left.unlink(missing_ok=True)
