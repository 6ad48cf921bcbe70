"""How good a segmentation is likely to be, without a reference to compare with."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy

from nobrainer.appearance import FACES, GROUPS, Appearance, distances
from nobrainer.errors import InputError
from nobrainer.glossary import OF_SCANS, Metric
from nobrainer.posthoc import QualityModel
from nobrainer.recipe import Cohort, TrainingAppearance
from nobrainer.structures import Structure, is_single_draw, mean_by_volume

MAX_VOLUME_Z = 20.0
"""Standard deviations beyond which a volume's distance is not told apart."""
UNUSUAL_VOLUME_Z = 4.0
"""Standard deviations from the training cohort up to which no volume is flagged."""

_LOG_SD_FLOOR = 0.05
_FEWEST_SUBJECTS = 3
_FEWEST_FOR_OUTLIERS = 10
_OUTLIER = 3.5
_RIDGE = 1.0


@dataclass(frozen=True)
class _Feature:
    """How a figure of one segmentation is judged.

    metric: its entry in the glossary.
    slack: the least distance from ordinary scans that is worth a look. Those of one
        study can be so much alike that any other scan is far away in their spread.
    transform: makes its scale even; the model and the search for outliers use it.
    """

    metric: Metric
    slack: float
    transform: Callable[[float], float]

    @property
    def worse(self) -> int:
        """1 where larger values are worse, -1 where smaller ones are."""
        return -self.metric.sign


def _arcsine(share: float) -> float:
    return math.asin(math.sqrt(min(max(share, 0.0), 1.0)))


def _root(value: float) -> float:
    # An entropy of 0 can come out a rounding error below it.
    return math.sqrt(max(value, 0.0))


FEATURES = {
    name: _Feature(OF_SCANS[name], slack, transform)
    for name, slack, transform in (
        ("pairwise_dice", 0.05, _arcsine),
        ("pairwise_dice_min", 0.1, _arcsine),
        ("entropy", 0.05, _root),
        ("mutual_information", 0.02, _root),
        ("cv", 0.05, _root),
        ("volume_z", 1.0, math.log1p),
        ("absent", 0.0, math.log1p),
        ("input_distance", 1.0, math.log1p),
        ("cut", 0.2, _arcsine),
        ("islands", 0.05, _arcsine),
    )
}
"""What `features` computes, by name."""

_OF_DRAWS = ("pairwise_dice", "pairwise_dice_min", "mutual_information", "cv")


@dataclass(frozen=True)
class Example:
    """A segmentation of a labelled scan, from which the quality model learns.

    subject: whose scan it is; one subject can give several examples.
    features: of the segmentation, see `features`.
    dice: mean over structures against the labels, in [0, 1].
    shifted: the scan was degraded on purpose, see `nobrainer.data.shifts`.
    """

    subject: str
    features: Mapping[str, float]
    dice: float
    shifted: bool


@dataclass(frozen=True)
class Case:
    """What can be said of one segmentation without a reference.

    score: in [0, 1], larger is better: the predicted Dice where a model was fitted,
        else the mean pairwise Dice of the draws, else (one draw) 1 - entropy / ln C.
    predicted_dice: NaN without a fitted model.
    flags: reasons to look at it, as sentences; empty for an ordinary case.
    checked: what was compared with limits; what was not checked can be wrong unseen.
    unchecked: what this model has no record of, so that it could not be checked.
    """

    name: str
    score: float
    predicted_dice: float
    features: Mapping[str, float]
    flags: tuple[str, ...]
    checked: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()

    @property
    def meaning(self) -> str:
        """What the score is, in words."""
        if math.isfinite(self.predicted_dice):
            return "predicted Dice"
        if "pairwise_dice" in self.features:
            return "agreement of the draws (not a predicted Dice)"
        return "certainty of one pass (not a predicted Dice)"


def features(
    structures: Sequence[Structure],
    cohort: Cohort | None,
    scan: Appearance | None = None,
) -> dict[str, float]:
    """Figures of one segmentation that go with its quality; always finite.

    Args:
        structures: the structures of one scan, see `nobrainer.structures`.
        cohort: sizes of the classes in the training subjects, and what their scans
            look like; without it `volume_z` and `absent` are 0, as are `cut` and
            `input_distance` without its `appearance`.
        scan: what the scan looks like; `cut`, `input_distance` and `islands` are 0
            where it was not measured.

    Returns:
        The entries of `FEATURES`, without those of draws where there was only one.
        Where nothing was segmented those of structures have their worst values: a
        Dice of 0, ln C nats, a coefficient of variation of 1 and a `volume_z` of 20
        (0 without a cohort).

    Sources: Roy et al., NeuroImage 195 (2019) 11, for agreement of draws and
    coefficient of variation; Valindria et al., IEEE TMI 36 (2017) 1597, for the
    accuracy of single cases without a reference.
    """
    present = [one for one in structures if one.volume_mm3 > 0]
    found = {
        "entropy": mean_by_volume(structures, "entropy"),
        "volume_z": 0.0,
        "absent": 0.0,
        "input_distance": 0.0,
        "cut": 0.0,
        "islands": 0.0 if scan is None else scan.islands,
    }
    training = _appearance(cohort)
    if scan is not None and training is not None:
        found["input_distance"] = max(distances(scan, training).values())
        found["cut"] = max(*_cut_beyond(scan, training), 0.0)
    if cohort is not None:
        gaps = [abs(z) for z in deviations(structures, cohort).values()]
        missing = _missing(structures, cohort)
        # With none of the cohort's structures there, no distance says how far.
        farthest = max(gaps, default=MAX_VOLUME_Z if missing else 0.0)
        found["volume_z"] = min(farthest, MAX_VOLUME_Z)
        found["absent"] = float(len(missing))
    if not is_single_draw(structures):
        overlaps = [one.pairwise_dice for one in present]
        variations = [min(one.cv, 1.0) for one in present]
        found |= {
            "pairwise_dice": float(np.mean(overlaps)) if present else 0.0,
            "pairwise_dice_min": min(overlaps, default=0.0),
            "mutual_information": mean_by_volume(structures, "mutual_information"),
            "cv": float(np.mean(variations)) if present else 1.0,
        }
    return {name: found[name] for name in FEATURES if name in found}


def deviations(structures: Sequence[Structure], cohort: Cohort) -> dict[str, float]:
    """How far volumes lie from those of the training subjects.

    Args:
        structures: the structures of one scan.
        cohort: of as many classes.

    Returns:
        For each structure that is in both, by name: (ln volume - mean) / sd of the
        cohort's ln volumes. The sd is at least 0.05, 5 % of the volume, because that
        of a few subjects can be small by chance.
    """
    found = {}
    for one in structures:
        mean, sd = cohort.log_mean[one.index], cohort.log_sd[one.index]
        if one.volume_mm3 > 0 and mean is not None and sd is not None:
            gap = math.log(one.volume_mm3) - mean
            found[one.name] = gap / max(sd, _LOG_SD_FLOOR)
    return found


def fit_quality(examples: Sequence[Example], n_draws: int) -> QualityModel:
    """Learn to predict the Dice of a segmentation from its features.

    Ridge regression of arcsin √Dice on transformed, standardised features, with the
    constraint that a feature that turns worse never raises the prediction: so it
    stays sensible on scans unlike any that it was fitted on.

    Args:
        examples: of at least three subjects, some of them not shifted. Degraded scans
            must be among them, or Dice hardly varies.
        n_draws: of the prediction that each example comes from.

    Returns:
        The model; `error` is the mean absolute error of predictions for each subject
        by a model fitted without that subject, `low` and `high` are the 1st and 99th
        percentile over examples that are not shifted, wider by a standard deviation
        or by 0.05 (pairwise Dice, entropy in nats, coefficient of variation), 0.1
        (lowest pairwise Dice), 0.02 nats (mutual information) and 1 (`volume_z`)
        where that is more.

    Raises:
        InputError: fewer than three subjects, no example that is not shifted, or
            some with one draw and others with several.

    Source: Hoerl and Kennard, Technometrics 12 (1970) 55, for ridge regression.
    """
    subjects = np.array([example.subject for example in examples])
    names = check_enough(subjects.tolist())
    usual = np.array([not example.shifted for example in examples])
    if not usual.any():
        raise InputError(
            "examples must hold scans that are not shifted, got none: add them"
        )
    columns = tuple(examples[0].features)
    if any(tuple(example.features) != columns for example in examples):
        raise InputError(
            "examples must have the same features, got others: predict all with the "
            "same number of draws"
        )
    inputs = np.array([_inputs(example.features, columns) for example in examples])
    dice = np.array([example.dice for example in examples])
    predicted = np.empty(len(examples))
    for name in names:
        left_out = subjects == name
        centre, scale, coefficients, intercept = _regress(
            inputs[~left_out], dice[~left_out], columns
        )
        standard = (inputs[left_out] - centre) / scale
        predicted[left_out] = _to_dice(standard @ coefficients + intercept)
    centre, scale, coefficients, intercept = _regress(inputs, dice, columns)
    values = np.array([list(example.features.values()) for example in examples])[usual]
    low, high = np.percentile(values, (1, 99), axis=0)
    slack = [FEATURES[name].slack for name in columns]
    margin = np.maximum(values.std(0), slack)
    return QualityModel(
        features=columns,
        centre=tuple(centre.tolist()),
        scale=tuple(scale.tolist()),
        coefficients=tuple(coefficients.tolist()),
        intercept=intercept,
        low=tuple((low - margin).tolist()),
        high=tuple((high + margin).tolist()),
        n_subjects=len(names),
        n_cases=len(examples),
        n_draws=n_draws,
        error=float(np.abs(predicted - dice).mean()),
        n_scans=int(usual.sum()),
    )


def check_enough(subjects: Sequence[str]) -> tuple[str, ...]:
    """The different subjects; `InputError` where they are too few to fit a model."""
    names = tuple(dict.fromkeys(subjects))
    if len(names) < _FEWEST_SUBJECTS:
        raise InputError(
            f"labelled subjects must be at least {_FEWEST_SUBJECTS} to fit a quality "
            f"model, got {len(names)}: give more"
        )
    return names


def predicted_dice(model: QualityModel, features: Mapping[str, float]) -> float:
    """The mean Dice that a segmentation with these features is likely to have.

    Args:
        model: what `fit_quality` returns.
        features: what the function `features` returns.

    Returns:
        In [0, 1].

    Raises:
        InputError: the features lack some that the model needs.
    """
    _check_features(model, features)
    inputs = _inputs(features, model.features)
    standard = (inputs - np.array(model.centre)) / np.array(model.scale)
    return float(_to_dice(standard @ np.array(model.coefficients) + model.intercept))


def flags(
    structures: Sequence[Structure],
    cohort: Cohort | None,
    model: QualityModel | None,
    *,
    threshold: float = 0.8,
    scan: Appearance | None = None,
) -> tuple[str, ...]:
    """Reasons to look at a segmentation.

    Args:
        structures: the structures of one scan.
        cohort: sizes of the classes in the training subjects, and what their scans
            look like.
        model: gives the predicted Dice and the limits of ordinary scans. Without it
            a low score of another kind (see `Case`) and what `unlike_training` finds
            are reasons.
        threshold: a score below it is a reason, in [0, 1].
        scan: what the scan looks like, if that was measured.

    Returns:
        A sentence for each reason: a low score; draws that agree poorly and
        entropy beyond the model's limits; and those of `unlike_training`.

    Raises:
        InputError: the threshold is not in [0, 1], or see `predicted_dice`.
    """
    if not 0 <= threshold <= 1:
        raise InputError(
            f"threshold must be between 0 and 1, got {threshold!r}: it is a Dice"
        )
    unlike = unlike_training(structures, cohort, scan, model)
    if not any(one.volume_mm3 > 0 for one in structures):
        return unlike
    found = features(structures, cohort, scan)
    reasons = []
    name, score = _score(found, model, len(structures) + 1)
    if score < threshold:
        reasons.append(f"{name} {score:.2f} is below {threshold:.2f}")
    beyond = {
        name: limit
        for name, limit in _limits(model).items()
        if (found[name] - limit) * FEATURES[name].worse > 0
    }
    # One sentence on the draws: their other features tell the same story.
    if "pairwise_dice" in beyond:
        reasons.append(
            f"draws agree poorly (pairwise Dice {found['pairwise_dice']:.2f}, on "
            f"held-out scans {beyond['pairwise_dice']:.2f} or more)"
        )
    elif "pairwise_dice_min" in beyond:
        worst = min(
            (one for one in structures if one.volume_mm3 > 0),
            key=lambda one: one.pairwise_dice,
        )
        reasons.append(
            f"draws agree poorly on {worst.name} (pairwise Dice "
            f"{worst.pairwise_dice:.2f}, on held-out scans the lowest is "
            f"{beyond['pairwise_dice_min']:.2f} or more)"
        )
    if "entropy" in beyond:
        reasons.append(
            f"mean entropy is {found['entropy']:.3f}, on held-out scans "
            f"{beyond['entropy']:.3f} or less"
        )
    return (*reasons, *unlike)


def unlike_training(
    structures: Sequence[Structure],
    cohort: Cohort | None,
    scan: Appearance | None,
    model: QualityModel | None = None,
) -> tuple[str, ...]:
    """How a scan and its segmentation are unlike what the model was trained on.

    Args:
        structures: the structures of one scan.
        cohort: sizes of the classes in the training subjects, and what their scans
            look like. What it lacks is not compared.
        scan: what the scan looks like, if that was measured.
        model: limits of held-out scans, where these lie further out.

    Returns:
        A sentence each for: a scan whose statistics lie beyond the limit of training
        scans; structures cut off at an end of the field of view, by an area more than
        20 % of their largest beyond that of training scans; more than 5 % of the
        foreground, beyond that of training scans, apart from its largest component; a
        volume more than 4 standard deviations from the cohort's; missing structures.
        Where nothing was segmented, that instead of all but the first.
    """
    limits, training = _limits(model), _appearance(cohort)
    reasons = []
    if scan is not None and training is not None:
        usual = max(limits.get("input_distance", 0.0), training.limit)
        away = [
            f"{GROUPS[group]} ({value:.1f} SD)"
            for group, value in distances(scan, training).items()
            if value > usual
        ]
        if away:
            reasons.append(
                f"the scan is unlike the training scans in {', '.join(away)}: usual is "
                f"{usual:.1f} SD or less"
            )
    if not any(one.volume_mm3 > 0 for one in structures):
        return ("nothing was segmented", *reasons)
    if scan is not None and training is not None:
        beyond = _cut_beyond(scan, training)
        face = int(np.argmax(beyond))
        if beyond[face] > max(limits.get("cut", 0.0), FEATURES["cut"].slack):
            reasons.append(
                f"what was segmented is cut off at its {FACES[face]} end: its area "
                f"there is {scan.cut[face]:.0%} of its largest (in training scans "
                f"{training.cut[face]:.0%} or less)"
            )
        most = training.islands + FEATURES["islands"].slack
        if scan.islands > max(limits.get("islands", 0.0), most):
            reasons.append(
                f"{scan.islands:.0%} of what was segmented is apart from its largest "
                f"piece (in training scans {training.islands:.0%} or less)"
            )
    if cohort is not None:
        unusual = max(limits.get("volume_z", 0.0), UNUSUAL_VOLUME_Z)
        far = {
            name: z
            for name, z in deviations(structures, cohort).items()
            if abs(z) > unusual
        }
        if far:
            reasons.append(_of_volumes(far))
        missing = _missing(structures, cohort)
        if missing and len(missing) > limits.get("absent", 0.0):
            reasons.append(f"missing: {_listed(missing)}")
    return tuple(reasons)


def assess(
    name: str,
    structures: Sequence[Structure],
    cohort: Cohort | None,
    model: QualityModel | None,
    *,
    threshold: float = 0.8,
    scan: Appearance | None = None,
) -> Case:
    """Score one segmentation; see `Case`, `features` and `flags`."""
    found = features(structures, cohort, scan)
    reasons = flags(structures, cohort, model, threshold=threshold, scan=scan)
    _, score = _score(found, model, len(structures) + 1)
    dice = math.nan if model is None else score
    case = Case(name, score, dice, found, reasons)
    has_volumes = cohort is not None and any(
        mean is not None for mean in cohort.log_mean[1:]
    )
    has_looks = scan is not None and _appearance(cohort) is not None
    checks = {
        f"the {case.meaning}": True,
        "draws and entropy against held-out scans": model is not None,
        "volumes and missing structures against training subjects": has_volumes,
        "intensities, sharpness and positions against training scans": has_looks,
        "cut structures and islands against training scans": has_looks,
    }
    return replace(
        case,
        checked=tuple(what for what, is_known in checks.items() if is_known),
        unchecked=tuple(what for what, is_known in checks.items() if not is_known),
    )


def _score(
    found: Mapping[str, float], model: QualityModel | None, n_classes: int
) -> tuple[str, float]:
    """What is known best of the quality of a segmentation: its name and value."""
    if model is not None:
        return "predicted Dice", predicted_dice(model, found)
    if "pairwise_dice" in found:
        return "mean pairwise Dice of the draws", found["pairwise_dice"]
    certainty = max(1 - found["entropy"] / math.log(n_classes), 0.0)
    return "certainty (1 - entropy / ln C)", certainty


def _limits(model: QualityModel | None) -> dict[str, float]:
    """How far a feature of an ordinary scan goes at its worse end, as far as known."""
    if model is None:
        return {}
    return {
        name: low if FEATURES[name].worse < 0 else high
        for name, low, high in zip(model.features, model.low, model.high, strict=True)
    }


def _appearance(cohort: Cohort | None) -> TrainingAppearance | None:
    return None if cohort is None else cohort.appearance


def _cut_beyond(scan: Appearance, training: TrainingAppearance) -> list[float]:
    """At each end of the field of view, what is cut beyond that of training scans."""
    return [own - usual for own, usual in zip(scan.cut, training.cut, strict=True)]


def cohort_outliers(cases: Sequence[Mapping[str, float]]) -> list[tuple[str, ...]]:
    """Which cases of one run are unlike the rest; needs no fitted model.

    A feature counts when it is worse than the median by more than its slack and, on
    its transformed scale, by more than 3.5 · 1.4826 · MAD. Of the features about
    draws only the one farthest beyond its limit counts, as the others say the same.

    Args:
        cases: features of each case, with the same names.

    Returns:
        Sentences for each case; none for all where there are fewer than 10 cases.

    Source: Iglewicz and Hoaglin, "How to detect and handle outliers", 1993.
    """
    if len(cases) < _FEWEST_FOR_OUTLIERS:
        return [() for _ in cases]
    # Of each case: how far beyond its limit a feature is, and what to say of it.
    beyond: list[dict[str, tuple[float, str]]] = [{} for _ in cases]
    for name in cases[0]:
        feature = FEATURES[name]
        values = np.array([feature.transform(case[name]) for case in cases])
        gap = (values - np.median(values)) * feature.worse
        usual = float(np.median([case[name] for case in cases]))
        # Where most cases are alike, next to nothing must not make outliers of the
        # rest.
        least = feature.transform(usual + feature.worse * feature.slack)
        limit = max(
            _OUTLIER * 1.4826 * float(np.median(np.abs(gap))),
            abs(least - feature.transform(usual)),
            1e-6,
        )
        for number in np.flatnonzero(gap > limit).tolist():
            beyond[number][name] = (
                float(gap[number]) / limit,
                f"{feature.metric.name} is {cases[number][name]:.3g}, the median of "
                f"this run {usual:.3g}",
            )
    for found in beyond:
        of_draws = sorted(
            (name for name in _OF_DRAWS if name in found),
            key=lambda name: found[name][0],
        )
        for name in of_draws[:-1]:
            del found[name]
    return [tuple(words for _, words in found.values()) for found in beyond]


def to_tsv(cases: Sequence[Case]) -> str:
    """Cases as a tab-separated table, in the order given.

    Args:
        cases: with any features.

    Returns:
        A row per case: `subject`, `flagged` (true or false), `score`, `score_is` (see
        `Case.meaning`), `predicted_dice`, the features that any case has, and
        `reasons`, separated by semicolons; "n/a" for what is not there.
    """
    names = [name for name in FEATURES if any(name in case.features for case in cases)]
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(
        [
            *("subject", "flagged", "score", "score_is", "predicted_dice"),
            *(*names, "reasons"),
        ]
    )
    for case in cases:
        numbers = [case.predicted_dice]
        numbers += [case.features.get(name, math.nan) for name in names]
        writer.writerow(
            [
                case.name,
                "true" if case.flags else "false",
                f"{case.score:.6g}",
                case.meaning,
                *("n/a" if math.isnan(value) else f"{value:.6g}" for value in numbers),
                "; ".join(case.flags) or "n/a",
            ]
        )
    return text.getvalue()


def sidecar() -> dict[str, dict[str, str]]:
    """What the columns of `to_tsv` mean: BIDS JSON, Description and Units of each."""
    columns = {
        "subject": ("The scan.", "n/a"),
        "flagged": ("Whether there are reasons to look at the segmentation.", "n/a"),
        "score": (
            "From 0 to 1: the predicted Dice where the model was fitted for it; else "
            "the mean pairwise Dice of the draws, which says how far these agree and "
            "not how right they are; else (one draw) 1 minus the mean entropy in the "
            "foreground over its maximum.",
            "1",
        ),
        "score_is": ("What the score is.", "n/a"),
        "predicted_dice": ("Mean Dice against a reference, as predicted.", "1"),
    }
    reasons = ("Why the segmentation should be looked at.", "n/a")
    return {
        **{column: _column(*about) for column, about in columns.items()},
        **{name: one.metric.describe_column() for name, one in FEATURES.items()},
        "reasons": _column(*reasons),
    }


def _column(description: str, unit: str) -> dict[str, str]:
    return {"Description": description, "Units": unit}


def _missing(structures: Sequence[Structure], cohort: Cohort) -> list[str]:
    """Names of structures that training subjects have and this scan has not."""
    return [
        one.name
        for one in structures
        if one.volume_mm3 == 0 and cohort.log_mean[one.index] is not None
    ]


def _inputs(features: Mapping[str, float], names: Sequence[str]) -> np.ndarray:
    return np.array([FEATURES[name].transform(features[name]) for name in names])


def _regress(
    inputs: np.ndarray, dice: np.ndarray, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Centre, scale, coefficients and intercept of arcsin √Dice on the inputs."""
    centre, spread = inputs.mean(0), inputs.std(0)
    # Rounding gives a constant feature a spread just above 0.
    scale = np.where(spread > 1e-9, spread, 1.0)
    worse = np.array([FEATURES[name].worse for name in names])
    better = -(inputs - centre) / scale * worse
    target = np.arcsin(np.sqrt(dice))
    intercept = float(target.mean())
    penalty = math.sqrt(_RIDGE) * np.eye(len(names))
    rows = np.concatenate([better, penalty])
    gains, _ = scipy.optimize.nnls(
        rows, np.append(target - intercept, np.zeros(len(names)))
    )
    return centre, scale, -gains * worse, intercept


def _to_dice(arcsine: np.ndarray) -> np.ndarray:
    return np.sin(np.clip(arcsine, 0, math.pi / 2)) ** 2


def _check_features(model: QualityModel, features: Mapping[str, float]) -> None:
    lacking = [name for name in model.features if name not in features]
    if set(lacking) & set(_OF_DRAWS):
        raise InputError(
            "draws must be at least 2 for this quality model, got 1: give n_samples"
        )
    if lacking:
        raise InputError(
            f"features must hold {', '.join(lacking)}: fit the model again"
        )


def _of_volumes(far: Mapping[str, float]) -> str:
    """The sentence about volumes unlike the cohort's, which names the worst one."""
    name = max(far, key=lambda name: abs(far[name]))
    side = "above" if far[name] > 0 else "below"
    others = f" (and {len(far) - 1} more)" if len(far) > 1 else ""
    return (
        f"volume of {name} is {abs(far[name]):.1f} SD {side} the training cohort's"
        f"{others}"
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
