"""A model's card: what to know before using it, in Markdown, made from the records.

Source: Mitchell et al. 2019, Model cards for model reporting,
https://doi.org/10.1145/3287560.3287596. What only the people who trained the model
know, such as where its scans come from, the card names as missing.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from nobrainer.data.labels import LabelTable
from nobrainer.glossary import OF_RUNS, OF_TRAINING
from nobrainer.naming import count_scans
from nobrainer.posthoc import Calibration, QualityModel
from nobrainer.recipe import Cohort, DataConfig, Recipe, SearchRecord

_ABSENT = "\N{EN DASH}"
_N_DRAWS = 10
# Of these the card speaks in words, or `recipe.json` is the place to look.
_TOLD = ("data.n_classes", "data.relabel", "data.binarize", "model.args.n_classes")


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
        n_epochs: Epochs that it was trained for, over all members of an ensemble.

    Returns:
        Markdown with tables; the same records give the same text.
    """
    # As it is stored, with the keys of dictionaries in the order of the file: saving
    # what was loaded gives the same card.
    recipe = Recipe.from_json(recipe.to_json())
    title = f"# {_mark(recipe.model.name)}: brain MRI in {len(labels.names)} classes"
    sections = {
        "Model details": _details(recipe, labels),
        "Intended use": _USE,
        "How to use it": _how_to(calibration, quality),
        "Training data": _training_data(recipe, labels),
        "Training": _training(recipe, n_epochs),
        "Figures": _figures(recipe),
        "How it was chosen": _choice(recipe.provenance.search),
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


def _summary(recipe: Recipe) -> str:
    metrics, search = recipe.provenance.metrics, recipe.provenance.search
    if search is not None and search.test is not None and "dice" in search.test:
        tested = count_scans(search.n_test_scans, search.n_test)
        found = f"{_show(search.test['dice'])} on a test split of {tested}"
    elif "validation_dice" in metrics:
        found = f"{_show(metrics['validation_dice'])} on the validation scans"
    else:
        found = "on other scans not measured"
    caution = recipe.provenance.caution
    return f"""\
A network that gives every voxel of a 3-D brain scan one of {recipe.data.n_classes} \
classes. Trained on {_trained_on(recipe)}; Dice {found}. For research only.\
{f" **{caution}**" * bool(caution)}

nobrainer wrote this card from its records of the training. What only the people who \
trained the model know is not in here."""


def _details(recipe: Recipe, labels: LabelTable) -> str:
    preprocess, made = recipe.preprocess, recipe.provenance
    if preprocess.spacing_mm is None:
        grid = "keeps its voxel size"
    else:
        sizes = " x ".join(map(_show, preprocess.spacing_mm))
        grid = f"is resampled to voxels of {sizes} mm"
    clipped = "clipped and " if preprocess.outliers == "clipped" else ""
    software = _mark(made.versions.get("nobrainer", "of a version not on record"))
    return f"""\
- **Network**: {_mark(recipe.model.name)}, trained by nobrainer {software}, finished \
on {_mark(made.ended[:10])}.
- **Input**: one 3-D scan of one channel (NIfTI or MGZ), in any orientation. It is \
turned to {_mark(preprocess.orientation)} and {grid}; its intensities are \
{clipped}normalised ({_mark(preprocess.normalize)}).
- **Output**, on the scan's own grid: a label for every voxel and, from several draws \
of the network, maps of variance (0 to 0.25) and entropy (0 to \
{math.log(len(labels.names)):.2f} nats). A network that is not random makes one pass: \
its variance is 0.
- **Licence**: not stated. Ask whoever shares the model.

{_classes(labels, made.cohort)}"""


def _classes(labels: LabelTable, cohort: Cohort | None) -> str:
    columns: dict[str, Sequence[Any]] = {
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
        columns["volume in training, cm³"] = [_ABSENT, *sizes[1:]]
        note = (
            "\n\nVolumes: geometric mean over the training scans and, in brackets, "
            "one standard deviation (of the logarithm) either way."
        )
        if unknown := [_mark(labels.names[index]) for index in cohort.never_seen]:
            note += (
                f"\n\nNo training scan has {', '.join(unknown)}: the network cannot "
                "find what it has never seen, and says nothing about it."
            )
    return _table(list(columns), zip(*columns.values(), strict=True)) + note


def _volume(log_mean: float | None, log_sd: float | None) -> str:
    if log_mean is None or log_sd is None:
        return _ABSENT
    low, middle, high = (
        np.format_float_positional(
            math.exp(log_mean + step) / 1000, precision=3, fractional=False, trim="-"
        )
        for step in (-log_sd, 0, log_sd)
    )
    return f"{middle} ({low} to {high})"


def _how_to(calibration: Calibration | None, quality: QualityModel | None) -> str:
    intervals = None if calibration is None else calibration.intervals
    n_draws, held = _N_DRAWS, ""
    if intervals is not None:
        n_draws, held = intervals.n_draws, "; intervals of volumes hold for as many"
    elif quality is not None:
        n_draws, held = quality.n_draws, "; the predicted quality holds for as many"
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

`n_samples` is the number of draws{held}. How good it is on labelled scans of your \
own, `nobrainer evaluate` says."""


def _training_data(recipe: Recipe, labels: LabelTable) -> str:
    roles = Counter(record.role for record in recipe.provenance.files)
    files = (
        _table(["files", "number"], roles.items())
        if roles
        else "No files are on record: the scans were given in memory."
    )
    return f"""\
It was trained on {_trained_on(recipe)}. {_classes_made(recipe.data, labels)}\
{_synthesis(recipe)}

{files}

Names and checksums of the files are in `recipe.json`. Where the scans come from, who \
the subjects are (age, sex, diagnosis) and who drew the labels is not on record: ask \
whoever shares the model."""


def _synthesis(recipe: Recipe) -> str:
    """How images were made of label maps, where there were any."""
    n_maps, share = recipe.provenance.n_maps, recipe.data.map_share
    if not n_maps:
        return ""
    part = "" if share is None else f" These are {share:.0%} of its patches."
    return (
        f"\n\nOf these, {n_maps} are label maps of heads without a scan: an image of "
        "random shape, contrast and quality was made from one for every patch "
        f"(`data.synthesis` in `recipe.json` has the ranges).{part}"
    )


def _trained_on(recipe: Recipe) -> str:
    cohort = recipe.provenance.cohort
    if cohort is None:
        return "a number of scans that is not on record"
    return cohort.counted


def _classes_made(data: DataConfig, labels: LabelTable) -> str:
    """How the labels of the files became classes."""
    if data.binarize == "nonzero":
        return f"Every label of its files but 0 is {_mark(labels.names[1])}."
    if data.binarize == "ids":
        ids = _show(data.binarize_ids)
        return f"Of the labels of its files these are {_mark(labels.names[1])}: {ids}."
    if data.binarize == "callable":
        name = _mark(data.binarize_name)
        return f"A function ({name}), which is not stored, made its labels into two."
    if data.relabel is not None:
        return (
            f"{len(data.relabel)} labels of its files were mapped to the "
            f"{len(labels.names)} classes (`data.relabel` in `recipe.json`)."
        )
    return "The labels of its files are the classes."


def _training(recipe: Recipe, n_epochs: int) -> str:
    settings = {
        part: asdict(getattr(recipe, part))
        for part in ("model", "preprocess", "data", "training")
    }
    rows = [
        (name, value)
        for name, value in _flat(settings)
        if not name.startswith(_TOLD) and value not in (None, (), "")
    ]
    seeds = recipe.provenance.member_seeds
    members = f", over its {len(seeds)} members" if seeds else ""
    return (
        f"Epochs trained: {n_epochs}{members}. The settings, by their names in "
        f"`recipe.json`:\n\n{_table(['setting', 'value'], rows)}"
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested values under dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _figures(recipe: Recipe) -> str:
    metrics = recipe.provenance.metrics
    per_class = "validation_dice_"
    titles = {key: metric.name for key, metric in OF_TRAINING.items()}
    first = ["validation_dice", *(n for n in metrics if n.startswith(per_class))]
    rows = [
        (
            f"Dice on validation scans, {name.removeprefix(per_class)}"
            if name.startswith(per_class)
            else titles.get(name, name),
            metrics[name],
        )
        for name in sorted(metrics, key=[*first, *metrics].index)
    ]
    table = _table(["figure", "value"], rows) if rows else "None were taken."
    if "validation_dice" in metrics:
        note = (
            "Validation is on whole scans, with the mean of the weights. The epoch was "
            "chosen by it, so it flatters the model a little."
        )
    else:
        note = (
            "How good it is on scans that it was not trained on was not measured in "
            "training: do that first, with `nobrainer evaluate`."
        )
    return f"{table}\n\n{note}"


def _choice(search: SearchRecord | None) -> str:
    if search is None:
        return "Its settings were given to nobrainer, which did not search for better."
    objectives = ", ".join(map(_mark, search.objectives))
    outcome = (
        f"This run took the lead; {_mark(search.proposer)} proposed its values."
        if search.values
        else "None took it from the unchanged recipe, which this is."
    )
    validation = _table(
        ["on validation", "this model", "unchanged recipe", "sd between seeds"],
        [
            (
                _figure_name(name),
                value,
                search.baseline_validation.get(name),
                search.spread.get(name),
            )
            for name, value in _judged_first(search, search.validation)
        ],
    )
    ranges = _table(
        ["parameter", "range", "this model"],
        [
            (name, _range(limits), search.values.get(name, "default"))
            for name, limits in search.space.items()
        ],
    )
    return f"""\
It is run {search.run} of a search over the settings of {_mark(search.family)} (seed \
{search.seed}), from {_mark(search.started)} to {_mark(search.ended)}: \
{search.n_runs} runs, of which {search.n_failed} failed.

Before the first run the subjects were divided: \
{count_scans(search.n_train_scans, search.n_train)} to train on, \
{count_scans(search.n_validate_scans, search.n_validate)} to validate on, \
{count_scans(search.n_test_scans, search.n_test)} locked away for one test. A run \
took the lead where it was better on validation ({objectives}), in its mean over two \
seeds, by more than the spread between seeds. {outcome}

{validation}

Figures are means over seeds, and those of voxels are taken near the foreground. The \
search chose by them, so they flatter what it chose.

{_test(search)}

The space that was searched:

{ranges}"""


def _judged_first(
    search: SearchRecord, figures: Mapping[str, float]
) -> list[tuple[str, float]]:
    return sorted(
        figures.items(), key=lambda item: [*search.objectives, *figures].index(item[0])
    )


def _figure_name(name: str) -> str:
    if name.startswith("dice/"):
        return f"Dice, {name.removeprefix('dice/')}"
    if name not in OF_RUNS:
        return name
    metric = OF_RUNS[name]
    return f"{metric.name} ({metric.bounds or metric.unit}, {metric.better} is better)"


def _test(search: SearchRecord) -> str:
    test, baseline = search.test, search.baseline_test
    if test is None or baseline is None or search.test_difference is None:
        return "The test subjects have not been scored."
    table = _table(
        ["on test", "this model", "unchanged recipe"],
        [
            (_figure_name(name), value, baseline.get(name))
            for name, value in _judged_first(search, test)
        ],
    )
    scored = "The test subjects took part in no choice and were scored once."
    if not search.values:
        return f"{table}\n\n{scored}"
    mean, low, high = search.test_difference
    verdict = (
        "The interval holds 0: the test does not show that it is better."
        if low <= 0 <= high
        else f"The test shows that it is {'better' if low > 0 else 'worse'}."
    )
    return f"""\
{table}

{scored} Difference in Dice, this model minus the unchanged recipe: {mean:+.4f}, 95 % \
bootstrap interval over {count_scans(None, search.n_test)} from {low:+.4f} to \
{high:+.4f}. \
{verdict} The fewer the subjects, the less such an interval can be relied on."""


def _range(limits: Any) -> str:
    if isinstance(limits, Mapping) and "values" in limits:
        return _show(limits["values"])
    if isinstance(limits, Mapping) and {"low", "high"} <= limits.keys():
        scale = ", log" if limits.get("log") else ""
        return f"{_show(limits['low'])} to {_show(limits['high'])}{scale}"
    return _show(limits)


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
            f"true volumes, fitted on "
            f"{count_scans(None, intervals.n_subjects)} with "
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
    return "\n".join(lines)


def _limits(recipe: Recipe) -> str:
    synthetic = recipe.provenance.n_synthetic
    cohort = recipe.provenance.cohort
    seen = (
        "It keeps no record of what its training scans look like, so that an unlike "
        "one is not told from them."
        if cohort is None or cohort.appearance is None
        else "`predict` warns of scans unlike its training scans in intensities, "
        "sharpness, position or field of view; what these figures do not see passes."
    )
    return f"""\
- It was trained on {_trained_on(recipe)}\
{f" ({synthetic} of its scans synthetic)" * bool(synthetic)}, and knows nothing else.
- {seen}
- Its uncertainty is only about what it has seen. On another scanner, contrast, age \
group or pathology it may be wrong *and certain*: a dark map proves nothing.
- How its results differ between groups of subjects (age, sex, diagnosis) and between \
scanners was not measured.
- A model can give away something of the scans that it was trained on. Share it as \
their consent allows."""


def _provenance(recipe: Recipe) -> str:
    made = recipe.provenance
    versions = _table(["software", "version"], sorted(made.versions.items()))
    return f"""\
Trained from {_mark(made.started)} to {_mark(made.ended)} with

{versions}

`recipe.json` has every setting and the checksum of every file, `history.jsonl` the \
epochs, `croissant.json` the same for other software. `sha256sum -c SHA256SUMS` in \
this folder checks the files, and nobrainer does so whenever it loads the model: after \
a change to this card by hand, its line in `SHA256SUMS` must be renewed."""


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    cells = [[_mark(_show(cell)) for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _show(value: Any) -> str:
    """A value as text."""
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else _ABSENT
    if value is None:
        return _ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple) and not any(
        isinstance(item, list | dict) for item in value
    ):
        return ", ".join(map(_show, value))
    return value if isinstance(value, str) else json.dumps(value)


def _mark(text: str) -> str:
    """Text as Markdown that shows it: a class called `a|b` breaks no table."""
    shown = re.sub(r"([\\`*\[\]<>|&~$])", r"\\\1", " ".join(text.split()))
    # Within a word an underscore is itself.
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", shown)
