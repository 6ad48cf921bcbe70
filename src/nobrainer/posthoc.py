"""What is fitted on held-out scans after training: frozen records, JSON round trip.

A record is kept beside the weights and read back before prediction, so its rules
are checked whenever one is made, also from a file that somebody edited.
"""

import json
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from nobrainer.errors import InputError
from nobrainer.json_records import build_record, parse_json, since
from nobrainer.naming import count_scans

USUAL_THRESHOLD = 0.8
"""Score below which a scan is flagged where nothing else was fitted or is given."""

SPREAD_FLOOR = 0.01
"""Share of a volume's mean that its spread never falls below, see `volume_spread`."""


def volume_spread(mean_mm3: ArrayLike, sd_mm3: ArrayLike) -> np.ndarray:
    """The unit in which intervals of volumes are measured: √(sd² + (0.01 · mean)²).

    The floor keeps a structure on which all draws agree from getting a width of 0.

    Args:
        mean_mm3: mean over draws of a structure's volume.
        sd_mm3: standard deviation over draws; NaN (one draw) counts as 0.

    Returns:
        Spread in mm³, of the arguments' shape.
    """
    return np.hypot(np.nan_to_num(sd_mm3), SPREAD_FLOOR * np.asarray(mean_mm3))


DEFAULT_DRAWS = 10
"""Number of draws for a scan where nothing was fitted that needs another number."""


@dataclass(frozen=True)
class Intervals:
    """Intervals of volumes, mean ± factor · `volume_spread`, that hold the truth.

    coverage: share of subjects, in (0, 1), whose true volume lies inside.
    n_subjects: number of subjects that the factors come from.
    n_draws: number of draws of each prediction that the factors come from. They hold
        for predictions of as many draws, since the spread depends on their number.
    factors: factor of each class, >= 0; None where too few subjects have the class.
    totals: the same for wholes of several classes, such as the brain, by name.
    n_scans: number of scans that the factors come from; None where it was not counted.
    n_images: number of these scans that are images made of label maps.
    """

    coverage: float
    n_subjects: int
    n_draws: int
    factors: tuple[float | None, ...]
    totals: dict[str, float | None] = field(default_factory=dict, metadata=since(4))
    n_scans: int | None = field(default=None, metadata=since(4))
    n_images: int = field(default=0, metadata=since(4))

    @property
    def counted(self) -> str:
        """How many scans of how many people the factors come from, in words."""
        return _count(self.n_scans, self.n_subjects, self.n_images)

    def __post_init__(self) -> None:
        _check(0 < self.coverage < 1, "intervals.coverage in (0, 1)", self.coverage)
        _check(self.n_subjects > 0, "intervals.n_subjects positive", self.n_subjects)
        _check(self.n_draws > 0, "intervals.n_draws positive", self.n_draws)
        factors = (*self.factors, *self.totals.values())
        known = [factor for factor in factors if factor is not None]
        _check(
            all(isfinite(factor) and factor >= 0 for factor in known),
            "intervals.factors finite and not negative, or null",
            factors,
        )

    def to_json(self) -> str:
        """The record as indented JSON text; `from_json` gives back an equal one."""
        return _write(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote; `InputError` names the field that is wrong."""
        return _read(cls, text, "intervals")


@dataclass(frozen=True)
class Calibration:
    """How logits are scaled before each draw's softmax: weight · logit + bias.

    method: "temperature" (one weight for all classes, no bias) or "vector".
    weight: factor of each class's logit, positive.
    bias: what is added to each class's logit.
    n_subjects: number of people on whose scans the scaling was fitted.
    nll_before, nll_after: negative log-likelihood, in nats, without and with the
        scaling, on the voxels near the foreground that it was fitted on.
    intervals: intervals of the volumes that draws with this scaling give; None where
        none were fitted.
    n_scans: number of scans that the scaling was fitted on; None where `n_subjects`
        counted scans.
    checksums: SHA-256 of the files of all scans of the calibration, sorted; scans in
        memory have none.
    n_images: number of the scans that are images made of label maps.
    intensity_weight: weight of the scan's own intensities beside the network, in
        [0, 1], which all else was fitted with; see `nobrainer.inference.intensities`.
    out_of_fold: whether the model learned from these scans, and each was predicted by
        the one member of its ensemble that did not.
    """

    method: Literal["temperature", "vector"]
    weight: tuple[float, ...]
    bias: tuple[float, ...]
    n_subjects: int
    nll_before: float
    nll_after: float
    intervals: Intervals | None = None
    n_scans: int | None = field(default=None, metadata=since(4))
    checksums: tuple[str, ...] = field(default=(), metadata=since(4))
    n_images: int = field(default=0, metadata=since(4))
    intensity_weight: float = field(default=0.0, metadata=since(4))
    out_of_fold: bool = field(default=False, metadata=since(4))

    @property
    def counted(self) -> str:
        """How many scans of how many people the scaling comes from, in words."""
        if self.n_scans is None:
            return count_scans(self.n_subjects, None)
        counted = _count(self.n_scans, self.n_subjects, self.n_images)
        return f"{counted} (out of fold)" if self.out_of_fold else counted

    def __post_init__(self) -> None:
        _check(
            all(isfinite(value) and value > 0 for value in self.weight),
            "calibration.weight finite and positive",
            self.weight,
        )
        _check(
            all(isfinite(value) for value in self.bias),
            "calibration.bias finite",
            self.bias,
        )
        n_classes = len(self.weight)
        _check(
            len(self.bias) == n_classes,
            f"calibration.bias one number for each of the {n_classes} weights",
            self.bias,
        )
        _check(self.n_subjects > 0, "calibration.n_subjects positive", self.n_subjects)
        _check(
            0 <= self.intensity_weight <= 1,
            "calibration.intensity_weight in [0, 1]",
            self.intensity_weight,
        )
        for name in ("nll_before", "nll_after"):
            value = getattr(self, name)
            _check(isfinite(value) and value >= 0, f"calibration.{name} finite", value)
        if self.intervals is not None:
            _check(
                len(self.intervals.factors) == n_classes,
                f"calibration.intervals.factors one for each of {n_classes} classes",
                self.intervals.factors,
            )

    def to_json(self) -> str:
        """The record as indented JSON text; `from_json` gives back an equal one."""
        return _write(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote; `InputError` names the field that is wrong."""
        return _read(cls, text, "calibration")


@dataclass(frozen=True)
class QualityModel:
    """A linear model of the Dice that a segmentation would have, and usual features.

    features: names of the features, see `nobrainer.quality.features`. The tuples below
        have one number for each of them.
    centre, scale: mean and standard deviation of the features, after
        `nobrainer.quality` has transformed them.
    coefficients, intercept: the regression of arcsin √Dice on standardised features.
    low, high: limits that a feature of an ordinary scan seldom leaves.
    n_subjects, n_cases: number of people and of cases that the model was fitted on;
        one person can give several cases.
    n_draws: number of draws of each prediction that the model was fitted on. It holds
        for predictions of as many draws, since features depend on their number.
    error: mean absolute error of the Dice predicted for subjects that were left out of
        the fit; most of their scans were degraded on purpose.
    n_scans: number of scans that the cases were made of; None where that was not
        counted.
    checksums: SHA-256 of the files of these scans, sorted; scans in memory have none.
    n_images: number of the scans that are images made of label maps.
    threshold: score, in [0, 1], below which a scan is flagged where the user names no
        other.
    out_of_fold: as for `Calibration`.
    """

    features: tuple[str, ...]
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float
    low: tuple[float, ...]
    high: tuple[float, ...]
    n_subjects: int
    n_cases: int
    n_draws: int
    error: float
    n_scans: int | None = field(default=None, metadata=since(4))
    checksums: tuple[str, ...] = field(default=(), metadata=since(4))
    n_images: int = field(default=0, metadata=since(4))
    threshold: float = field(default=USUAL_THRESHOLD, metadata=since(4))
    out_of_fold: bool = field(default=False, metadata=since(4))

    @property
    def counted(self) -> str:
        """How many cases of how many scans and people it was fitted on, in words."""
        scans = _count(self.n_scans, self.n_subjects, self.n_images)
        counted = f"{self.n_cases} cases of {scans}"
        return f"{counted} (out of fold)" if self.out_of_fold else counted

    def __post_init__(self) -> None:
        for name in ("centre", "scale", "coefficients", "low", "high"):
            values = getattr(self, name)
            _check(
                len(values) == len(self.features)
                and all(isfinite(value) for value in values),
                f"quality.{name} one finite number for each of the "
                f"{len(self.features)} features",
                values,
            )
        _check(
            all(value > 0 for value in self.scale), "quality.scale positive", self.scale
        )
        _check(0 <= self.threshold <= 1, "quality.threshold in [0, 1]", self.threshold)
        for name in ("intercept", "error"):
            _check(
                isfinite(getattr(self, name)),
                f"quality.{name} finite",
                getattr(self, name),
            )
        for name in ("n_subjects", "n_cases", "n_draws"):
            _check(
                getattr(self, name) > 0, f"quality.{name} positive", getattr(self, name)
            )

    def to_json(self) -> str:
        """The record as indented JSON text; `from_json` gives back an equal one."""
        return _write(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote; `InputError` names the field that is wrong."""
        return _read(cls, text, "quality")


def _count(n_scans: int | None, n_subjects: int, n_images: int) -> str:
    """How many scans of how many people there are, and which of them were made."""
    counted = count_scans(n_scans, n_subjects)
    return f"{counted} ({n_images} made of label maps)" if n_images else counted


def _check(holds: bool, rule: str, got: object) -> None:
    """Raise `InputError` with "<field> must be <rule>" unless the rule holds."""
    if not holds:
        field, _, rest = rule.partition(" ")
        raise InputError(f"{field} must be {rest}, got {got!r}: fit it again")


def _write(record: Intervals | Calibration | QualityModel) -> str:
    return json.dumps(asdict(record), indent=2, sort_keys=True) + "\n"


def _read(kind: type, text: str, where: str) -> Any:
    return build_record(kind, parse_json(text, where), where)


def usual_draws(calibration: Calibration | None, quality: QualityModel | None) -> int:
    """How many draws predict a scan where nobody says: as many as were fitted with.

    With another number there would be no intervals of volumes and no quality.

    Args:
        calibration: what a model was calibrated to, if it was.
        quality: how its quality is predicted, if that was fitted.

    Returns:
        The draws of the intervals, else those of the quality model, else 10.
    """
    if calibration is not None and calibration.intervals is not None:
        return calibration.intervals.n_draws
    return DEFAULT_DRAWS if quality is None else quality.n_draws
