"""How a model was made: frozen records with a JSON round trip, and nothing else.

A recipe together with the training files reproduces a model. Prediction reads
its preprocessing from here, so it cannot differ from training.
"""

import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from math import isfinite
from pathlib import PurePosixPath, PureWindowsPath
from types import UnionType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from nobrainer.errors import InputError
from nobrainer.naming import count_scans
from nobrainer.registry import check_count, near_miss

FORMAT_VERSION = 4
_SINCE_2, _SINCE_3, _SINCE_4 = ({"since": version} for version in (2, 3, 4))
"""Marks fields that older versions did not have: they are read with their defaults."""
MOST_CLASSES, MOST_VALUE = 4096, 2**31 - 1
"""Classes of a model, and the largest label value of a file."""
_MOST_SIDE, _MOST_SEED = 4096, 2**63 - 1
_MOST_DEPTH, _MOST_DIGITS = 64, 300
_TOO_DEEP = "{} is not ours: its lists and objects are nested too deep"
_LONGEST = 80


@dataclass(frozen=True)
class ModelConfig:
    """A model by registry name, with the arguments of its constructor."""

    name: str
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "args", _plain(self.args, "model arguments"))


Outliers = Literal["kept", "clipped"]


@dataclass(frozen=True)
class PreprocessConfig:
    """What happens to a scan before the network sees it, in training and prediction.

    `orientation`: axis codes of the working grid. `spacing_mm`: voxel size of the
    working grid per axis, None keeps the scan's own. `normalize`: name of the
    intensity normalisation (see `nobrainer.data.preprocess.NORMALIZERS`). `outliers`:
    whether fills and extreme intensities are clipped before it; models of formats 1 to
    3 learned from scans that kept them.
    """

    orientation: str = "RAS"
    spacing_mm: tuple[float, float, float] | None = None
    normalize: str = "zscore"
    outliers: Outliers = field(default="kept", metadata=_SINCE_4)

    def __post_init__(self) -> None:
        axes = [frozenset(pair) & set(self.orientation) for pair in ("LR", "PA", "IS")]
        if len(self.orientation) != 3 or [*map(len, axes)] != [1, 1, 1]:
            raise InputError(
                "orientation must be three axis codes, such as RAS, got "
                f"{_show(self.orientation)}"
            )
        for size in self.spacing_mm or ():
            _check_positive("spacing_mm", size)


def _usual_contrasts() -> dict[str, float]:
    return {"random": 0.6, "T1": 0.2, "T2": 0.08, "FLAIR": 0.08, "PD": 0.04}


@dataclass(frozen=True)
class Synthesis:
    """How images are made from label maps, see `nobrainer.data.synthesis`.

    What is drawn is drawn anew for every image, uniformly from its range unless said
    otherwise; 0 (of `gamma` 1) leaves a step out. Signals before noise lie between 0
    and about 1.

    Shape:
        rotation_deg: largest component of the rotation vector, 0 to 180.
        scale: largest change of size along each axis, as a share, below 1.
        shear: largest shift along one axis for each step along another.
        translation_mm: largest shift along each axis, of images whose place is not
            chosen otherwise, as that of training patches is.
        warp_mm: largest standard deviation of the velocity whose flow deforms the head.
        warp_length_mm: distance of the points between which this velocity is smooth.
        flip: probability that left and right are swapped, in image and labels.

    Intensities:
        contrasts: relative probabilities of "random", "T1", "T2", "FLAIR" and "PD".
        prior_spread: standard deviation of a structure's mean about that of its tissue
            under a named contrast.
        texture: largest standard deviation of the intensities inside a structure.
        background: largest mean of label 0.

    Scanner:
        bias: largest coefficient of the polynomial in the exponent of the bias field.
        blur_mm: largest standard deviation of the blur that mixes neighbouring tissues
            in a voxel (partial volume).
        coarse: probability that the voxels of the scan are larger than the grid's.
        resolution_mm: largest voxel size of those that are coarse along each axis.
        slice_mm: largest thickness of thick slices along one axis. Half of the coarse
            scans have them, the other half have voxels of one size.
        noise: largest standard deviation of the noise in the complex signal, whose
            modulus is the image (Rician noise).
        ghosts: probability of ghosts, copies shifted along an axis (motion).
        spikes: probability of a spike in k-space, a wave across the image.
        gamma: largest power to which intensities are raised; the least is its inverse,
            and the logarithm is uniform.

    Field of view:
        crop: probability that the field of view is cut.
        crop_share: the most that it loses on each face, as a share of the image's
            length along that axis, below 0.5.
        strip: probability that the skull is stripped.
        imperfect: share of these where a rim of the brain is lost or one of other
            tissue is left.
        strip_mm: scale of that rim.

    pairs: label values of left and right partners beside those whose FreeSurfer names
        tell them.
    """

    rotation_deg: float = 20.0
    scale: float = 0.15
    shear: float = 0.05
    translation_mm: float = 10.0
    warp_mm: float = 3.0
    warp_length_mm: float = 20.0
    flip: float = 0.5
    contrasts: dict[str, float] = field(default_factory=_usual_contrasts)
    prior_spread: float = 0.05
    texture: float = 0.08
    background: float = 0.05
    bias: float = 0.3
    blur_mm: float = 0.7
    coarse: float = 0.4
    resolution_mm: float = 3.0
    slice_mm: float = 7.0
    noise: float = 0.08
    ghosts: float = 0.0
    spikes: float = 0.0
    gamma: float = 1.5
    crop: float = 0.15
    crop_share: float = 0.3
    strip: float = 0.3
    imperfect: float = 0.5
    strip_mm: float = 3.0
    pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        shares = ("flip", "coarse", "ghosts", "spikes", "crop", "strip", "imperfect")
        for name in (*shares, "scale", "crop_share"):
            self._check(name, 0, 1)
        self._check("rotation_deg", 0, 180)
        self._check("gamma", 1, math.inf)
        for name in ("shear", "translation_mm", "warp_mm", "prior_spread", "texture"):
            self._check(name, 0, math.inf)
        for name in ("background", "bias", "blur_mm", "noise", "strip_mm"):
            self._check(name, 0, math.inf)
        for name in ("warp_length_mm", "resolution_mm", "slice_mm"):
            _check_positive(f"synthesis.{name}", getattr(self, name))
        for name, limit in (("scale", 1), ("crop_share", 0.5)):
            if getattr(self, name) >= limit:
                raise InputError(
                    f"synthesis.{name} must be below {limit}, got {getattr(self, name)}"
                )
        known = _usual_contrasts()
        for name, weight in self.contrasts.items():
            if name not in known:
                raise near_miss("contrast", name, known)
            if not _is_number(weight) or weight < 0:
                raise InputError(
                    f"synthesis.contrasts must be finite numbers >= 0, got {name}: "
                    f"{_show(weight)}"
                )
        if not any(self.contrasts.values()):
            raise InputError("synthesis.contrasts must have one that is above 0")
        for value in (value for pair in self.pairs for value in pair):
            check_count("synthesis.pairs", value, 0, MOST_VALUE)

    def _check(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not _is_number(value) or not low <= value <= high:
            most = "" if math.isinf(high) else f" and <= {high:g}"
            raise InputError(
                f"synthesis.{name} must be >= {low:g}{most}, got {_show(value)}"
            )


@dataclass(frozen=True)
class DataConfig:
    """How patches and targets were made from the files.

    `relabel` is the mapping from the files' label values to class indices;
    `binarize` is "none", "nonzero", "ids" (with `binarize_ids`) or "callable"
    (with `binarize_name`, for the reader: code is not stored). `synthesis` says how
    images were made from label maps, where there were any; `map_share` is the share of
    patches of such images where scans were mixed with them.
    """

    n_classes: int
    block_shape: tuple[int, int, int]
    batch_size: int
    patches_per_volume: int
    foreground: float
    shuffle: bool
    augment: str = "none"
    relabel: dict[str, int] | None = None
    binarize: Literal["none", "nonzero", "ids", "callable"] = "none"
    binarize_ids: tuple[int, ...] = ()
    binarize_name: str = ""
    synthesis: Synthesis | None = field(default=None, metadata=_SINCE_4)
    map_share: float | None = field(default=None, metadata=_SINCE_4)

    def __post_init__(self) -> None:
        check_count("n_classes", self.n_classes, 2, MOST_CLASSES)
        for side in self.block_shape:
            check_count("block_shape", side, 1, _MOST_SIDE)
        check_count("batch_size", self.batch_size, 1, MOST_VALUE)
        check_count("patches_per_volume", self.patches_per_volume, 1, MOST_VALUE)
        if not 0 <= self.foreground <= 1:
            raise InputError(f"foreground must be from 0 to 1, got {self.foreground}")
        if self.map_share is not None and not 0 <= self.map_share <= 1:
            raise InputError(f"map_share must be from 0 to 1, got {self.map_share}")
        for value in self.binarize_ids:
            check_count("binarize_ids", value, 0, MOST_VALUE)
        for text, value in (self.relabel or {}).items():
            if not text.isdecimal() or int(text) > MOST_VALUE:
                raise InputError(
                    f"relabel must map label values from 0 to {MOST_VALUE}, got "
                    f"{_show(text)}"
                )
            check_count("relabel", value, 0, MOST_VALUE)


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that `fit` was asked for.

    `warm_start` is the SHA-256 of the deterministic weights that the posterior began
    at, `warm_start_delta` its standard deviations as a share of these.
    """

    epochs: int
    optimizer: str
    opt_args: dict[str, Any]
    loss: str
    class_weights: tuple[float, ...] | None
    schedule: str
    seed: int
    precision: str
    gradient_clip: float | None
    accumulate: int
    patience: int | None
    max_minutes: float | None
    warm_start: str | None = field(default=None, metadata=_SINCE_2)
    warm_start_delta: float | None = field(default=None, metadata=_SINCE_2)

    def __post_init__(self) -> None:
        plain = _plain(self.opt_args, "optimizer arguments")
        object.__setattr__(self, "opt_args", plain)
        _check_finite("opt_args", plain)
        check_count("epochs", self.epochs, 1)
        check_count("seed", self.seed, 0, _MOST_SEED)
        check_count("accumulate", self.accumulate, 1)
        if self.patience is not None:
            check_count("patience", self.patience, 1)
        for name in ("gradient_clip", "max_minutes", "warm_start_delta"):
            if getattr(self, name) is not None:
                _check_positive(name, getattr(self, name))
        weights = self.class_weights
        if weights is not None and not (
            all(_is_number(weight) and weight >= 0 for weight in weights)
            and any(weights)
        ):
            raise InputError(
                "class_weights must be finite numbers >= 0, not all of them 0, got "
                f"{_show(list(weights))}"
            )


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
class TrainingAppearance:
    """What the training scans look like, see `nobrainer.appearance`.

    n_scans: how many scans the figures come from.
    names: the names of the statistics; `mean` and `sd` have one number for each.
    limit: distance from the training scans, in standard deviations, that an ordinary
        scan seldom has.
    cut: of each face of the field of view (left, right, posterior, anterior,
        inferior, superior) the largest share, in [0, 1], of the foreground on it.
    islands: largest share, in [0, 1], of the foreground outside its largest component.
    """

    n_scans: int
    names: tuple[str, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    limit: float
    cut: tuple[float, float, float, float, float, float]
    islands: float

    def __post_init__(self) -> None:
        numbers = (*self.mean, *self.sd, self.limit, *self.cut, self.islands)
        fits = len(self.names) == len(self.mean) == len(self.sd)
        if not fits or not all(map(isfinite, numbers)) or min(self.sd, default=1) <= 0:
            raise InputError(
                "appearance must have a finite mean and a positive sd for each of its "
                f"names, got {self}: train the model again"
            )


@dataclass(frozen=True)
class Cohort:
    """How large the classes are in the training scans, and what scans look like.

    `n_subjects`: people whom they show. `log_mean` and `log_sd`: mean and sample
    standard deviation of ln(volume in mm³) of each class over the scans; None where
    fewer than two of them have it. `n_having`: how many scans have a voxel of each
    class; empty where that is not on record. `n_scans`: how many scans there are; None
    where `n_subjects` counted scans, as older formats did. `appearance`: what the scans
    look like; None where it was not measured.
    """

    n_subjects: int
    log_mean: tuple[float | None, ...]
    log_sd: tuple[float | None, ...]
    n_having: tuple[int, ...] = field(default=(), metadata=_SINCE_4)
    appearance: TrainingAppearance | None = field(default=None, metadata=_SINCE_4)
    n_scans: int | None = field(default=None, metadata=_SINCE_4)

    @property
    def counted(self) -> str:
        """How many scans of how many people there are, in words."""
        if self.n_scans is None:
            return count_scans(self.n_subjects, None)
        return count_scans(self.n_scans, self.n_subjects)

    @property
    def never_seen(self) -> tuple[int, ...]:
        """The classes, by index, of which no training subject has a voxel."""
        return tuple(index for index, count in enumerate(self.n_having) if not count)


@dataclass(frozen=True)
class SearchRecord:
    """The search over hyper-parameters that a model comes from.

    family: the registered model that was searched over.
    proposer: name of what proposed the run's values.
    objectives: figures that were judged, the first one first.
    seed: seed of the study: its split, proposals and trainings.
    run: number of the run whose weights these are.
    n_runs, n_failed: runs that ended, those with a second seed included, and those of
        them that failed.
    n_train, n_validate, n_test: subjects of each part of the split.
    n_train_scans, n_validate_scans, n_test_scans: their scans; None where that is not
        on record.
    started, ended: times of the study, ISO 8601 in UTC.
    space: of each parameter the fields of its range: `values`, or `low`, `high`, `log`.
    values: of this run, by parameter; none where it is the unchanged recipe.
    validation, baseline_validation: figures of this run and of the unchanged recipe on
        the validation subjects, means over them and over seeds: "dice" (0 to 1), "nll"
        (nats) and "aurc" (0 to 1) near the foreground.
    spread: of each objective, the standard deviation between seeds, in its unit; empty
        where nothing was trained twice.
    test, baseline_test: figures of both on the test subjects, scored once; None before.
    test_difference: Dice on the test subjects, this run's minus the baseline's: mean,
        low and high end of the 95 % interval of a bootstrap over the subjects.
    """

    family: str
    proposer: str
    objectives: tuple[str, ...]
    seed: int
    run: int
    n_runs: int
    n_failed: int
    n_train: int
    n_validate: int
    n_test: int
    started: str
    ended: str
    space: dict[str, Any]
    values: dict[str, Any]
    validation: dict[str, float]
    baseline_validation: dict[str, float]
    spread: dict[str, float]
    test: dict[str, float] | None = field(default=None, metadata=_SINCE_3)
    baseline_test: dict[str, float] | None = field(default=None, metadata=_SINCE_3)
    test_difference: tuple[float, float, float] | None = field(
        default=None, metadata=_SINCE_3
    )
    n_train_scans: int | None = field(default=None, metadata=_SINCE_4)
    n_validate_scans: int | None = field(default=None, metadata=_SINCE_4)
    n_test_scans: int | None = field(default=None, metadata=_SINCE_4)

    def __post_init__(self) -> None:
        for name in ("space", "values"):
            plain = _plain(getattr(self, name), f"search {name}")
            object.__setattr__(self, name, plain)
        scored = (self.test, self.baseline_test, self.test_difference)
        if None in scored and any(part is not None for part in scored):
            raise InputError(
                "test, baseline_test and test_difference of a search must be given "
                f"together or not at all, got {scored}: score the test split once"
            )


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
    cohort: Cohort | None = field(default=None, metadata=_SINCE_2)
    member_seeds: tuple[int, ...] = field(default=(), metadata=_SINCE_2)
    search: SearchRecord | None = field(default=None, metadata=_SINCE_3)
    n_synthetic: int = field(default=0, metadata=_SINCE_4)
    n_maps: int = field(default=0, metadata=_SINCE_4)

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
                    f"recipe: {what} is for {_show(n)} classes, data for {n_classes}"
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


def to_json(value: Any) -> str:
    """Indented JSON, in which a number that is not defined is null."""
    return json.dumps(_defined(value), indent=2, allow_nan=False)


def _defined(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _defined(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parse_json(text: str | bytes, where: str) -> Any:
    """Read JSON of whatever origin: the one place that does.

    Args:
        text: text of one JSON value; bytes are UTF-8.
        where: name of the record or file, for messages.

    Raises:
        InputError: text that is not JSON, lists and objects that are nested deeper than
            64, or a whole number of more than 300 digits, which `float` cannot take.
    """
    try:
        value = json.loads(text, parse_int=_parse_int)
    except RecursionError as error:
        raise InputError(_TOO_DEEP.format(where)) from error
    except ValueError as error:  # not JSON, not UTF-8, too many digits
        raise InputError(f"{where} is not JSON: {error}") from error
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_MOST_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return value
    raise InputError(_TOO_DEEP.format(where))


def _parse_int(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(
            f"a number of {len(digits)} digits, {digits[:9]}..., is beyond all bounds"
        )
    return int(digits)


def check_history(rows: Any) -> tuple[dict[str, Any], ...]:
    """The history of a training, a row an epoch; `InputError` for anything else."""
    plain = str | int | float | None
    for row in rows:
        if not isinstance(row, dict) or not all(
            isinstance(value, plain) for value in row.values()
        ):
            raise InputError(
                "a row of the history must be numbers and text by name, got "
                f"{_show(row)}"
            )
    return tuple(rows)


def refuse_newer(raw: Any) -> None:
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


def build_record(kind: type, raw: Any, where: str) -> Any:
    """Rebuild a frozen record from parsed JSON, refusing what it does not know.

    A field that an older format did not have takes its default. Raises `InputError`
    that names the field, with `where` as the name of the record.
    """
    if not isinstance(raw, dict):
        raise InputError(f"{where} must be a JSON object, got {_show(raw)}")
    hints = _hints(kind)
    known = {f.name: f for f in fields(kind)}
    for name in raw:
        if name not in known:
            raise near_miss(f"field of {where}", name, known)
    for name, entry in known.items():
        if name not in raw and "since" not in entry.metadata:
            raise InputError(f"{where} lacks the field {name!r}")
    return kind(**{n: _convert(hints[n], raw[n], f"{where}.{n}") for n in raw})


@cache
def _hints(kind: type) -> dict[str, Any]:
    # Resolving them takes longer than all else that is done for a row of a journal.
    return get_type_hints(kind)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Turn a JSON value into what the type hint says, refusing every other type."""
    if type(value) is hint:  # Most are, and a journal has millions.
        return value
    if isinstance(hint, UnionType):
        if value is None:
            return None
        hint = next(a for a in get_args(hint) if a is not type(None))
    if hint is Any:
        return value
    if hasattr(hint, "__dataclass_fields__"):
        return build_record(hint, value, where)
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is Literal:
        if value not in inner:
            raise InputError(f"{where} must be one of {inner}, got {_show(value)}")
        return value
    if kind is tuple:
        if not isinstance(value, list):
            raise InputError(f"{where} must be a list, got {_show(value)}")
        if inner[-1] is not Ellipsis and len(value) != len(inner):
            raise InputError(
                f"{where} must have {len(inner)} values, got {_show(value)}"
            )
        return tuple(_convert(inner[0], v, where) for v in value)
    if kind is float and type(value) is int:
        return float(value)
    # A bool is an int to Python, but true is not a number of epochs.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{where} must be {kind.__name__}, got {_show(value)}")
    if kind is dict:
        return {k: _convert(inner[1], v, f"{where}.{k}") for k, v in value.items()}
    return value


def _is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _check_positive(name: str, value: Any) -> None:
    if not _is_number(value) or value <= 0:
        raise InputError(f"{name} must be > 0 and finite, got {_show(value)}")


def _check_finite(name: str, value: Any) -> None:
    """Raise `InputError` for NaN or infinity, however deep."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name} must be finite, got {value}")
    inner = value.items() if isinstance(value, dict) else ()
    for key, held in [*inner, *(enumerate(value) if isinstance(value, list) else ())]:
        _check_finite(f"{name}.{key}", held)


def _show(value: Any) -> str:
    """A value for a message; of a long one the beginning."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _plain(args: dict[str, Any], what: str) -> dict[str, Any]:
    """The arguments as JSON gives them back, so that the round trip is exact."""
    try:
        return json.loads(json.dumps(args))
    except TypeError as error:
        raise InputError(
            f"{what} must be numbers, text, lists or None to be stored: {error}"
        ) from error
