"""What a run will take of memory and time, learned from the runs that were done."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from nobrainer.research.journal import Row, Size

PROCESS_BYTES, BYTES_PER_ACTIVATION, BYTES_PER_PARAMETER = 7.2e8, 4.7, 45.0
"""What the peak of memory is made of, before the rows tell better figures.

Measured for trainings of bayesian_vnet with 4 to 32 filters on 2 to 4 levels (CPU,
float32, Adam). A parameter takes more than its four bytes: its gradient, Adam's two
averages, the drawn weight and the graph of its KL.
"""
_NOISE = 0.1
"""Expected relative error of a measured row."""
_DOUBT = 0.5
"""Expected relative error of the slopes that are assumed."""


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to take; None for what no row has measured yet.

    memory_bytes: at its peak.
    step_s: seconds of one step of the optimiser.
    judge_s: seconds of judging it on all scans and draws.
    """

    memory_bytes: float | None
    step_s: float | None
    judge_s: float | None


def forecast(rows: Iterable[Row], size: Size) -> Forecast | None:
    """What a run of this size will take, learned from the rows; None before any.

    The peak of memory is a base and slopes times activations and parameters; the
    seconds of a step, and of judging, are a base and a slope times the operations.
    Each law is fitted to relative errors, with no part below 0 and the slopes drawn to
    what is assumed: of memory the figures above, of time the median of the rows. So
    one row tells the base of memory or the speed of the machine, and many rows
    overrule what is assumed.

    Runs that did not end well used at least the memory that was seen.

    Args:
        rows: rows of a study; those without sizes or measured figures teach nothing.
        size: size of the run to come.
    """
    sized = [(row, row.size) for row in rows if row.size is not None]
    done = [(row, found) for row, found in sized if row.state == "done"]
    memory = _predict(
        [(_held(found), row.peak_memory_bytes) for row, found in done],
        _held(size),
        at_least=[
            (_held(found), row.peak_memory_bytes)
            for row, found in sized
            if row.state not in ("done", "running")
        ],
    )
    step_s = _predict_time(
        [(found.step_flop, _step_s(row.figures)) for row, found in done],
        size.step_flop,
    )
    judge_s = _predict_time(
        [(found.judge_flop, row.figures.get("judge_s", 0.0)) for row, found in done],
        size.judge_flop,
    )
    if memory is step_s is judge_s is None:
        return None
    return Forecast(memory, step_s, judge_s)


def why_not(
    forecast: Forecast | None,
    *,
    memory_bytes: int | None,
    seconds: float | None,
    train_s: float | None,
    n_steps: int | None,
) -> str | None:
    """Why a run should not start, in words; None where nothing speaks against it.

    Args:
        forecast: what the run is expected to take; None says nothing.
        memory_bytes: that it may use; None for no limit.
        seconds: that are left for training and judging; None for no limit.
        train_s: at which its training is ended; None where its steps end it.
        n_steps: most steps of the optimiser, those of all members of an ensemble.
    """
    if forecast is None:
        return None
    needs = forecast.memory_bytes
    if needs is not None and memory_bytes is not None and needs > memory_bytes:
        return (
            f"it would use about {needs / 1e9:.1f} GB of memory, "
            f"{memory_bytes / 1e9:.1f} GB are allowed"
        )
    if seconds is None:
        return None
    step_s, judging = forecast.step_s or 0.0, forecast.judge_s or 0.0
    ends = [] if train_s is None else [train_s]
    if n_steps is not None and forecast.step_s is not None:
        ends.append(step_s * n_steps)
    # Training looks at the clock after each step.
    training = max(step_s, min(ends, default=0.0))
    if training + judging <= seconds:
        return None
    return (
        f"it would take about {training + judging:.0f} s, {training:.0f} of training "
        f"and {judging:.0f} of judging: {seconds:.0f} s are left"
    )


Features = tuple[float, ...]
"""What a law is linear in."""
Measured = Sequence[tuple[Features, float]]
"""Features of rows, and what was measured."""


def _held(size: Size) -> Features:
    """Bytes of memory by the default figures."""
    return (
        PROCESS_BYTES,
        BYTES_PER_ACTIVATION * size.activations,
        BYTES_PER_PARAMETER * size.parameters,
    )


def _step_s(figures: Mapping[str, float]) -> float:
    """Measured seconds of a step; 0 where that was not measured."""
    n_steps = figures.get("steps", 0.0)
    return figures.get("train_s", 0.0) / n_steps if n_steps > 0 else 0.0


def _predict_time(measured: Sequence[tuple[float, float]], flop: float) -> float | None:
    """Seconds for some operations, from (operations, seconds) of rows."""
    points = _usable([((x,), y) for x, y in measured if x > 0])
    if not points:
        return None
    speed = float(np.median([y / x for (x,), y in points]))
    return _predict([((speed * x,), y) for (x,), y in points], (speed * flop,))


def _predict(
    measured: Measured, at: Features, *, at_least: Measured = ()
) -> float | None:
    """A law's value `at` some features whose slopes should be 1; None without rows.

    Args:
        measured: what the law is fitted to.
        at_least: the same, where the value may be more.
    """
    points, bounds = _usable(measured), _usable(at_least)
    if not points:
        return None
    # Nothing takes less than what is smaller in everything.
    least = [y for x, y in bounds if all(np.less_equal(x, at))]
    while True:
        law = _fit(points)
        above = [(x, y) for x, y in bounds if law @ (1.0, *x) < y]
        if not above:
            return max([float(law @ (1.0, *at)), *least])
        # What was seen of them is the best guess.
        points = points + above
        bounds = [bound for bound in bounds if bound not in above]


def _usable(rows: Measured) -> list[tuple[Features, float]]:
    return [
        (x, float(y)) for x, y in rows if y > 0 and all(map(math.isfinite, (*x, y)))
    ]


def _fit(points: Measured) -> np.ndarray:
    """Base and slopes, all >= 0.

    Maximum a posteriori with Gaussian errors: `_NOISE` of the measured values, `_DOUBT`
    of the slopes, which should be 1; any base is as likely.
    """
    x = np.array([features for features, _ in points])
    y = np.array([value for _, value in points])
    # In this unit, no unknown is tiny or huge.
    base = y.mean()
    rows = np.column_stack([np.full(len(x), base), x]) / (_NOISE * y)[:, None]
    assumed = np.eye(x.shape[1] + 1)[1:] / _DOUBT
    law, _ = nnls(
        np.vstack([rows, assumed]),
        np.concatenate([np.full(len(y), 1 / _NOISE), assumed.sum(1)]),
    )
    law[0] *= base
    return law
