"""The section on the search that chose a model's settings, and on what it found."""

from collections.abc import Mapping

from nobrainer.glossary import OF_RUNS
from nobrainer.model_card.markdown import mark, show, table
from nobrainer.naming import count_scans
from nobrainer.recipe import SearchRecord


def tell_search(search: SearchRecord | None) -> str:
    """How the model's settings were chosen, and what the test split says of them."""
    if search is None:
        return "Its settings were given to nobrainer, which did not search for better."
    objectives = ", ".join(map(mark, search.objectives))
    outcome = (
        f"This run took the lead; {mark(search.proposer)} proposed its values."
        if search.values
        else "None took it from the unchanged recipe, which this is."
    )
    validation = table(
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
    ranges = table(
        ["parameter", "range", "this model"],
        [
            (name, _range(limits), search.values.get(name, "default"))
            for name, limits in search.space.items()
        ],
    )
    return f"""\
It is run {search.run} of a search over the settings of {mark(search.family)} (seed \
{search.seed}), from {mark(search.started)} to {mark(search.ended)}: \
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
    """Figures with their names, those that the search judged by first."""
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
    figures = table(
        ["on test", "this model", "unchanged recipe"],
        [
            (_figure_name(name), value, baseline.get(name))
            for name, value in _judged_first(search, test)
        ],
    )
    scored = "The test subjects took part in no choice and were scored once."
    if not search.values:
        return f"{figures}\n\n{scored}"
    mean, low, high = search.test_difference
    verdict = (
        "The interval holds 0: the test does not show that it is better."
        if low <= 0 <= high
        else f"The test shows that it is {'better' if low > 0 else 'worse'}."
    )
    return f"""\
{figures}

{scored} Difference in Dice, this model minus the unchanged recipe: {mean:+.4f}, 95 % \
bootstrap interval over {count_scans(None, search.n_test)} from {low:+.4f} to \
{high:+.4f}. \
{verdict} The fewer the subjects, the less such an interval can be relied on."""


def _range(limits: object) -> str:
    if isinstance(limits, Mapping) and "values" in limits:
        return show(limits["values"])
    if isinstance(limits, Mapping) and {"low", "high"} <= limits.keys():
        scale = ", log" if limits.get("log") else ""
        return f"{show(limits['low'])} to {show(limits['high'])}{scale}"
    return show(limits)
