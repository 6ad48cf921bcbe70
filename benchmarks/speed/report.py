"""Tables to read, and the goals beside what was measured."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from benchmarks.speed.builds import OTHER, THIS
from benchmarks.speed.growth import exponent
from benchmarks.speed.measure import Case, Table
from benchmarks.speed.predict import HALVED, PLAIN, REDRAWN
from benchmarks.speed.train import MODES, OURS
from benchmarks.speed.train import PLAIN as PLAIN_VNET

FACTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "memory_format": ("memory format", str),
    "other_format": ("time in the other format / this", "{:.2f}".format),
    "flop_over_ours": ("FLOP / VNet's", "{:.2f}".format),
    "window": ("window", "{}³".format),
    "wait_share": ("waiting", "{:.1%}".format),
    "wait_ms_per_step": ("ms a step waiting", "{:.2f}".format),
    "read_once_s": ("reading once, s", "{:.2f}".format),
    "peak_mib": ("peak, MiB", "{:.0f}".format),
    "peak_gpu_mib": ("peak on the GPU, MiB", "{:.0f}".format),
    "peak_over_first": ("peak / first", "{:.3f}".format),
    "cpu_s": ("CPU seconds", "{:.2f}".format),
    "wall_s": ("seconds on the clock", "{:.1f}".format),
}
"""Heading and format of the figures that tables show beside time."""


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, its first column to the left."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_markdown(table: Table) -> str:
    """A heading and a table."""
    cases = table.cases
    shown = [k for k in FACTS if any(k in case.facts for case in cases.values())]
    limited = table.rates is not None
    headings = ["what", "seconds", "from, to"]
    headings += [table.unit] if table.unit else []
    headings += [f"time / {table.reference}"]
    headings += ["of limit"] if limited else []
    headings += [FACTS[name][0] for name in shown]
    rows = []
    for name, case in cases.items():
        low, high = min(case.samples), max(case.samples)
        row = [name, _digits(case.median), f"{_digits(low)}, {_digits(high)}"]
        row += [_digits(case.amount / case.median)] if table.unit else []
        row += [f"{table.ratio(name):.2f}"]
        row += [_share(table, name)] if limited else []
        row += [_fact(case, fact) for fact in shown]
        rows.append(row)
    return f"### {table.title}\n\n{markdown_table(headings, rows)}\n"


def _digits(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _share(table: Table, name: str) -> str:
    whole, content = table.of_limit(name), table.of_limit(name, content=True)
    if whole is None:
        return "-"
    return f"{whole:.0%}" + ("" if content is None else f" ({content:.0%})")


def _fact(case: Case, name: str) -> str:
    return FACTS[name][1](case.facts[name]) if name in case.facts else "-"


@dataclass(frozen=True)
class Goal:
    """What was asked for, and what this run has to say."""

    text: str
    measured: float
    met: bool


ON_GPU_S = {
    "predict/8x2/head/256/2/10": 0.12,
    "predict/8x2/head/256/50/10": 0.4,
    "predict/16x4/head/256/2/10": 0.3,
    "predict/kwyk/head/256/50/10": 8.0,
    "train/16x4/128": 0.014,
    "scan": 2.0,
}
"""Most seconds that our fastest row may take on a GPU of the H100's kind."""
OVER_MONAI = {"predict/16x4/head/256/2/10": 4.5, "predict/8x2/head/256/50/10": 3.0}
"""How many times as fast as MONAI in bfloat16 ours is to be there."""


def _ours(table: Table) -> dict[str, Case]:
    """Our rows of a table, but for the plain network's."""
    return {
        row: case
        for row, case in table.cases.items()
        if row.startswith("nobrainer") and not row.startswith(PLAIN_VNET)
    }


def goals(tables: Sequence[Table], device: torch.device) -> list[Goal]:
    """The goals whose tables this run has."""
    by_key = {table.key: table for table in tables}
    found: list[Goal] = []

    def least(text: str, value: float, bound: float) -> None:
        found.append(Goal(f"{text}: at least {bound:g}", value, value >= bound))

    def most(text: str, value: float, bound: float) -> None:
        found.append(Goal(f"{text}: at most {bound:g}", value, value <= bound))

    for key, bound in (
        ("predict/8x2/head/256/2/10", 0.25),
        ("predict/16x4/head/256/2/3", 0.5),
    ):
        if table := by_key.get(key):
            of_limit = table.of_limit(table.reference) or 0.0
            least(f"{table.title}: share of the limit", of_limit, bound)
    if table := by_key.get("predict/8x2/head/256/2/10"):
        peer = min(table.ratio(row) for row in (PLAIN, REDRAWN))
        least(f"{table.title}: times as fast as MONAI in float32", peer, 8)
    if device.type == "cuda":
        for key, bound in ON_GPU_S.items():
            if table := by_key.get(key):
                fastest = min(case.median for case in _ours(table).values())
                most(f"{table.title}: s", fastest, bound)
        for key, bound in OVER_MONAI.items():
            if (table := by_key.get(key)) and HALVED in table.cases:
                peer = table.ratio(HALVED)
                least(f"{table.title}: times as fast as {HALVED}", peer, bound)
    if (table := by_key.get("memory")) and "256³" in table.title:
        for n_classes, bound in ((2, 1.5 * 1024), (50, 4 * 1024)):
            few, many = (
                max(
                    case.facts["peak_mib"]
                    for name, case in table.cases.items()
                    if name.startswith("nobrainer")
                    and name.endswith(f" {n_classes} classes, {n} draws")
                )
                for n in (2, 20)
            )
            most(f"Peak memory, 256³, {n_classes} classes, MiB", max(few, many), bound)
            most(f"Peak memory, {n_classes} classes, 20 over 2 draws", many / few, 1.05)
    for key, table in by_key.items():
        if table.section == "train":
            for mode in MODES.values():
                bayesian, plain = f"{OURS}, {mode}", f"{PLAIN_VNET}, {mode}"
                if bayesian in table.cases:
                    text = f"{table.title}, {mode}: time / vnet's"
                    most(text, table.ratio(bayesian, plain), 1.3)
                for row in table.cases:
                    if row.startswith("bayesian-torch") and row.endswith(mode):
                        text = f"{table.title}: times as fast as {row}"
                        least(text, table.ratio(row, bayesian), 2)
        if table.section == "data":
            for row, case in _ours(table).items():
                share = case.facts["wait_share"]
                most(f"{table.title}, {row}: share of waiting", share, 0.05)
        if key.startswith("growth"):
            slope = exponent(table)[0]
            most(f"{table.title}: exponent", slope, 1.05)
    for dtype in ("float32", "bfloat16"):
        for n_classes, bound_mib in ((33, 1.5 * 1024), (50, 1.7 * 1024)):
            if table := by_key.get(f"builds/8x2/256/{n_classes}/10/{dtype}"):
                least(f"{table.title}: the other build / this", table.ratio(OTHER), 2.5)
                here = table.cases[THIS].facts["peak_mib"]
                most(f"{table.title}: peak, MiB", here, bound_mib)
        two, many = (by_key.get(f"builds/8x4/256/{n}/1/{dtype}") for n in (2, 33))
        if two and many:
            times = many.cases[THIS].median / two.cases[THIS].median
            most(f"{many.title}: times those of 2 classes", times, 1.3)
    if table := by_key.get("builds/small/256"):
        share = table.ratio(THIS, OTHER)
        most(f"{table.title}: share of the other build's", share, 0.7)
    if table := by_key.get("builds/brain/256"):
        facts = table.cases[THIS].facts
        most(f"{table.title}: seconds on the clock", facts["wall_s"], 60)
        most(f"{table.title}: peak, MiB", facts["peak_mib"], 2048)
    if table := by_key.get("startup"):
        for row, bound in (("import nobrainer", 0.5), ("nobrainer --help", 1)):
            most(f"{row}, s", table.cases[row].median, bound)
    return found


def goals_as_markdown(found: Sequence[Goal]) -> str:
    """A table of goals; nothing where this run has the figures of none."""
    if not found:
        return ""
    rows = [
        (goal.text, _digits(goal.measured), "yes" if goal.met else "NO")
        for goal in found
    ]
    return f"## Goals\n\n{markdown_table(('goal', 'measured', 'met'), rows)}\n"


def as_text(
    tables: Sequence[Table], machine: Mapping[str, Any], found: Sequence[Goal]
) -> str:
    """The whole report in Markdown."""
    parts = ["# Speed\n"]
    parts.append("\n".join(f"- {k}: {v}" for k, v in machine.items()) + "\n")
    parts.append(goals_as_markdown(found))
    section = ""
    for table in tables:
        if table.section != section:
            section = table.section
            parts.append(f"## {section}\n")
        parts.append(as_markdown(table))
    return "\n".join(parts)
