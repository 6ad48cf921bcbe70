"""How much memory and time a run will take, learned from the runs before it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from nobrainer.research.journal import Row, Size

PROCESS_BYTES, BYTES_PER_ACTIVATION, BYTES_PER_PARAMETER = 7.2e8, 4.7, 45.0
"""The parts of the peak of memory, as long as the rows do not say better.

Measured for trainings of bayesian_vnet with 4 to 32 filters on 2 to 4 levels (CPU,
float32, Adam). A parameter takes more than its four bytes: its gradient, Adam's two
averages, the drawn weight and the graph of its KL.
"""
_NOISE = 0.1
"""Expected relative error of a measured row."""
_DOUBT = 0.5
"""Expected relative error of the slopes that are assumed before any row."""


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to take; None for what no row has measured yet.

    memory_bytes: peak of main memory, in bytes.
    step_s: seconds for one step of the optimiser.
    judge_s: seconds for judging the run on all scans and draws.
    """

    memory_bytes: float | None
    step_s: float | None
    judge_s: float | None


def forecast(rows: Iterable[Row], size: Size) -> Forecast | None:
    """Predict what a run of this size will take, from the rows of earlier runs.

    Three linear laws are fitted. The peak of memory is a base plus slopes times the
    activations and the parameters; the seconds of a step, and those of judging, are
    each a base plus a slope times the operations. The fits minimise relative errors,
    with no part below 0, and pull the slopes towards assumed ones: the constants above
    for memory, the median of the rows for time. So a single row tells the base of
    memory or the speed of the machine, and many rows overrule the assumptions.

    A run that did not end well used at least the memory that was seen.

    Args:
        rows: rows of a study; those without sizes or measured figures are ignored.
        size: size of the run to come.

    Returns: the forecast; None before any row has measured anything.
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
    """Say in a sentence why a run should not start; None where it may.

    Args:
        forecast: what the run is expected to take; None says nothing.
        memory_bytes: bytes of main memory that it may use; None for no limit.
        seconds: seconds that are left for training and judging; None for no limit.
        train_s: seconds after which its training is ended; None where `n_steps` ends
            it.
        n_steps: most steps of the optimiser, over all members of an ensemble; None
            where the time ends its training.
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
    # Training looks at the clock after each step, so it takes one at least.
    training = max(step_s, min(ends, default=0.0))
    if training + judging <= seconds:
        return None
    return (
        f"it would take about {training + judging:.0f} s, {training:.0f} of training "
        f"and {judging:.0f} of judging: {seconds:.0f} s are left"
    )


Features = tuple[float, ...]
"""The quantities in which a law is linear."""
Measured = Sequence[tuple[Features, float]]
"""For each row, its features and the figure that was measured."""


def _held(size: Size) -> Features:
    """Bytes of memory for each part of a run, by the assumed constants."""
    return (
        PROCESS_BYTES,
        BYTES_PER_ACTIVATION * size.activations,
        BYTES_PER_PARAMETER * size.parameters,
    )


def _step_s(figures: Mapping[str, float]) -> float:
    """Measured seconds of one step; 0 where they were not measured."""
    n_steps = figures.get("steps", 0.0)
    return figures.get("train_s", 0.0) / n_steps if n_steps > 0 else 0.0


def _predict_time(measured: Sequence[tuple[float, float]], flop: float) -> float | None:
    """Predict the seconds for some operations from (operations, seconds) of rows."""
    points = _usable([((x,), y) for x, y in measured if x > 0])
    if not points:
        return None
    speed = float(np.median([y / x for (x,), y in points]))
    return _predict([((speed * x,), y) for (x,), y in points], (speed * flop,))


def _predict(
    measured: Measured, at: Features, *, at_least: Measured = ()
) -> float | None:
    """Fit a law whose slopes should be near 1 and evaluate it; None without rows.

    Args:
        measured: features and measured values that the law is fitted to.
        at: features at which it is evaluated.
        at_least: features and values where the true value is this or more.
    """
    points, bounds = _usable(measured), _usable(at_least)
    if not points:
        return None
    # A run takes at least as much as one that is smaller in every feature.
    least = [y for x, y in bounds if all(np.less_equal(x, at))]
    while True:
        law = _fit(points)
        above = [(x, y) for x, y in bounds if law @ (1.0, *x) < y]
        if not above:
            return max([float(law @ (1.0, *at)), *least])
        # The law is below these bounds: from here on they count as measured values.
        points = points + above
        bounds = [bound for bound in bounds if bound not in above]


def _usable(rows: Measured) -> list[tuple[Features, float]]:
    return [
        (x, float(y)) for x, y in rows if y > 0 and all(map(math.isfinite, (*x, y)))
    ]


def _fit(points: Measured) -> np.ndarray:
    """Fit the base and the slopes of a law, all of them at least 0.

    The estimate is the maximum a posteriori with Gaussian errors: of the measured
    values relative to them (`_NOISE`), of the slopes around 1 (`_DOUBT`). Every base is
    equally likely.
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
