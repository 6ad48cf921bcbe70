"""A study with every kind of run, as its rows and as a snapshot."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from nobrainer.research.journal import STATES, Row
from nobrainer.research.judge import Difference, judge
from nobrainer.research.records import FinalResult, Settings, Snapshot

SETTINGS = Settings(
    family="bayesian_vnet",
    space="",
    objectives=("dice",),
    proposer="tpe",
    pruner="asha",
    seed=0,
    train_minutes=20.0,
    epochs=100,
    n_draws=3,
    n_classes=2,
    binarize=True,
    relabel=None,
    n_train=6,
    n_validate=2,
    n_test=2,
    started="2026-01-01T20:00:00+00:00",
    versions={},
)
DEFAULTS = {"base_filters": 16, "learning_rate": 0.001, "block_shape": "32x32x32"}
CHAMPION, RUNNING = 3, 29
FAILED = [state for state in STATES if state not in ("running", "done")]
TEST = FinalResult(
    CHAMPION,
    0,
    "2026-01-02T04:00:00+00:00",
    {
        "champion": {"dice": 0.94, "nll": 0.03, "aurc": 0.008},
        "baseline": {"dice": 0.91, "nll": 0.05, "aurc": 0.012},
    },
    {"champion": {"a": 0.94, "b": 0.94}, "baseline": {"a": 0.90, "b": 0.92}},
    Difference(0.03, 0.02, 0.04, 2),
)


def row(number: int, dice: float | None = None, **others: object) -> Row:
    """A proposal that is done with this Dice, or as the others say."""
    values = DEFAULTS | {"base_filters": 32, "learning_rate": 0.0001 * number}
    plain = Row(number, "proposal", number, values, 0, "tpe", seconds=60.0 * number)
    if dice is not None:
        figures = {"dice": dice, "nll": 0.05 - dice / 100, "aurc": 0.01}
        plain = replace(
            plain, state="done", figures=figures, peak_memory_bytes=1_500_000_000
        )
    return replace(plain, **others)


def study_rows(n_rows: int = 30) -> list[Row]:
    """Baseline and repeat, a champion and its repeat, all ways to fail, one running."""
    rows = [
        row(0, 0.900, role="baseline", values=DEFAULTS, proposer="default"),
        row(1, 0.904, role="repeat", of=0, values=DEFAULTS, seed=1),
        row(2, 0.880),
        row(CHAMPION, 0.930, values=DEFAULTS | {"kl_weight": 1e-3}),
        row(4, 0.932, role="repeat", of=CHAMPION, seed=1),
        *(
            row(5 + i, state=state, reason=f"{state} is why\x1b[31m\nand more")
            for i, state in enumerate(FAILED)
        ),
    ]
    rows += [row(n, 0.8 + n / 10_000) for n in range(len(rows), n_rows - 1)]
    started = datetime.now(UTC) - timedelta(seconds=754)
    curve = ((0.1, 0.61), (0.45, 0.851))
    return [*rows, row(n_rows - 1, curve=curve, started=started.isoformat())]


def snapshot(n_rows: int = 30, **others: object) -> Snapshot:
    rows = tuple(study_rows(n_rows))
    whole = Snapshot(SETTINGS, rows, judge(rows, ("dice",)), 18732.0, n_rows + 5)
    return replace(whole, **others)
