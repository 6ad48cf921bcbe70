"""The recipe of a model: its settings, and when and on what they were trained."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import Literal, Self

from nobrainer.checks import shorten
from nobrainer.errors import InputError
from nobrainer.json_records import build_record, parse_json, since
from nobrainer.recipe.cohort import Cohort
from nobrainer.recipe.search import SearchRecord
from nobrainer.recipe.settings import (
    DataConfig,
    ModelConfig,
    PreprocessConfig,
    TrainingConfig,
)

FORMAT_VERSION = 4
"""Of `recipe.json`; what older versions lack is marked by `since`."""


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
class Provenance:
    """When, with what software and on which files the weights were trained.

    `started` and `ended` are ISO 8601 in UTC; `versions` maps package to version;
    `metrics` holds the figures of the saved weights (`validation_dice`, ...);
    `cohort` the sizes of the classes; `member_seeds` the seed of each member's
    training where the model is an ensemble; `search` the study that chose it;
    `n_synthetic` how many of the training scans say that they are synthetic; `n_maps`
    how many of them are label maps, of which training made its images.
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

    @property
    def caution(self) -> str:
        """A sentence for whoever uses a model of synthetic scans; else empty.

        Images made from label maps of real heads are not such scans: they are as varied
        as they are so that a model is of use on real ones.
        """
        return caution_about(self.n_synthetic)


def caution_about(n_synthetic: int) -> str:
    """What to say of a model that so many synthetic scans trained; empty for none."""
    if not n_synthetic:
        return ""
    scans = f"{n_synthetic} synthetic scan{'s' * (n_synthetic != 1)}"
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

        Raises `InputError` for text that is not JSON, an unknown or missing
        field, or a format version newer than this software understands.
        """
        raw = parse_json(text, "recipe")
        refuse_newer(raw)
        recipe = build_record(cls, raw, "recipe")
        # What is read from an older format is kept in today's.
        return replace(recipe, format_version=FORMAT_VERSION)


def refuse_newer(raw: object) -> None:
    """Raise `InputError` when a parsed recipe's format is newer than this software's.

    To be asked before anything else is interpreted: a newer format may change all
    the rest.
    """
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise InputError(
            f"recipe has format version {version}, this nobrainer reads up to "
            f"{FORMAT_VERSION}: upgrade nobrainer"
        )
