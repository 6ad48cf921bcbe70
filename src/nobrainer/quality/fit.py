"""The quality model: how it is fitted, and the Dice that it predicts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from nobrainer.errors import InputError
from nobrainer.posthoc import USUAL_THRESHOLD, QualityModel
from nobrainer.quality.feature import FEATURES, OF_DRAWS

_FEWEST_SUBJECTS = 3
_RIDGE = 3.0
_EXPECTED = "expected_dice"
_ERRORS_BELOW = 3
"""How many mean errors of the prediction a score must lie below that of undamaged scans
to be a reason to look: less would flag ordinary scans of a model whose Dice is low."""


@dataclass(frozen=True)
class Example:
    """A segmentation of a labelled scan, from which the quality model learns.

    subject: whom the scan shows; one subject can give several examples.
    features: what `nobrainer.quality.features` returned for the segmentation.
    dice: Dice against the labels, mean over structures, in [0, 1].
    shifted: whether the scan was degraded on purpose, see `nobrainer.data.shifts`.
    whole_dice: Dice of all structures as one, such as the brain; NaN where it was not
        measured.
    """

    subject: str
    features: Mapping[str, float]
    dice: float
    shifted: bool
    whole_dice: float = math.nan


def fit_quality(examples: Sequence[Example], n_draws: int) -> QualityModel:
    """Learn to predict the Dice of a segmentation from its features.

    This is a ridge regression of arcsin √Dice on transformed, standardised features. It
    begins at the Dice that the probabilities let expect, plus a constant, and the few
    examples say how far the other features change it. A feature that turns worse may
    never raise the prediction, so that it stays sensible on scans unlike any that the
    model was fitted on.

    Args:
        examples: examples of at least three subjects. Some of the scans must not be
            shifted; others should be, because Dice hardly varies among good scans.
        n_draws: number of draws of the prediction that each example comes from.

    Returns:
        The model. Its `error` is the mean absolute error of predictions for each
        subject by a model fitted without that subject. Its `low` and `high` are the 1st
        and 99th percentile over the examples that are not shifted, widened by a
        standard deviation or by the feature's `slack` (see `FEATURES`), whichever is
        more. Its `threshold` lies three times `error` below the mean Dice of these
        examples, at 0.8 at most.

    Raises:
        InputError: there are fewer than three subjects, every example is shifted, or
            some come from one draw and others from several.

    Source: Hoerl and Kennard, Technometrics 12 (1970) 55, for ridge regression.
    """
    subjects = np.array([example.subject for example in examples])
    names = check_enough(subjects.tolist())
    usual = np.array([not example.shifted for example in examples])
    columns = _shared_features(examples)
    inputs = np.array([_inputs(example.features, columns) for example in examples])
    dice = np.array([example.dice for example in examples])
    predicted = np.empty(len(examples))
    for name in names:
        left_out = subjects == name
        others = _Line.fit(inputs[~left_out], dice[~left_out], columns)
        predicted[left_out] = others.predict(inputs[left_out])
    line = _Line.fit(inputs, dice, columns)
    values = np.array([list(example.features.values()) for example in examples])[usual]
    low, high = np.percentile(values, (1, 99), axis=0)
    slack = [FEATURES[name].slack for name in columns]
    margin = np.maximum(values.std(0), slack)
    error = float(np.abs(predicted - dice).mean())
    threshold = float(dice[usual].mean()) - _ERRORS_BELOW * error
    return QualityModel(
        features=columns,
        centre=tuple(line.centre.tolist()),
        scale=tuple(line.scale.tolist()),
        coefficients=tuple(line.coefficients.tolist()),
        intercept=line.intercept,
        low=tuple((low - margin).tolist()),
        high=tuple((high + margin).tolist()),
        n_subjects=len(names),
        n_cases=len(examples),
        n_draws=n_draws,
        error=error,
        n_scans=int(usual.sum()),
        threshold=min(max(threshold, 0.0), USUAL_THRESHOLD),
    )


def check_enough(subjects: Sequence[str]) -> tuple[str, ...]:
    """Check that there are enough subjects to fit a quality model.

    Args:
        subjects: the subject of each scan or example; a name may come several times.

    Returns:
        The different subjects, in the order of their first scan.

    Raises:
        InputError: there are fewer than three different subjects.
    """
    names = tuple(dict.fromkeys(subjects))
    if len(names) < _FEWEST_SUBJECTS:
        raise InputError(
            f"labelled subjects must be at least {_FEWEST_SUBJECTS} to fit a quality "
            f"model, got {len(names)}: give more"
        )
    return names


def predicted_dice(model: QualityModel, features: Mapping[str, float]) -> float:
    """Predict the mean Dice that a segmentation with these features has.

    Args:
        model: what `fit_quality` returned.
        features: what `nobrainer.quality.features` returned for the segmentation.

    Returns:
        The Dice, in [0, 1].

    Raises:
        InputError: the features lack some that the model needs.
    """
    lacking = [name for name in model.features if name not in features]
    if set(lacking) & set(OF_DRAWS):
        raise InputError(
            "draws must be at least 2 for this quality model, got 1: give n_samples"
        )
    if lacking:
        raise InputError(
            f"features must hold {', '.join(lacking)}: fit the model again"
        )
    line = _Line(
        np.array(model.centre),
        np.array(model.scale),
        np.array(model.coefficients),
        model.intercept,
    )
    return float(line.predict(_inputs(features, model.features)))


@dataclass(frozen=True)
class _Line:
    """A linear model of arcsin √Dice; see `QualityModel` for its fields."""

    centre: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray
    intercept: float

    @classmethod
    def fit(cls, inputs: np.ndarray, dice: np.ndarray, names: Sequence[str]) -> "_Line":
        """Fit it to inputs (examples, features), with a sign for each coefficient."""
        centre, spread = inputs.mean(0), inputs.std(0)
        # Rounding gives a constant feature a spread just above 0.
        scale = np.where(spread > 1e-9, spread, 1.0)
        worse = np.array([FEATURES[name].worse for name in names])
        standard = (inputs - centre) / scale
        better = -standard * worse
        # The same transform makes a step of the expected Dice one of the Dice.
        first = scale * [name == _EXPECTED for name in names]
        dices = np.arcsin(np.sqrt(dice))
        intercept = float(dices.mean())
        target = dices - standard @ first
        penalty = math.sqrt(_RIDGE) * np.eye(len(names))
        rows = np.concatenate([better, penalty])
        gains, _ = scipy.optimize.nnls(
            rows, np.append(target - intercept, np.zeros(len(names)))
        )
        return cls(centre, scale, first - gains * worse, intercept)

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Dice of inputs (..., features), in [0, 1]."""
        standard = (inputs - self.centre) / self.scale
        arcsine = standard @ self.coefficients + self.intercept
        return np.sin(np.clip(arcsine, 0, math.pi / 2)) ** 2


def _shared_features(examples: Sequence[Example]) -> tuple[str, ...]:
    """Names of the features that all examples have."""
    if all(example.shifted for example in examples):
        raise InputError(
            "examples must hold scans that are not shifted, got none: add them"
        )
    names = tuple(examples[0].features)
    if any(tuple(example.features) != names for example in examples):
        raise InputError(
            "examples must have the same features, got others: predict all with the "
            "same number of draws"
        )
    return names


def _inputs(features: Mapping[str, float], names: Sequence[str]) -> np.ndarray:
    """Transformed features, as the model takes them."""
    return np.array([FEATURES[name].transform(features[name]) for name in names])
