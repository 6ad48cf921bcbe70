"""What a run will take: laws that are learned from rows."""

import math
import re
from functools import cache
from typing import Any

import pytest

from nobrainer.research.forecast import Forecast, forecast, why_not
from nobrainer.research.journal import Row, Size
from nobrainer.research.size import count_size


def count(model: str = "bayesian_vnet", /, **args: Any) -> Size:
    """The size of a training that is judged on one scan with two draws."""
    shapes = {"block_shape": (32, 32, 32), "judge_shapes": [(96, 108, 120)]}
    return count_size(model, args, n_classes=2, batch_size=2, n_draws=2, **shapes)


def row(size: Size | None, peak: float = 0, state: str = "done", **figures: Any) -> Row:
    return Row(
        number=1,
        role="proposal",
        of=1,
        values={},
        seed=0,
        proposer="tpe",
        state=state,
        figures=figures,
        size=size,
        peak_memory_bytes=peak,  # type: ignore[arg-type]
    )


GIB = 2**30


@cache
def sizes() -> list[Size]:
    """Of twelve networks, counted when a test first asks for them."""
    return [
        count(base_filters=filters, levels=levels)
        for filters in (4, 8, 16, 32)
        for levels in (2, 3, 4)
    ]


def planted(size: Size, base: float = 0.8e9, a: float = 3.0, b: float = 60.0) -> float:
    return base + a * size.activations + b * size.parameters


def test_nothing_is_said_before_anything_is_measured() -> None:
    size = sizes()[0]
    assert forecast([], size) is None
    assert forecast([row(None, peak=1e9), row(size, state="running")], size) is None
    assert forecast([row(size, peak=1e9, state="memory")], size) is None


def test_a_planted_law_of_memory_is_found() -> None:
    rows = [row(size, planted(size)) for size in sizes()[:9]]
    for size in sizes():
        found = forecast(rows, size)
        assert found is not None
        assert found.memory_bytes == pytest.approx(planted(size), rel=0.1)
        assert found.step_s is None and found.judge_s is None


def test_one_row_tells_the_base_of_memory() -> None:
    default = count(base_filters=16, levels=4)
    own = planted(default, 2e9, 4.7, 45.0)
    for size in sizes():
        found = forecast([row(default, own)], size)
        assert found is not None
        assert found.memory_bytes == pytest.approx(planted(size, 2e9, 4.7, 45.0), 0.02)


def test_measured_peaks_of_larger_networks_are_forecast() -> None:
    # GB that trainings with 32³ blocks used, judged on a scan of 96 x 108 x 120
    # voxels (2 cores, PyTorch 2.13).
    measured = {
        (4, 2): 0.781,
        (4, 3): 0.825,
        (4, 4): 0.859,
        (16, 2): 0.830,
        (16, 3): 0.980,
        (16, 4): 1.202,
        (32, 3): 1.252,
        (32, 4): 1.668,
    }
    peaks = {
        names: (count(base_filters=names[0], levels=names[1]), 1e9 * peak)
        for names, peak in measured.items()
    }
    small = [row(*peaks[names]) for names in peaks if names[0] == 4]
    default = [row(*peaks[16, 4])]
    for rows in (small, default):
        for size, peak in peaks.values():
            found = forecast(rows, size)
            assert found is not None and found.memory_bytes is not None
            assert 1 / 1.3 < found.memory_bytes / peak < 1.3


def test_larger_networks_are_forecast_to_take_more() -> None:
    middle = count(base_filters=8, levels=3)
    figures = {"train_s": 60.0, "steps": 100.0, "judge_s": 10.0}
    rows = [row(middle, 1e9, **figures)]
    small, large = (forecast(rows, count(base_filters=f, levels=3)) for f in (4, 32))
    assert small is not None and large is not None
    for name in ("memory_bytes", "step_s", "judge_s"):
        assert getattr(small, name) < getattr(large, name)
    same = forecast(rows, middle)
    assert same is not None
    assert same.step_s == pytest.approx(0.6)
    assert same.judge_s == pytest.approx(10.0)


def test_a_planted_law_of_time_is_found() -> None:
    def seconds(flop: float) -> float:
        return 0.5 + 2e-11 * flop

    rows = [
        row(
            size,
            train_s=100 * seconds(size.step_flop),
            steps=100,
            judge_s=seconds(size.judge_flop),
        )
        for size in sizes()
    ]
    for size in sizes():
        found = forecast(rows, size)
        assert found is not None and found.memory_bytes is None
        assert found.step_s == pytest.approx(seconds(size.step_flop), rel=0.1)
        assert found.judge_s == pytest.approx(seconds(size.judge_flop), rel=0.1)


def test_a_run_that_was_ended_for_its_memory_teaches() -> None:
    default, large = count(base_filters=16, levels=3), count(base_filters=32, levels=4)
    done = [row(default, 1.5e9)]
    # Less than what is forecast anyway teaches nothing; more does.
    before = forecast(done, large)
    pruned = forecast([*done, row(large, 1e9, state="pruned")], large)
    ended = forecast([*done, row(large, 9e9, state="memory")], large)
    assert before is not None and before.memory_bytes is not None
    assert before == pruned
    assert before.memory_bytes < 6e9
    assert ended is not None and ended.memory_bytes is not None
    assert ended.memory_bytes >= 9e9
    # So do its like, though they are smaller.
    like = count(base_filters=32, levels=3)
    known, learned = (
        forecast(rows, like)
        for rows in (done, [*done, row(large, 9e9, state="memory")])
    )
    assert known is not None and known.memory_bytes is not None
    assert learned is not None and learned.memory_bytes is not None
    assert 1.1 * known.memory_bytes < learned.memory_bytes < 9e9


def test_odd_rows_do_no_harm() -> None:
    size = sizes()[4]
    good = row(size, 1e9, train_s=60.0, steps=100.0, judge_s=10.0)
    odd = [
        row(size),
        row(None, 1e9, train_s=1.0, steps=1.0),
        row(size, -5),
        row(size, train_s=1.0, steps=0.0, judge_s=0.0),
        row(size, train_s=math.nan, steps=3.0, judge_s=math.inf),
        row(Size(0, 0, 0.0, 0.0), train_s=1.0, steps=3.0, judge_s=2.0),
        row(size, 1e9, state="running"),
        row(size, 0, state="crash"),
        row(size, 0, state="skipped"),
    ]
    assert forecast(odd, size) is None
    assert forecast([*odd, good], size) == forecast([good], size)
    # The same run many times, or one of no size, still gives a figure.
    many = forecast([good] * 50 + [row(Size(0, 0, 0.0, 0.0), 5e8)], size)
    assert many is not None
    assert many.memory_bytes == pytest.approx(1e9, rel=0.05)


# --- decisions


def test_a_planted_oversize_is_refused_with_its_numbers() -> None:
    rows = [row(size, planted(size)) for size in sizes()[:6]]
    small, large = forecast(rows, sizes()[0]), forecast(rows, sizes()[-1])
    limits: dict[str, Any] = {"seconds": None, "train_s": None, "n_steps": None}
    assert why_not(small, memory_bytes=GIB, **limits) is None
    reason = why_not(large, memory_bytes=GIB, **limits)
    assert reason is not None
    told = re.fullmatch(
        r"it would use about (.*) GB of memory, 1\.1 GB are allowed", reason
    )
    assert told is not None
    assert float(told[1]) == pytest.approx(planted(sizes()[-1]) / 1e9, rel=0.1)
    assert why_not(large, memory_bytes=None, **limits) is None
    assert why_not(None, memory_bytes=1, **limits) is None


@pytest.mark.parametrize(
    ("seconds", "train_s", "n_steps", "fits"),
    [
        (None, None, 10**9, True),
        (129, None, 200, False),  # 100 s of training, 30 of judging
        (131, None, 200, True),
        (91, 60.0, 10**9, True),
        (89, 60.0, 10**9, False),
        (41, 60.0, 20, True),  # its steps end it before its minutes
        (39, 60.0, 20, False),
        (30.4, 0.1, 10**9, False),  # one step is the least
        (29, None, None, False),
        (31, None, None, True),
    ],
)
def test_training_and_judging_must_fit(
    seconds: float | None, train_s: float | None, n_steps: int | None, fits: bool
) -> None:
    cast = Forecast(memory_bytes=None, step_s=0.5, judge_s=30.0)
    reason = why_not(
        cast, memory_bytes=1, seconds=seconds, train_s=train_s, n_steps=n_steps
    )
    assert (reason is None) == fits
    if reason is not None:
        assert "30 of judging" in reason and f"{seconds:.0f} s are left" in reason


def test_minutes_bound_a_training_whose_steps_were_not_measured() -> None:
    cast = Forecast(memory_bytes=1e9, step_s=None, judge_s=None)
    limits: dict[str, Any] = {"memory_bytes": None, "train_s": 60.0, "n_steps": 5}
    assert why_not(cast, seconds=61, **limits) is None
    assert why_not(cast, seconds=59, **limits) is not None
