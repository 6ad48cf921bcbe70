"""Timing in turns, and the tables that hold what was measured."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

K = TypeVar("K")
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    `other` is the folder `src` of another build, which this one is compared with.
    """

    device: torch.device
    threads: int
    repeats: int
    quick: bool
    bfloat16: bool
    other: Path | None = None

    @property
    def few(self) -> int:
        """Repeats of what takes long."""
        return (self.repeats + 1) // 2

    @property
    def dtypes(self) -> list[torch.dtype]:
        """Number formats that this machine has instructions for, the fastest last."""
        return [torch.float32, *([torch.bfloat16] if self.bfloat16 else [])]


@dataclass(frozen=True)
class Work:
    """What a calculation cannot do without."""

    flop: float
    bytes: float
    dtype: torch.dtype

    def times(self, factor: float) -> "Work":
        """The same work so many times over."""
        return Work(self.flop * factor, self.bytes * factor, self.dtype)


@dataclass(frozen=True)
class Rates:
    """The best that was measured around a table."""

    flop_per_s: dict[torch.dtype, float]
    bytes_per_s: float

    def seconds(self, work: Work) -> float:
        """The least time for `work`."""
        flop = work.flop / self.flop_per_s[work.dtype]
        return max(flop, work.bytes / self.bytes_per_s)


@dataclass(frozen=True)
class Case:
    """One row: `amount` units of work in each of `samples` seconds.

    `work` is all of it and `content` that of the image's content; `facts` are other
    figures of the row.
    """

    samples: Sequence[float]
    amount: float = 1.0
    work: Work | None = None
    content: Work | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.samples)


@dataclass(frozen=True)
class Table:
    """What was measured in turns, so that the rows can be compared.

    `key` names its setting, `unit` that of the cases' amount per second (empty: none),
    `reference` the row that the others' times are divided by.
    """

    section: str
    key: str
    title: str
    unit: str
    reference: str
    cases: dict[str, Case]
    rates: Rates | None = None

    def ratio(self, name: str, reference: str = "") -> float:
        """Median over the rounds of the time of `name` over that of `reference`."""
        rows = self.cases[name], self.cases[reference or self.reference]
        pairs = zip(*(row.samples for row in rows), strict=True)
        return statistics.median(a / b for a, b in pairs)

    def of_limit(self, name: str, *, content: bool = False) -> float | None:
        """The least time that the machine allows over the median time."""
        case = self.cases[name]
        work = case.content if content else case.work
        if work is None or self.rates is None:
            return None
        return self.rates.seconds(work) / case.median

    def as_json(self) -> dict[str, Any]:
        """Everything, raw samples too."""
        rows = []
        for name, case in self.cases.items():
            low, high = np.percentile(case.samples, [25, 75])
            row = {
                "case": name,
                "seconds": list(case.samples),
                "median_s": case.median,
                "min_s": min(case.samples),
                "max_s": max(case.samples),
                "iqr_s": float(high - low),
                "time_over_reference": self.ratio(name),
                **case.facts,
            }
            if self.unit:
                row[self.unit] = case.amount / case.median
            if case.work is not None:
                row["flop"], row["bytes"] = case.work.flop, case.work.bytes
                row["of_limit"] = self.of_limit(name)
                row["of_limit_content"] = self.of_limit(name, content=True)
            rows.append(row)
        return {
            "section": self.section,
            "key": self.key,
            "title": self.title,
            "reference": self.reference,
            "rates": self.rates
            and {
                "bytes_per_s": self.rates.bytes_per_s,
                "flop_per_s": {
                    str(k).removeprefix("torch."): v
                    for k, v in self.rates.flop_per_s.items()
                },
            },
            "rows": rows,
        }


def synchronise(device: torch.device) -> None:
    """Wait for what a GPU still does."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time of one call."""
    synchronise(device)
    started = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - started


def alternate(
    cases: Mapping[K, Callable[[], float]], repeats: int
) -> dict[K, list[float]]:
    """Let cases, which return their seconds, take turns: there and back again."""
    samples: dict[K, list[float]] = {name: [] for name in cases}
    for number in range(repeats):
        names = list(cases)
        for name in reversed(names) if number % 2 else names:
            samples[name].append(cases[name]())
    return samples
