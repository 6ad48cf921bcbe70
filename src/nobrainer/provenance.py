"""How results were made, as records beside them: by which model, from which files."""

from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from hashlib import file_digest
from pathlib import Path
from typing import Any, Self

from nobrainer.formats import require_file
from nobrainer.json_records import build_record, parse_json, since, to_json

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Method:
    """What decides results: those of one method can be compared with each other.

    command: the command of `nobrainer` that made the results.
    version: the version of nobrainer.
    model: name of the model's folder; it is no part of the method, `model_sha256` is.
    model_sha256: checksum of the model and its calibration, see
        `nobrainer.bundle.digest`.
    network: name of the model's network.
    n_samples: number of draws for each scan, as asked for.
    seed: seed of the random draws.
    precision: number format in which the network computes.
    coverage: share of scans whose true volumes the conformal intervals hold; None where
        there are no intervals.
    options: the other options of the command that change its results, by name.
    n_passes: number of passes that each scan gets: fewer than `n_samples` where the
        network cannot make as many draws. It follows from the model and `n_samples`,
        and is no part of the method; None where that was not recorded.
    """

    command: str
    version: str
    model: str
    model_sha256: str
    network: str
    n_samples: int
    seed: int
    precision: str
    coverage: float | None
    options: dict[str, Any]
    format_version: int = FORMAT_VERSION
    n_passes: int | None = field(default=None, compare=False, metadata=since(1))

    def unlike(self, other: "Method") -> list[str]:
        """How this method differs from another one.

        Args:
            other: the method of the results that are there already.

        Returns:
            A phrase for each difference, such as "seed 0 there, 7 now".
        """
        if self.command != other.command:
            # Another command has other options, too.
            return [f"command {other.command} there, {self.command} now"]
        pairs: dict[str, tuple[Any, Any]] = {
            one.name: (getattr(other, one.name), getattr(self, one.name))
            for one in fields(self)
            if one.name not in ("model", "model_sha256", "options", "n_passes")
        }
        for name in sorted({*self.options, *other.options}):
            pairs[name] = (other.options.get(name), self.options.get(name))
        if self.model_sha256 != other.model_sha256:
            pairs["model"] = (other._model(), self._model())
        return [
            f"{n} {was} there, {is_} now"
            for n, (was, is_) in pairs.items()
            if was != is_
        ]

    def _model(self) -> str:
        return f"{self.model} (sha256 {self.model_sha256[:8]})"

    def to_json(self) -> str:
        """The record as indented JSON text; `from_json` gives back an equal one."""
        return _write(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            InputError: the text is no such record; the message names the field.
        """
        return _read(cls, text)


@dataclass(frozen=True)
class InputFile:
    """A file that results were made from; those with the same content are equal.

    name: its name without folders.
    sha256: its checksum.
    size_bytes: its size.
    modified_ns: when it was last written, in nanoseconds since 1970; None where that
        was not recorded.
    """

    name: str
    sha256: str
    size_bytes: int
    modified_ns: int | None = field(default=None, compare=False, metadata=since(1))

    @classmethod
    def of(cls, path: Path) -> Self:
        """The record of a file, which is read once for its checksum."""
        # Before it is read, so that a change in the meantime shows.
        status = path.stat()
        return cls(path.name, checksum(path), status.st_size, status.st_mtime_ns)

    def is_still(self, path: Path) -> bool:
        """Whether a file is the recorded one; it is read only where its time differs.

        Args:
            path: path of the file.

        Raises:
            InputError: it is no file.
        """
        require_file(path)
        status = path.stat()
        known = self.name, self.size_bytes, self.modified_ns
        if known == (path.name, status.st_size, status.st_mtime_ns):
            return True
        return InputFile.of(path) == self


@dataclass(frozen=True)
class Result:
    """A piece of work that is done, or under way: a scan, an evaluation, a ranking.

    method: how the work is done.
    inputs: the files that are read, in order.
    files: paths of the files that are written, in order, from the folder of the
        results.
    device: name of the device that computes.
    started: when the work began, ISO 8601 in UTC.
    ended: when it ended, ISO 8601 in UTC; empty while it is under way.
    data: what else was found, from which tables of several results are made.
    """

    method: Method
    inputs: tuple[InputFile, ...]
    files: tuple[str, ...]
    device: str
    started: str
    ended: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The record as indented JSON text, in which NaN is null."""
        return _write(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            InputError: the text is no such record; the message names the field.
        """
        return _read(cls, text)


def checksum(path: Path) -> str:
    """The SHA-256 checksum of a file.

    Raises:
        InputError: it is no file, so that reading might not end, as with a pipe.
    """
    require_file(path)
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def now() -> str:
    """The time now, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(record: Method | Result) -> str:
    return to_json(asdict(record)) + "\n"


def _read(kind: type, text: str) -> Any:
    return build_record(kind, parse_json(text, "provenance"), "provenance")
