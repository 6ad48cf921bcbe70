"""The recipe of a model: its settings, and when and on what they were trained."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import Literal, Self

from nobrainer.checks import shorten
from nobrainer.errors import InputError
from nobrainer.json_records import build_record, parse_json, since
from nobrainer.naming import count
from nobrainer.recipe.cohort import Cohort
from nobrainer.recipe.search import SearchRecord
from nobrainer.recipe.settings import (
    DataConfig,
    ModelConfig,
    PreprocessConfig,
    TrainingConfig,
)
from nobrainer.recipe.statement import Statement

FORMAT_VERSION = 4
"""Version of the format of `recipe.json`; `since` marks what older versions lack."""


@dataclass(frozen=True)
class FileRecord:
    """A file that training read: its name (never an absolute path), role and sha256."""

    name: str
    role: Literal["train-image", "train-label", "validate-image", "validate-label"]
    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        if PurePosixPath(self.name).is_absolute() or PureWindowsPath(self.name).drive:
            raise InputError(f"a file record holds no absolute path, got {self.name!r}")


@dataclass(frozen=True)
class Fold:
    """Subjects whom one member of an ensemble has not seen, and all others have.

    subjects: the subjects, each with all scans.
    n_scans: number of their scans.
    checksums: SHA-256 of the files of these scans, sorted; scans in memory have none.
    """

    subjects: tuple[str, ...]
    n_scans: int
    checksums: tuple[str, ...]


@dataclass(frozen=True)
class Provenance:
    """When, with what software and on which files the weights were trained.

    started, ended: times of the training, ISO 8601 in UTC.
    versions: version of each package, by its name.
    files: the files that training read.
    metrics: figures of the saved weights by name, such as "validation_dice".
    cohort: how large the classes are in the training scans, and what these look like.
    member_seeds: seed of each member's training; empty unless the model is an ensemble.
    search: the study that chose the settings; None without one.
    n_synthetic: number of training scans whose files say that they are synthetic.
    n_maps: number of label maps from which training made its images.
    statement: what those who trained the model state of it; None where they did not.
    folds: the subjects that each member of an ensemble left out, in the order of the
        members; empty where all members learned from all scans.
    """

    started: str
    ended: str
    versions: dict[str, str]
    files: tuple[FileRecord, ...]
    metrics: dict[str, float]
    cohort: Cohort | None = field(default=None, metadata=since(2))
    member_seeds: tuple[int, ...] = field(default=(), metadata=since(2))
    search: SearchRecord | None = field(default=None, metadata=since(3))
    n_synthetic: int = field(default=0, metadata=since(4))
    n_maps: int = field(default=0, metadata=since(4))
    statement: Statement | None = field(default=None, metadata=since(4))
    folds: tuple[Fold, ...] = field(default=(), metadata=since(4))

    @property
    def expected_dice(self) -> float | None:
        """Mean Dice of the structures on scans that did not teach the weights.

        It is that of a search's test split where there was one, else that of the
        members of an ensemble on the scans of their folds, else that of the validation
        scans; None where none of these was measured.
        """
        test = {} if self.search is None else self.search.test or {}
        validated = self.metrics.get("validation_dice")
        return test.get("dice", self.metrics.get("out_of_fold_dice", validated))

    @property
    def caution(self) -> str:
        """A warning for users of a model of synthetic scans; empty for any other model.

        Images made from label maps of real heads do not count as synthetic scans: they
        vary so much that a model learns to segment real scans from them.
        """
        return caution_about(self.n_synthetic)


def caution_about(n_synthetic: int) -> str:
    """The warning about a model of this many synthetic scans; empty for 0."""
    if not n_synthetic:
        return ""
    scans = count(n_synthetic, "synthetic scan")
    return f"Trained on {scans}: not for use on real ones."


@dataclass(frozen=True)
class Recipe:
    """The whole story of one model."""

    model: ModelConfig
    preprocess: PreprocessConfig
    data: DataConfig
    training: TrainingConfig
    provenance: Provenance
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        n_classes, cohort = self.data.n_classes, self.provenance.cohort
        same = range(n_classes)
        for what, n in (
            ("model.args", self.model.args.get("n_classes", n_classes)),
            ("training.class_weights", len(self.training.class_weights or same)),
            ("provenance.cohort", len(cohort.log_mean if cohort else same)),
            ("provenance.cohort", len(cohort.log_sd if cohort else same)),
        ):
            if n != n_classes:
                raise InputError(
                    f"recipe: {what} is for {shorten(n)} classes, data for {n_classes}"
                )

    def to_json(self) -> str:
        """The recipe as indented JSON text; `from_json` gives back an equal recipe."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            InputError: the text is not JSON, is the recipe of a generator, a field is
                unknown or missing, or the format is newer than this software.
        """
        raw = parse_json(text, "recipe")
        refuse_newer(raw)
        if isinstance(raw, dict) and "generator" in raw:
            raise InputError(
                "is the recipe of a generator of images: load it with Generation.load"
            )
        recipe = build_record(cls, raw, "recipe")
        # Saved again, a recipe of an older format is written in today's.
        return replace(recipe, format_version=FORMAT_VERSION)


def refuse_newer(raw: object) -> None:
    """Check that this software knows the format of a recipe.

    This comes before anything else is interpreted, since a newer format may change
    all the rest.

    Args:
        raw: the recipe as parsed JSON.

    Raises:
        InputError: the format is newer than this software's.
    """
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise InputError(
            f"recipe has format version {version}, this nobrainer reads up to "
            f"{FORMAT_VERSION}: upgrade nobrainer"
        )
