"""A model's card: what to know before using it, in Markdown, made from the records.

Source: Mitchell et al. 2019, Model cards for model reporting,
https://doi.org/10.1145/3287560.3287596. What only the people who trained the model
know, such as where its scans come from, the card names as missing.
"""

import math
from collections.abc import Sequence

import numpy as np

from nobrainer.data.labels import LabelTable
from nobrainer.model_card.markdown import ABSENT, mark, show, table
from nobrainer.model_card.search import tell_search
from nobrainer.model_card.training import (
    tell_data,
    tell_figures,
    tell_sources,
    tell_training,
    trained_on,
)
from nobrainer.naming import count_scans
from nobrainer.posthoc import Calibration, QualityModel, usual_draws
from nobrainer.recipe import Cohort, Recipe, Statement


def model_card(
    recipe: Recipe,
    labels: LabelTable,
    calibration: Calibration | None,
    quality: QualityModel | None,
    *,
    n_epochs: int,
) -> str:
    """Describe a trained model to those who may use it.

    Args:
        recipe: How the model was made.
        labels: Its classes.
        calibration: How its probabilities are scaled, if that was fitted.
        quality: How the Dice of its results is predicted, if that was fitted.
        n_epochs: Number of epochs of its training, summed over an ensemble's members.

    Returns:
        Markdown with tables; the same records give the same text.
    """
    # As it is stored, with the keys of dictionaries in the order of the file: saving
    # what was loaded gives the same card.
    recipe = Recipe.from_json(recipe.to_json())
    stated = recipe.provenance.statement
    name = recipe.model.name if stated is None else stated.name
    title = f"# {mark(name)}: brain MRI in {len(labels.names)} classes"
    sections = {
        "Model details": _details(recipe, labels),
        "Intended use": _USE,
        "How to use it": _how_to(calibration, quality),
        "Training data": tell_data(recipe, labels) + tell_sources(stated),
        "Training": tell_training(recipe, n_epochs),
        "Figures": tell_figures(recipe),
        "How it was chosen": tell_search(recipe.provenance.search),
        "Calibration and quality": _fitted(calibration, quality),
        "Limits": _limits(recipe),
        "Provenance": _provenance(recipe),
    }
    told = [f"## {name}\n\n{text}" for name, text in sections.items()]
    return "\n\n".join((title, _summary(recipe), *told)) + "\n"


_USE = """\
For research: segmenting scans like those that it was trained on, and finding the ones \
whose segmentation somebody should look at.

**Not a medical device.** No output may guide the care of a patient. Not for scans of \
another kind (contrast, scanner, age group, pathology, field of view) before its \
results on labelled scans of that kind were checked."""


_OF_MEMBERS = """


*Out of fold* means that each scan was predicted by the one member that had not \
learned from it. So these figures are about the errors of single members, while a new \
scan is predicted by all of them together.

- The mean of several members is less sure than they are: with the temperature of \
single members the ensemble tends to claim too little rather than too much.
- Its draws also differ from member to member, so that intervals of volumes tend to be \
wider than they would have to be. That they hold the stated share of true volumes is \
not proven for the ensemble; look at it on further labelled scans.
- The Dice that the quality model learned is that of single members, and tends to be \
lower than that of the ensemble. How far draws agree and how sure they are, it learned \
from all members on scans that all but one have seen: on new scans they agree a little \
less. Both lower the predicted Dice a little."""


def _summary(recipe: Recipe) -> str:
    metrics, search = recipe.provenance.metrics, recipe.provenance.search
    if search is not None and search.test is not None and "dice" in search.test:
        tested = count_scans(search.n_test_scans, search.n_test)
        found = f"{show(search.test['dice'])} on a test split of {tested}"
    elif "out_of_fold_dice" in metrics:
        dice = show(metrics["out_of_fold_dice"])
        found = f"{dice} out of fold, each scan by a member that has not seen it"
    elif "validation_dice" in metrics:
        found = f"{show(metrics['validation_dice'])} on the validation scans"
    else:
        found = "on other scans not measured"
    caution = recipe.provenance.caution
    told = "What only the people who trained the model know is not in here."
    if recipe.provenance.statement is not None:
        told = "Licences, sources, held-out data and own limits they stated themselves."
    return f"""\
A network that gives every voxel of a 3-D brain scan one of {recipe.data.n_classes} \
classes. Trained on {trained_on(recipe)}; Dice {found}. For research only.\
{f" **{caution}**" * bool(caution)}

nobrainer wrote this card from its records of the training. {told}"""


def _details(recipe: Recipe, labels: LabelTable) -> str:
    preprocess, made = recipe.preprocess, recipe.provenance
    if preprocess.spacing_mm is None:
        grid = "keeps its voxel size"
    else:
        sizes = " x ".join(map(show, preprocess.spacing_mm))
        grid = f"is resampled to voxels of {sizes} mm"
    clipped = "clipped and " if preprocess.outliers == "clipped" else ""
    turned = ""
    if preprocess.bright_air == "inverted":
        turned = " A scan whose air is bright has its intensities turned over first."
    software = mark(made.versions.get("nobrainer", "of a version not on record"))
    return f"""\
- **Network**: {mark(recipe.model.name)}, trained by nobrainer {software}, finished \
on {mark(made.ended[:10])}.
- **Input**: one 3-D scan of one channel (NIfTI or MGZ), in any orientation. It is \
turned to {mark(preprocess.orientation)} and {grid}; its intensities are \
{clipped}normalised ({mark(preprocess.normalize)}).{turned}
- **Output**, on the scan's own grid: a label for every voxel and, from several draws \
of the network, maps of variance (0 to 0.25) and entropy (0 to \
{math.log(len(labels.names)):.2f} nats). A network that is not random makes one pass: \
its variance is 0.
- **Licence**: {_licence(made.statement)}

{_classes(labels, made.cohort)}"""


def _licence(stated: Statement | None) -> str:
    """Licence and citation, where they are stated."""
    if stated is None:
        return "not stated. Ask whoever shares the model."
    return f"{mark(stated.licence)}. Cite it as: {mark(stated.citation)}"


def _classes(labels: LabelTable, cohort: Cohort | None) -> str:
    columns: dict[str, Sequence[object]] = {
        "label": labels.values,
        "class": labels.names,
    }
    if labels.values != labels.ids and any(i is not None for i in labels.ids):
        columns["in the training labels"] = labels.ids
    note = ""
    if cohort is not None:
        sizes = list(map(_volume, cohort.log_mean, cohort.log_sd))
        for index in cohort.never_seen:
            sizes[index] = "never seen"
        # How much background there is depends on the field of view.
        columns["volume in training, cm³"] = [ABSENT, *sizes[1:]]
        note = (
            "\n\nVolumes: geometric mean over the training scans and, in brackets, "
            "one standard deviation (of the logarithm) either way."
        )
        if unknown := [mark(labels.names[index]) for index in cohort.never_seen]:
            note += (
                f"\n\nNo training scan has {', '.join(unknown)}: the network cannot "
                "find what it has never seen, and says nothing about it."
            )
    return table(list(columns), zip(*columns.values(), strict=True)) + note


def _volume(log_mean: float | None, log_sd: float | None) -> str:
    if log_mean is None or log_sd is None:
        return ABSENT
    low, middle, high = (
        np.format_float_positional(
            math.exp(log_mean + step) / 1000, precision=3, fractional=False, trim="-"
        )
        for step in (-log_sd, 0, log_sd)
    )
    return f"{middle} ({low} to {high})"


def _how_to(calibration: Calibration | None, quality: QualityModel | None) -> str:
    intervals = None if calibration is None else calibration.intervals
    n_draws, held = usual_draws(calibration, quality), ""
    if intervals is not None:
        held = "; intervals of volumes hold for as many"
    elif quality is not None:
        held = "; the predicted quality holds for as many"
    return f"""\
```python
import nobrainer as nb

model = nb.Segmentation.load("path/to/this/folder")
label, variance, entropy = model.predict("sub-01_T1w.nii.gz", n_samples={n_draws})
label.to_filename("sub-01_label.nii.gz")
```

or in a shell

```bash
nobrainer predict sub-01_T1w.nii.gz --model path/to/this/folder --output-dir maps \\
    --n-samples {n_draws}
```

`n_samples` is the number of draws{held}; a network that is not random makes one pass, \
and warns. How good it is on labelled scans of your \
own, `nobrainer evaluate` says."""


def _fitted(calibration: Calibration | None, quality: QualityModel | None) -> str:
    lines = []
    if calibration is None:
        lines.append(
            "- **Probabilities** are as the network gives them: `nobrainer calibrate` "
            "was not run. Do not read them as frequencies."
        )
    else:
        lines.append(
            f"- **Probabilities** are scaled ({calibration.method}), fitted on "
            f"{calibration.counted}: negative log-likelihood near the "
            f"foreground {calibration.nll_before:.4g} before, "
            f"{calibration.nll_after:.4g} nats after, on these. The figures above are "
            "without it."
        )
    intervals = calibration.intervals if calibration is not None else None
    if intervals is None:
        lines.append("- **Intervals of volumes** were not fitted.")
    else:
        lines.append(
            f"- **Intervals of volumes** are to hold {100 * intervals.coverage:g} % of "
            f"true volumes, fitted on {intervals.counted} with "
            f"{intervals.n_draws} draws."
        )
    if quality is None:
        lines.append("- **Quality** of a result: no model that predicts it was fitted.")
    else:
        lines.append(
            f"- **Quality**: the Dice of a result is predicted with a mean absolute "
            f"error of {quality.error:.3f} on subjects left out, fitted on "
            f"{quality.counted} with "
            f"{quality.n_draws} draws."
        )
    return "\n".join(lines) + _out_of_fold(calibration, quality)


def _out_of_fold(calibration: Calibration | None, quality: QualityModel | None) -> str:
    """What it means for the ensemble that single members were looked at."""
    if not any(one is not None and one.out_of_fold for one in (calibration, quality)):
        return ""
    return _OF_MEMBERS


def _limits(recipe: Recipe) -> str:
    synthetic = recipe.provenance.n_synthetic
    cohort = recipe.provenance.cohort
    stated = recipe.provenance.statement
    own = "".join(f"\n- {mark(text)}" for text in stated.limits) if stated else ""
    seen = (
        "It keeps no record of what its training scans look like, so that an unlike "
        "one is not told from them."
        if cohort is None or cohort.appearance is None
        else "`predict` warns of scans unlike its training scans in intensities, "
        "sharpness, position or field of view; what these figures do not see passes."
    )
    return f"""\
- It was trained on {trained_on(recipe)}\
{f" ({synthetic} of its scans synthetic)" * bool(synthetic)}, and knows nothing else.
- {seen}
- Its uncertainty is only about what it has seen. On another scanner, contrast, age \
group or pathology it may be wrong *and certain*: a dark map proves nothing.
- How its results differ between groups of subjects (age, sex, diagnosis) and between \
scanners was not measured.
- A model can give away something of the scans that it was trained on. Share it as \
their consent allows.{own}"""


def _provenance(recipe: Recipe) -> str:
    made = recipe.provenance
    versions = table(["software", "version"], sorted(made.versions.items()))
    return f"""\
Trained from {mark(made.started)} to {mark(made.ended)} with

{versions}

`recipe.json` has every setting and the checksum of every file, `history.jsonl` the \
epochs, `croissant.json` the same for other software. `sha256sum -c SHA256SUMS` in \
this folder checks the files, and nobrainer does so whenever it loads the model: after \
a change to this card by hand, its line in `SHA256SUMS` must be renewed."""
