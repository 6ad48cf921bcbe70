"""How a study looks: a live table on a terminal, a line per event elsewhere."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nobrainer.cli.outputs import echo
from nobrainer.errors import in_one_line, printable
from nobrainer.glossary import OF_RUNS
from nobrainer.research.journal import INFEASIBLE, Row, experiments
from nobrainer.research.judge import OBJECTIVES, Standing
from nobrainer.research.records import Snapshot, describe_values

_SHORT = {
    "base_filters": "filters",
    "batch_size": "batch",
    "block_shape": "block",
    "dropout_rate": "dropout",
    "kl_weight": "kl",
    "learning_rate": "lr",
    "prior_type": "prior",
}
"""Short names of parameters in tables."""
_MOST_LISTED = 10
"""Numbers of runs that a line of the summary lists."""


class LiveTable:
    """The study as a table at the bottom of the terminal; use it as a context."""

    def __init__(self, console: Console) -> None:
        # Drawn only when there is something to show, so that no thread must be stopped.
        self._live = Live("", console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Draw the study as it stands."""
        with suppress(OSError):
            self._live.update(Board(snapshot), refresh=True)

    def tell(self, row: Row, standing: Standing) -> None:
        """Do nothing: the table shows it."""

    def say(self, text: str) -> None:
        """Print a sentence above the table."""
        with suppress(OSError):
            self._live.console.print(Text(printable(in_one_line(text))))


class PlainLines:
    """The study as dated lines on standard error; use it as a context."""

    def __init__(self) -> None:
        self._defaults: dict[str, Any] = {}
        self._open: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing: there is nothing to close."""

    def show(self, snapshot: Snapshot) -> None:
        """Name the runs that began since the last call, and others' that ended."""
        self._defaults = default_values(snapshot.rows)
        for row in snapshot.rows:
            if row.state == "running" and row.number not in self._open:
                self._open.add(row.number)
                self.say(f"run {row.number} started: {self._recipe(row)}")
            elif row.state != "running" and row.number in self._open:
                self.tell(row, snapshot.standing)

    def tell(self, row: Row, standing: Standing) -> None:
        """Say how a run ended."""
        self._open.discard(row.number)
        text = f"run {row.number} ended after {clock(row.seconds)}: "
        text += f"{self._recipe(row)}: "
        if row.figures:
            text += f"{_list_figures(row.figures)}: "
        text += verdict_of(row, standing)
        self.say(f"{text}: {row.reason}" if row.reason else text)

    def say(self, text: str) -> None:
        """Write a line at once; if it cannot be written the search goes on."""
        with suppress(OSError):
            echo(f"{datetime.now():%H:%M:%S} {in_one_line(text)}", err=True)

    def _recipe(self, row: Row) -> str:
        return describe_recipe(row, self._defaults)


def choose_view() -> LiveTable | PlainLines:
    """Choose a live table for a terminal, and plain lines for anything else."""
    console = Console(stderr=True)
    if sys.stderr.isatty() and not console.is_dumb_terminal:
        return LiveTable(console)
    return PlainLines()


@dataclass(frozen=True)
class Board:
    """A study as a table of as many runs as the terminal has lines for.

    The champion and the runs under way come first, then the latest ones.
    """

    snapshot: Snapshot

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        """Draw the table without the earliest runs, so that the rest fits."""
        rows = self.snapshot.rows
        options = options.update(height=None)
        summary = Text("\n".join(summarise_study(self.snapshot)))
        n_summary = len(console.render_lines(summary, options))
        # Two more lines: the number of hidden runs, and the cursor.
        room = max(console.height - n_summary - 2, 2)
        wanted = self._by_importance()[: room - 1]
        while True:
            table = draw_runs(self.snapshot, wanted)
            surplus = len(console.render_lines(table, options)) - room
            if surplus <= 0 or len(wanted) <= 1:
                break
            # A row takes one to a few lines, so a third of the surplus is not too many.
            wanted = wanted[: -max(surplus // 3, 1)]
        yield table
        if len(wanted) < len(rows):
            n_hidden = len(rows) - len(wanted)
            yield Text(f"{n_hidden} of {len(rows)} runs are not shown", style="dim")
        yield summary

    def _by_importance(self) -> list[Row]:
        champion = self.snapshot.standing.champion
        return sorted(
            self.snapshot.rows,
            key=lambda r: (r.number != champion, r.state != "running", -r.number),
        )


def draw_runs(snapshot: Snapshot, rows: Sequence[Row]) -> Table:
    """Draw some rows of a study as a table, in the order of their numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    figures = judged_figures(snapshot)
    table.add_column("run", justify="right", no_wrap=True)
    table.add_column("recipe", min_width=16, overflow="fold")
    for name in figures:
        table.add_column(OF_RUNS[name].brief, justify="right", no_wrap=True)
    table.add_column("verdict", min_width=9)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("memory", justify="right", no_wrap=True)
    defaults = default_values(snapshot.rows)
    for row in sorted(rows, key=lambda row: row.number):
        cells = [
            str(row.number),
            describe_recipe(row, defaults),
            *_figure_cells(row, figures),
            verdict_of(row, snapshot.standing),
            clock(elapsed_s(row)),
            memory_text(row.peak_memory_bytes),
        ]
        table.add_row(
            *(Text(printable(in_one_line(c))) for c in cells),
            style=_style(row, snapshot.standing),
        )
    return table


def summarise_study(snapshot: Snapshot) -> list[str]:
    """Say in lines how far a study is, which run is best, and what the test showed."""
    settings, standing = snapshot.settings, snapshot.standing
    n_running = sum(row.state == "running" for row in snapshot.rows)
    n_tried, n_wanted = count_tried(snapshot.rows), snapshot.max_experiments
    of_all = "" if n_wanted is None else f" of {n_wanted} recipes"
    parts = [f"{n_tried}{of_all} tried"]
    if n_running:
        parts.append(f"{n_running} running")
    if snapshot.remaining_s is not None:
        parts.append(f"{duration(snapshot.remaining_s)} left")
    lines = [f"{settings.family}, {settings.proposer}: {', '.join(parts)}"]
    if standing.champion is None or standing.baseline is None:
        lines.append("champion: none before the baseline is done")
    else:
        names = settings.objectives
        text = f"champion: run {standing.champion}"
        text += f", {_list_figures(standing.means[standing.champion], names)}"
        if standing.champion == standing.baseline:
            text += ", the baseline itself"
        else:
            text += f"; baseline: run {standing.baseline}"
            text += f", {_list_figures(standing.means[standing.baseline], names)}"
        lines.append(text)
    if standing.spread is not None:
        spread = _list_figures(standing.spread, settings.objectives, digits=4)
        lines.append(f"spread between seeds: {spread}")
    if standing.waiting:
        numbers = ", ".join(map(str, standing.waiting[:_MOST_LISTED]))
        if len(standing.waiting) > _MOST_LISTED:
            numbers += f" and {len(standing.waiting) - _MOST_LISTED} more"
        lines.append(f"to be repeated with another seed: {numbers}")
    lines.append(_summarise_test(snapshot))
    return [in_one_line(line) for line in lines]


def judged_figures(snapshot: Snapshot) -> tuple[str, ...]:
    """Dice and the other objectives of a study."""
    return tuple(dict.fromkeys(("dice", *snapshot.settings.objectives)))


def default_values(rows: Sequence[Row]) -> dict[str, Any]:
    """The values of the baseline; none before there is one."""
    return next((row.values for row in rows if row.role == "baseline"), {})


def describe_recipe(row: Row, defaults: Mapping[str, Any]) -> str:
    """The values of a run that differ from the defaults (the baseline's), in short."""
    if row.role == "baseline":
        return "baseline"
    if row.role == "repeat":
        return f"repeat of {row.of}"
    changed = {
        _SHORT.get(name, name): value
        for name, value in row.values.items()
        if name not in defaults or value != defaults[name]
    }
    return describe_values(changed) or "as the baseline"


def verdict_of(row: Row, standing: Standing) -> str:
    """What the judge says about a run, or how far it has come."""
    if row.state == "running" and row.curve:
        return f"running, {100 * row.curve[-1][0]:.0f} %"
    if row.role == "repeat":
        return row.state
    return standing.verdicts.get(row.number) or row.state


def count_tried(rows: Sequence[Row]) -> int:
    """How many recipes have ended, the baseline among them."""
    return len(experiments([row for row in rows if row.state != "running"]))


def elapsed_s(row: Row) -> float:
    """The seconds that a run took, or has taken until now."""
    if row.state != "running" or not row.started:
        return row.seconds
    started = datetime.fromisoformat(row.started)
    if started.tzinfo is None:
        started = started.replace(tzinfo=UTC)
    return max((datetime.now(UTC) - started).total_seconds(), 0.0)


def clock(seconds: float) -> str:
    """A short time as minutes and seconds, or with hours.

    >>> clock(75), clock(3661)
    ('1:15', '1:01:01')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def duration(seconds: float) -> str:
    """A long time in words, rounded down.

    >>> duration(28800), duration(150), duration(-2)
    ('8 h 0 min', '2 min', '0 s')
    """
    whole = max(int(seconds), 0)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min" if whole >= 60 else f"{whole} s"


def memory_text(size_bytes: int) -> str:
    """Memory in gigabytes; a dash where none was measured."""
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes else "-"


def _summarise_test(snapshot: Snapshot) -> str:
    test = snapshot.test
    if test is None:
        return "test split: locked"
    if test.champion == test.baseline:
        dice = test.figures["baseline"]["dice"]
        return f"test split: Dice {dice:.3f}, of the baseline alone"
    gain = test.difference
    text = f"test split: Dice {gain.mean:+.3f} against the baseline's"
    if gain.n_subjects > 1:
        text += f", 95 % interval {gain.low:+.3f} to {gain.high:+.3f}"
    return f"{text} (subjects: {gain.n_subjects})"


def _list_figures(
    figures: Mapping[str, float],
    names: Sequence[str] = OBJECTIVES,
    digits: int = 3,
) -> str:
    return ", ".join(
        f"{OF_RUNS[name].brief} {figures[name]:.{digits}f}"
        for name in names
        if name in figures
    )


def _figure_cells(row: Row, names: Sequence[str]) -> list[str]:
    """The figures of a run; while it is under way, the last Dice of its curve."""
    figures = row.figures
    if row.state == "running" and row.curve:
        figures = {"dice": row.curve[-1][1]}
    return [f"{figures[name]:.3f}" if name in figures else "-" for name in names]


def _style(row: Row, standing: Standing) -> str:
    if row.number == standing.champion:
        return "bold green"
    if row.state == "running":
        return "cyan"
    if row.state in INFEASIBLE:
        return "red"
    return "yellow" if row.number in standing.waiting else ""
