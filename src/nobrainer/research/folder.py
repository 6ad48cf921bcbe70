"""The folder of a study: where each of its files lies, and how its records are read."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nobrainer.errors import InputError
from nobrainer.io import write_text
from nobrainer.json_records import build_record, parse_json
from nobrainer.research.judge import check_objectives
from nobrainer.research.records import FinalResult, Settings, Split

SETTINGS, SPLIT, TEST = "study.json", "split.json", "test.json"
JOURNAL, STORAGE = "journal.jsonl", "optuna.log"
MODEL = "model"
"""Folder of a trained model inside the folder of its run."""


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study, and every path in it.

    Workers on several machines may share the folder.

    root: path of the folder.
    """

    root: Path

    @property
    def settings(self) -> Path:
        """The file of what was fixed before run 0."""
        return self.root / SETTINGS

    @property
    def split(self) -> Path:
        """The file of the scans of each part."""
        return self.root / SPLIT

    @property
    def test(self) -> Path:
        """The file of the scores on the test split; a study that has it is finished."""
        return self.root / TEST

    @property
    def journal(self) -> Path:
        """The file of the rows of all runs that have ended."""
        return self.root / JOURNAL

    @property
    def storage(self) -> Path:
        """The file of Optuna's storage, where no database is given."""
        return self.root / STORAGE

    @property
    def best(self) -> Path:
        """The folder of the best model."""
        return self.root / "best"

    @property
    def report(self) -> Path:
        """The page to read in the morning."""
        return self.root / "report.html"

    @property
    def workers(self) -> Path:
        """The folder of the files by which workers see that others live."""
        return self.root / "workers"

    @property
    def runs(self) -> Path:
        """The folder of the folders of all runs."""
        return self.root / "runs"

    @property
    def lock(self) -> Path:
        """The lock to hold while changing what workers share."""
        return self.root / ".lock"

    @property
    def ending_lock(self) -> Path:
        """The lock to hold while scoring the test split."""
        return self.root / ".ending.lock"

    @property
    def test_log(self) -> Path:
        """The output of scoring the test split."""
        return self.root / "test.log"

    @property
    def gpus_log(self) -> Path:
        """The output of listing the GPUs."""
        return self.root / "gpus.log"

    def run(self, number: int) -> Path:
        """The folder of a run."""
        return self.runs / f"{number:04d}"

    def model(self, number: int) -> Path:
        """The folder of the model that a run has trained."""
        return self.run(number) / MODEL

    def log(self, number: int) -> Path:
        """The output of a run."""
        return self.run(number) / "log.txt"

    def list_runs(self) -> list[int]:
        """Numbers of the runs that have a folder."""
        names = [path.name for path in self.runs.iterdir()]
        return [int(name) for name in names if name.isdigit()]

    def find_results(self) -> dict[str, Path]:
        """The results of a study that exist already, by what they are."""
        found = {
            "best model": self.best,
            "report": self.report,
            "journal": self.journal,
        }
        return {name: path for name, path in found.items() if path.exists()}

    def refuse_foreign(self) -> None:
        """Refuse a folder that is neither empty nor that of a study.

        Raises:
            InputError: the folder holds other files.
        """
        if self.settings.exists() or not self.root.exists():
            return
        foreign = sorted(
            path.name
            for path in self.root.iterdir()
            if path.name != SPLIT and not path.name.startswith(".")
        )
        if foreign:
            raise InputError(
                f"{self.root}: holds files that are not a study's "
                f"({', '.join(foreign[:3])}): give another --working-dir"
            )

    def write_new(self, settings: Settings, split: Split) -> None:
        """Write what is fixed before run 0.

        The settings are written last, because a folder that has them is a study.

        Args:
            settings: settings of the study.
            split: the scans of each part.
        """
        self._write(self.split, asdict(split))
        self._write(self.settings, asdict(settings))

    def write_test(self, final: FinalResult) -> None:
        """Write the scores on the test split.

        Args:
            final: the scores, with nothing in them that is not finite.

        Raises:
            InputError: the scores are there already.
        """
        text = json.dumps(asdict(final), indent=2, allow_nan=False) + "\n"
        write_text(text, self.test, overwrite=False)

    def read_settings(self) -> Settings:
        """Read what was fixed before run 0.

        Raises:
            InputError: the file is damaged or cannot be read.
        """
        path = self.settings
        settings: Settings = build_record(Settings, _read_json(path), str(path))
        try:
            check_objectives(settings.objectives)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return settings

    def read_split(self) -> Split:
        """Read the scans of each part.

        Raises:
            InputError: the file is damaged or cannot be read.
        """
        path = self.split
        raw = _read_json(path)
        if not (
            isinstance(raw, dict)
            and raw.keys() == {"train", "validate", "test"}
            and all(isinstance(rows, list) for rows in raw.values())
            and all(
                # The third names the subject; older studies did not keep it.
                isinstance(row, list)
                and len(row) in (2, 3)
                and {*map(type, row)} == {str}
                for rows in raw.values()
                for row in rows
            )
        ):
            raise InputError(
                f"{path}: must have the scans and labels of train, validate and test: "
                "bring back the file as it was, or give another --working-dir"
            )
        return Split(**{name: tuple(map(tuple, rows)) for name, rows in raw.items()})

    def read_test(self) -> FinalResult | None:
        """Read the scores on the test split; None before it is scored.

        Raises:
            InputError: the file is damaged.
        """
        path = self.test
        if not path.exists():
            return None
        result: FinalResult = build_record(FinalResult, _read_json(path), str(path))
        for name in ("champion", "baseline"):
            if "dice" not in result.figures.get(name, {}):
                raise InputError(
                    f"{path}: has no Dice of the {name}: bring back the file"
                )
        return result

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """A context that turns what the system refuses in the folder into one line.

        Raises:
            InputError: a file cannot be written or read, or a lock is not possible.
        """
        try:
            yield
        except (OSError, NotImplementedError) as error:
            name = getattr(error, "filename", None) or self.root
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"{name}: cannot be used for a study: {reason}: free some space, mend "
                "the permissions or what stands there, and the same command goes on"
            ) from error

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        write_text(json.dumps(content, indent=2) + "\n", path, overwrite=True)


def read_text(path: Path) -> str:
    """Read the text of a file.

    Args:
        path: path of the file, in UTF-8.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _read_json(path: Path) -> Any:
    return parse_json(read_text(path), str(path))
