"""How a model was made, as every page says it at its end."""

import json
from collections.abc import Mapping

from nobrainer.posthoc import Calibration
from nobrainer.recipe import Recipe, TrainingConfig

Facts = list[tuple[str, str]]
"""Terms and their descriptions."""


def caution_of(model: Recipe | None) -> str:
    """What to say below the title of a page of this model; may be empty."""
    return "" if model is None else model.provenance.caution


def list_facts(model: Recipe | None, calibration: Calibration | None) -> Facts:
    """Say how a model was trained and calibrated.

    Args:
        model: how the model was made, as far as known.
        calibration: how it was calibrated, if it was.
    """
    facts: Facts = []
    if model is not None:
        facts += _training_facts(model)
    if calibration is not None:
        facts.append(("Calibration", _describe_calibration(calibration)))
    elif model is not None:
        facts.append(("Calibration", "none"))
    return facts


def _training_facts(model: Recipe) -> Facts:
    training, story = model.training, model.provenance
    roles = [file.role for file in story.files]
    spacing = model.preprocess.spacing_mm
    grid = "the scan's own voxels"
    if spacing is not None:
        grid = f"voxels of {' x '.join(f'{one:g}' for one in spacing)} mm"
    return [
        ("Network", model.model.name),
        ("Its arguments", _listed(model.model.args)),
        ("Classes", f"{model.data.n_classes}, background among them"),
        (
            "Preprocessing",
            f"orientation {model.preprocess.orientation}, {grid}, "
            f"{model.preprocess.normalize} intensities, outliers "
            f"{model.preprocess.outliers}, bright air {model.preprocess.bright_air}",
        ),
        (
            "Training scans",
            f"{roles.count('train-image')} for training, "
            f"{roles.count('validate-image')} for validation",
        ),
        (
            "Training",
            f"{_length(training)} of {training.loss} by "
            f"{training.optimizer} ({_listed(training.opt_args)}), schedule "
            f"{training.schedule}, precision {training.precision}",
        ),
        ("Seed of the training", str(training.seed)),
        ("Trained", f"{story.started} to {story.ended}"),
        ("Figures after it", _listed(story.metrics)),
        ("Software", _listed(story.versions, "{} {}")),
    ]


def _length(training: TrainingConfig) -> str:
    """What ends a training: the first of these limits that is reached."""
    limits = (
        (training.epochs, "epochs"),
        (training.max_steps, "batches"),
        (training.max_minutes, "minutes"),
    )
    return " or ".join(f"{n:g} {unit}" for n, unit in limits if n is not None)


def _describe_calibration(calibration: Calibration) -> str:
    text = (
        f"{calibration.method} scaling, fitted on {calibration.counted}: negative "
        f"log-likelihood {calibration.nll_before:.4f} before, "
        f"{calibration.nll_after:.4f} after"
    )
    if calibration.intensity_weight:
        text += (
            f"; the intensities of the scan itself count beside the network, with a "
            f"weight of {calibration.intensity_weight:g}"
        )
    intervals = calibration.intervals
    if intervals is not None:
        text += (
            f"; intervals of volumes made to hold the truth in "
            f"{intervals.coverage:.0%} of cases, fitted on "
            f"{intervals.counted}"
        )
    return text


def _listed(values: Mapping[str, object], pattern: str = "{} = {}") -> str:
    parts = [
        pattern.format(name, value if isinstance(value, str) else _short(value))
        for name, value in values.items()
    ]
    return ", ".join(parts) or "none"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
