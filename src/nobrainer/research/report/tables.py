"""The tables of a study's page."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from nobrainer.glossary import OF_RUNS
from nobrainer.report.document import Table, number
from nobrainer.research.journal import STATES, Row
from nobrainer.research.judge import OBJECTIVES, Standing
from nobrainer.research.records import Snapshot, describe_values
from nobrainer.research.space import Space

_ABSENT = number(math.nan)
_UNSAID = "default, not in the space"


def tabulate_values(
    space: Space, rows: Sequence[Row], standing: Standing
) -> Table | None:
    """Compare the values of champion and baseline; None before the baseline is done.

    Args:
        space: the space whose parameters are the rows of the table.
        rows: rows of all runs.
        standing: what the judge makes of these rows.
    """
    found = {row.number: row.values for row in rows}
    if standing.champion is None or standing.baseline is None:
        return None
    champion, baseline = found[standing.champion], found[standing.baseline]
    if standing.champion == standing.baseline:
        return Table(
            "Values of the baseline",
            ("parameter", f"run {standing.baseline}"),
            tuple((name, _told(baseline, name, _UNSAID)) for name in space.ranges),
        )
    cells = []
    for name in space.ranges:
        new, old = (_told(of, name, _UNSAID) for of in (champion, baseline))
        bold = Markup("<strong>{}</strong>").format(new)
        same = new == old
        cells.append((name, new if same else bold, old, "no" if same else "yes"))
    return Table(
        "Values; bold where the champion's differ",
        (
            "parameter",
            f"champion, run {standing.champion}",
            f"baseline, run {standing.baseline}",
            "changed",
        ),
        tuple(cells),
    )


def tabulate_figures(snapshot: Snapshot) -> Table:
    """Compare the figures of champion and baseline on validation and test split."""
    standing, test = snapshot.standing, snapshot.test
    columns: dict[str, dict[str, float]] = {}
    for run in dict.fromkeys((standing.champion, standing.baseline)):
        role = "baseline" if run == standing.baseline else "champion"
        columns[f"validation, {role} (run {run})"] = {
            name: _mean(snapshot.rows, run, name) for name in OBJECTIVES
        }
    spread = standing.spread or {}
    columns["spread"] = {}
    if test is not None:
        for role, run in (("champion", test.champion), ("baseline", test.baseline)):
            if role == "baseline" or run != test.baseline:
                columns[f"test, {role} (run {run})"] = test.figures[role]
    rows = []
    for name in OBJECTIVES:
        cells = {
            head: _value(name, f.get(name, math.nan)) for head, f in columns.items()
        }
        cells["spread"] = show_spread(name, spread.get(name, math.nan))
        rows.append((OF_RUNS[name].heading, *cells.values()))
    return Table(
        "Means over subjects; of the validation split also over seeds",
        ("figure", *columns),
        tuple(rows),
    ).without_blanks()


def tabulate_states(rows: Sequence[Row]) -> Table:
    """Count the runs by the way in which they ended."""
    counts = Counter(row.state for row in rows)
    return Table(
        "What became of the runs, repeats with another seed among them",
        ("state", "runs", "meaning"),
        tuple((s, str(counts[s]), text) for s, text in STATES.items() if counts[s]),
        texts=("meaning",),
    )


def tabulate_runs(rows: Sequence[Row], standing: Standing) -> Table:
    """List all runs in the order of their numbers.

    Args:
        rows: rows of all runs.
        standing: what the judge makes of these rows.
    """
    cells = []
    for row in rows:
        role = f"repeat of {row.of}" if row.role == "repeat" else row.role
        cells.append(
            (
                _marked(f"{row.number} {role}", row.number, standing),
                *(_value(key, row.figures.get(key, math.nan)) for key in OBJECTIVES),
                _outcome(row, standing),
                number(row.seconds / 60 or math.nan, 1),
                number(row.peak_memory_bytes / 1e9 or math.nan, 2),
                row.proposer,
                "; ".join(filter(None, (row.reason, row.note))) or _ABSENT,
            )
        )
    titles = (OF_RUNS[name].heading for name in OBJECTIVES)
    head = ("run", *titles, "outcome", "time (min)", "peak memory (GB)")
    return Table(
        "Runs in their order; figures are of the validation split",
        (*head, "proposer", "reason, note"),
        tuple(cells),
        texts=("reason, note",),
    ).without_blanks()


def tabulate_recipes(
    space: Space, rows: Sequence[Row], standing: Standing, objective: str
) -> Table:
    """List all recipes, the best first, those without a figure last.

    Args:
        space: the space whose parameters are columns of the table.
        rows: rows of all runs; repeats are left out.
        standing: what the judge makes of these rows.
        objective: name of `OBJECTIVES` by which the recipes are sorted.
    """
    recipes = [row for row in rows if row.role != "repeat"]
    means = {run: mean[objective] for run, mean in standing.means.items()}
    metric = OF_RUNS[objective]
    recipes.sort(
        key=lambda row: -metric.sign * means.get(row.number, -metric.sign * math.inf)
    )
    return Table(
        f"Recipes, the best first; {metric.heading} is the mean over their seeds",
        ("recipe", metric.heading, "outcome", *space.ranges),
        tuple(
            (
                _marked(f"run {row.number}", row.number, standing),
                _value(objective, means.get(row.number, math.nan)),
                _outcome(row, standing),
                *(_told(row.values, name, _ABSENT) for name in space.ranges),
            )
            for row in recipes
        ),
    )


def show_spread(name: str, value: float) -> str:
    """The spread of a figure as text, with one decimal more than the figure has.

    Args:
        name: name of the figure, a key of `glossary.OF_RUNS`.
        value: its spread between seeds; NaN where it is not known.
    """
    return number(value, OF_RUNS[name].digits + 1)


def _told(values: dict[str, Any], name: str, absent: str) -> str:
    """The value of a parameter as text; `absent` where there is none."""
    if name not in values:
        return absent
    return describe_values({name: values[name]}).partition("=")[2]


def _mean(rows: Sequence[Row], run: int | None, name: str) -> float:
    """A figure of a run, averaged over its seeds."""
    found = [
        row.figures[name]
        for row in rows
        if row.of == run and row.state == "done" and name in row.figures
    ]
    return math.fsum(found) / len(found) if found else math.nan


def _marked(name: str, run: int, standing: Standing) -> str:
    champion = run == standing.champion
    return Markup("<strong>{}</strong>").format(name) if champion else name


def _outcome(row: Row, standing: Standing) -> str:
    if row.role == "repeat" and row.state == "done":
        return "done"
    return standing.verdicts.get(row.number) or row.state


def _value(name: str, value: float) -> str:
    return number(value, OF_RUNS[name].digits)
