"""Reasons to look at a segmentation, as sentences that end in what to look at."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from nobrainer.appearance import FACES, GROUPS, Appearance, distances
from nobrainer.errors import InputError
from nobrainer.oddities import LEAST_MISFIT, Place
from nobrainer.posthoc import USUAL_THRESHOLD, QualityModel
from nobrainer.quality.feature import (
    FEATURES,
    appearance_of,
    cut_beyond,
    deviations,
    features,
    missing,
)
from nobrainer.quality.fit import predicted_dice
from nobrainer.recipe import Cohort, TrainingAppearance
from nobrainer.structures import Structure

UNUSUAL_VOLUME_Z = 4.0
"""Standard deviations from the training cohort up to which no volume is flagged."""
PIECE_SLACK = 0.0002
"""Share of the foreground by which a piece of a structure must be larger than those of
training scans to be a reason: 0.3 ml of a brain of 1.4 l."""
_MOST_PLACES = 3
"""Most pieces, and most places that look unlike their structure, that are named."""


def flags(
    structures: Sequence[Structure],
    cohort: Cohort | None,
    model: QualityModel | None,
    *,
    threshold: float | None = None,
    scan: Appearance | None = None,
) -> tuple[str, ...]:
    """Say why a segmentation should be looked at.

    Args:
        structures: the structures of one scan.
        cohort: volumes of the classes in the training scans, and what these scans look
            like.
        model: predicts the Dice and knows the limits of ordinary scans. Without it the
            reasons are a low score of another kind (see `Case`) and what
            `unlike_training` finds.
        threshold: a score below it is a reason, in [0, 1]; None takes that of
            `usual_threshold`.
        scan: what the scan looks like, if that was measured.

    Returns:
        A sentence for each reason: a low score, draws that agree poorly, an entropy
        beyond the model's limit, and those of `unlike_training`.

    Raises:
        InputError: the threshold is not in [0, 1], or the model needs features that
            this segmentation lacks.
    """
    if threshold is None:
        threshold = usual_threshold(model)
    if not 0 <= threshold <= 1:
        raise InputError(
            f"threshold must be between 0 and 1, got {threshold!r}: it is a Dice"
        )
    unlike = unlike_training(structures, cohort, scan, model)
    if not any(one.volume_mm3 > 0 for one in structures):
        return unlike
    found = features(structures, cohort, scan)
    name, score = best_score(found, model, len(structures) + 1)
    low = []
    if score < threshold:
        low = [f"{name} {score:.2f} is below {threshold:.2f}: look at all outlines"]
    return (*low, *_unsure(structures, found, model), *unlike)


def usual_threshold(model: QualityModel | None) -> float:
    """The score below which a scan is flagged where the user names no other.

    Args:
        model: the quality model, if one was fitted.
    """
    return USUAL_THRESHOLD if model is None else model.threshold


def best_score(
    features: Mapping[str, float], model: QualityModel | None, n_classes: int
) -> tuple[str, float]:
    """Score a segmentation by the best figure that is known of its quality.

    Args:
        features: features of the segmentation.
        model: the quality model, if one was fitted.
        n_classes: number of classes, background among them.

    Returns:
        The name of the score and its value in [0, 1], larger is better; see `Case`.
    """
    if model is not None:
        return "predicted Dice", predicted_dice(model, features)
    if "pairwise_dice" in features:
        return "mean pairwise Dice of the draws", features["pairwise_dice"]
    certainty = max(1 - features["entropy"] / math.log(n_classes), 0.0)
    return "certainty (1 - entropy / ln C)", certainty


def unlike_training(
    structures: Sequence[Structure],
    cohort: Cohort | None,
    scan: Appearance | None,
    model: QualityModel | None = None,
) -> tuple[str, ...]:
    """Say how a scan and its segmentation are unlike what the model was trained on.

    Args:
        structures: the structures of one scan.
        cohort: volumes of the classes in the training scans, and what these scans look
            like. What it lacks is not compared.
        scan: what the scan looks like, if that was measured.
        model: limits of held-out scans; they count where they lie further out than
            those named below.

    Returns:
        A sentence for each of these: a scan whose statistics lie beyond the limit of
        the training scans; structures cut off at an end of the field of view, by an
        area more than 20 % of their largest beyond that of training scans; more than
        5 % of the foreground, beyond that of training scans, apart from its largest
        component; a piece of a structure, apart from its largest, that is larger than
        those of training scans by more than 0.02 % of the foreground; a place that
        looks unlike the rest of its structure, by more than 3 standard deviations and
        by more than in training scans; a volume more than 4 standard deviations from
        the cohort's; missing structures. Of pieces and of places, the three that stand
        out most have a sentence each. Where nothing was segmented there is a sentence
        that says so and, of the others, only the first.
    """
    limits, training = _limits(model), appearance_of(cohort)
    reasons = []
    if scan is not None and training is not None:
        reasons += _looks_unlike(scan, training, limits)
    if not any(one.volume_mm3 > 0 for one in structures):
        nothing = "nothing was segmented: check that the model learned from such scans"
        return (nothing, *reasons)
    if scan is not None and training is not None:
        reasons += _cut_or_scattered(scan, training, limits)
        reasons += _odd_places(structures, scan, training)
    if cohort is not None:
        reasons += _unusual_volumes(structures, cohort, limits)
    return tuple(reasons)


def _limits(model: QualityModel | None) -> dict[str, float]:
    """The worst value that each feature of an ordinary scan has, as far as known."""
    if model is None:
        return {}
    return {
        name: low if FEATURES[name].worse < 0 else high
        for name, low, high in zip(model.features, model.low, model.high, strict=True)
    }


def _unsure(
    structures: Sequence[Structure],
    found: Mapping[str, float],
    model: QualityModel | None,
) -> list[str]:
    """Draws that agree poorly, and an entropy that is high, against the limits."""
    beyond = {
        name: limit
        for name, limit in _limits(model).items()
        if (found[name] - limit) * FEATURES[name].worse > 0
    }
    reasons = []
    # One sentence about the draws is enough: their other features say the same.
    if "pairwise_dice" in beyond:
        reasons.append(
            f"draws agree poorly (pairwise Dice {found['pairwise_dice']:.2f}, on "
            f"held-out scans {beyond['pairwise_dice']:.2f} or more): look where the "
            "entropy is high"
        )
    elif "pairwise_dice_min" in beyond:
        worst = min(
            (one for one in structures if one.volume_mm3 > 0),
            key=lambda one: one.pairwise_dice,
        )
        reasons.append(
            f"draws agree poorly on {worst.name} (pairwise Dice "
            f"{worst.pairwise_dice:.2f}, on held-out scans the lowest is "
            f"{beyond['pairwise_dice_min']:.2f} or more): look at its outline"
        )
    if "entropy" in beyond:
        reasons.append(
            f"mean entropy is {found['entropy']:.3f}, on held-out scans "
            f"{beyond['entropy']:.3f} or less: look where it is high"
        )
    return reasons


def _looks_unlike(
    scan: Appearance, training: TrainingAppearance, limits: Mapping[str, float]
) -> list[str]:
    """Statistics of the scan that are far from those of the training scans."""
    usual = max(limits.get("input_distance", 0.0), training.limit)
    away = [
        f"{GROUPS[group]} ({value:.1f} SD)"
        for group, value in distances(scan, training).items()
        if value > usual
    ]
    if not away:
        return []
    return [
        f"the scan is unlike the training scans in {', '.join(away)}, where usual is "
        f"{usual:.1f} SD or less: check its contrast, quality and orientation"
    ]


def _cut_or_scattered(
    scan: Appearance, training: TrainingAppearance, limits: Mapping[str, float]
) -> list[str]:
    """A foreground that ends at the field of view, or that lies in pieces."""
    reasons = []
    beyond = cut_beyond(scan, training)
    face = int(np.argmax(beyond))
    if beyond[face] > max(limits.get("cut", 0.0), FEATURES["cut"].slack):
        reasons.append(
            f"what was segmented is cut off at its {FACES[face]} end (its area there "
            f"is {scan.cut[face]:.0%} of its largest, in training scans "
            f"{training.cut[face]:.0%} or less): check the field of view, and use no "
            "volume that it cuts"
        )
    most = training.islands + FEATURES["islands"].slack
    if scan.islands > max(limits.get("islands", 0.0), most):
        reasons.append(
            f"{scan.islands:.0%} of what was segmented is apart from its largest "
            f"piece (in training scans {training.islands:.0%} or less): look at the "
            "other pieces"
        )
    return reasons


def _odd_places(
    structures: Sequence[Structure], scan: Appearance, training: TrainingAppearance
) -> list[str]:
    """Pieces apart from their structure, and places that look unlike the rest of it."""
    if not training.pieces:
        return []
    names = {one.class_number: one.name for one in structures}
    beyond = []
    for piece in scan.pieces:
        number = piece.class_number
        usual = training.pieces[number] if number < len(training.pieces) else 0.0
        if piece.value > usual + PIECE_SLACK:
            beyond.append((piece.value - usual, usual, piece))
    reasons = []
    for _, usual, piece in sorted(beyond, key=lambda one: -one[0])[:_MOST_PLACES]:
        usual_mm3 = usual / piece.value * piece.volume_mm3
        known = f"{_ml(usual_mm3)} or less" if usual else "none"
        reasons.append(
            f"{_ml(piece.volume_mm3)} of {names[piece.class_number]} lie apart from "
            f"the rest of it (in training scans {known}): look {_at(piece)}"
        )
    least = max(LEAST_MISFIT, training.misfit)
    misfits = [place for place in scan.misfits if place.value > least]
    for place in misfits[:_MOST_PLACES]:
        reasons.append(
            f"a place in {names[place.class_number]} looks unlike the rest of it "
            f"({place.value:.1f} SD over {_ml(place.volume_mm3)}, where usual is "
            f"{least:.1f} SD or less): look for a lesion or an artefact {_at(place)}"
        )
    return reasons


def _ml(mm3: float) -> str:
    return f"{mm3 / 1000:.3g} ml"


def _at(place: Place) -> str:
    # Whole numbers have no -0.
    x, y, z = map(round, place.place_mm)
    return f"at x, y, z = {x}, {y}, {z} mm"


def _unusual_volumes(
    structures: Sequence[Structure], cohort: Cohort, limits: Mapping[str, float]
) -> list[str]:
    """Structures that are much larger or smaller than the cohort's, or missing."""
    reasons = []
    unusual = max(limits.get("volume_z", 0.0), UNUSUAL_VOLUME_Z)
    found = deviations(structures, cohort).items()
    far = {name: z for name, z in found if abs(z) > unusual}
    if far:
        worst = max(far, key=lambda name: abs(far[name]))
        side = "above" if far[worst] > 0 else "below"
        others = f" (and {len(far) - 1} more)" if len(far) > 1 else ""
        one = next(one for one in structures if one.name == worst)
        usual = math.exp(cohort.log_mean[one.class_number] or 0.0)
        reasons.append(
            f"volume of {worst}, {_ml(one.volume_mm3)}, is "
            f"{abs(far[worst]):.1f} SD {side} the training cohort's, usually "
            f"{_ml(usual)}{others}: look at the outline"
        )
    names = missing(structures, cohort)
    if names and len(names) > limits.get("absent", 0.0):
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        reasons.append(
            f"found no {', '.join(names[:3])}{more}: check whether the scan shows any"
        )
    return reasons
