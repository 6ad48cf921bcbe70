"""The report of a study: its numbers, at every stage, in a browser."""

import math
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from html_pages import BROWSER, DASH, Page, measure
from nobrainer.errors import InputError
from nobrainer.research.journal import Row
from nobrainer.research.judge import Difference, bootstrap_difference, judge
from nobrainer.research.ranges import Choice
from nobrainer.research.records import FinalResult, Settings, Snapshot
from nobrainer.research.report.history import draw_history, find_reigns
from nobrainer.research.report.page import write_study
from nobrainer.research.report.tradeoffs import pareto_front
from nobrainer.research.space import Space, family_space

SPACE = family_space("bayesian_vnet")
SETTINGS = Settings(
    family="bayesian_vnet", space=SPACE.to_toml(), objectives=("dice",),
    proposer="tpe", pruner="asha", seed=7, train_minutes=12.5, epochs=1000, n_draws=5,
    n_classes=2, binarize=True, relabel=None, n_train=24, n_validate=8, n_test=12,
    started="2024-01-01T20:00:00+00:00", versions={"nobrainer": "9.8.7"},
)  # fmt: skip
REASONS = {
    "memory": "used more than 6.0 GB",
    "diverged": "the loss of step 41 is nan",
    "timeout": "took longer than 25 min",
    "crash": "RuntimeError: <script>alert(1)</script>",
    "refused": "levels must divide the block",
    "skipped": "predicted 9.1 GB of memory, 6.0 GB are allowed",
    "lost": "its worker was killed",
    "pruned": "worse than the best third at 25 %",
}


def row(number: int, dice: float | None = None, **others: Any) -> Row:
    """A run of 6 minutes that reached this Dice."""
    role = "proposal" if number else "baseline"
    values = SPACE.defaults() | ({"kl_weight": 1e-3, "levels": 3} if number else {})
    known: dict[str, Any] = {
        "number": number, "role": role, "of": number, "values": values, "seed": number,
        "proposer": "tpe" if number else "default", "seconds": 360.0,
        "peak_memory_bytes": 1_250_000_000, "started": "2024-01-01T20:00:00+00:00",
    }  # fmt: skip
    if dice is not None:
        known |= {
            "state": "done",
            "figures": {"dice": dice, "nll": 1 - dice, "aurc": (1 - dice) / 10},
            "curve": ((0.5, dice - 0.1), (1.0, dice)),
        }
    return Row(**(known | others))


def repeat(number: int, of: int, dice: float) -> Row:
    return row(number, dice, role="repeat", of=of)


def stand(rows: Sequence[Row], **others: Any) -> Snapshot:
    settings = replace(SETTINGS, **others)
    return Snapshot(settings, tuple(rows), judge(rows, settings.objectives))


def search(n_rows: int = 30, seed: int = 0, **others: Any) -> Snapshot:
    """A study as it may come out: a good region, failures of every kind, repeats."""
    rng = np.random.default_rng(seed)

    def train(number: int, values: dict[str, Any], **more: Any) -> Row:
        lr, kl = values["learning_rate"], values.get("kl_weight", 1e-4)
        best = 0.80 + {8: 0.0, 16: 0.02, 32: 0.045}[values["base_filters"]]
        best -= 0.09 * (math.log10(lr) + 2.4) ** 2 + 0.01 * (math.log10(kl) + 4) ** 2
        best -= 0.3 * values["dropout_rate"] ** 2
        best += 0.01 * (values["block_shape"] == "64x64x64")
        best = float(np.clip(best + rng.normal(0, 0.006), 0.02, 1))
        at = np.linspace(0.1, 1, 10)
        dice = best * (1 - np.exp(-4 * at)) + rng.normal(0, 0.008, 10) * (1.2 - at)
        figures = {
            "dice": best,
            "nll": 0.9 * (1 - best) ** 0.8 + float(rng.normal(0, 0.01)),
            "aurc": 0.3 * (1 - best) ** 1.5 + 0.004 * float(rng.random()),
        }
        curve = tuple(zip(at.tolist(), dice.tolist(), strict=True))
        return row(
            number,
            values=values,
            state="done",
            figures=figures,
            curve=curve,
            seconds=700 + 400 * float(rng.random()),
            peak_memory_bytes=int(1e9 * (0.6 + 0.05 * values["base_filters"])),
            **more,
        )

    objectives = others.get("objectives", SETTINGS.objectives)
    rows = [train(0, SPACE.defaults())]
    fates = cycle([*REASONS, "pruned", "pruned"])
    while len(rows) < n_rows:
        number = len(rows)
        waiting = judge(rows, objectives).waiting
        if waiting:
            values = rows[waiting[0]].values
            rows.append(train(number, values, role="repeat", of=waiting[0]))
            continue
        values = {
            name: rng.choice(r.values).item()
            if hasattr(r, "values")
            else float(10 ** rng.uniform(math.log10(r.low), math.log10(r.high)))
            for name, r in SPACE.ranges.items()
        }
        found = train(number, values)
        if rng.random() < 0.45:
            state = next(fates)
            kept = {"pruned": 3, "diverged": 2, "lost": 5, "crash": 1}.get(state, 0)
            found = replace(
                found, state=state, reason=REASONS[state], figures={},
                curve=found.curve[:kept],
            )  # fmt: skip
            if state in ("refused", "skipped"):
                found = replace(found, seconds=0.0, peak_memory_bytes=0)
        elif rng.random() < 0.2:
            note = "larger network, as <b>filters</b> helped in runs 3 & 8"
            found = replace(found, proposer="llm", note=note)
        rows.append(found)
    return stand(rows, **others)


def final(champion: int, low: float, high: float, n: int = 12) -> FinalResult:
    """A test in which the champion is as much better as the interval's middle says."""
    mean = (low + high) / 2
    subjects = {f"sub-{k}": 0.7 + k / 100 for k in range(n)}
    return FinalResult(
        champion, 0, "2024-01-02T04:00:00+00:00",
        {"champion": {"dice": 0.75 + mean, "nll": 0.1234}, "baseline": {"dice": 0.75}},
        {"champion": {k: v + mean for k, v in subjects.items()}, "baseline": subjects},
        Difference(mean, low, high, n),
    )  # fmt: skip


def score(snapshot: Snapshot, gain: float = 0.02, n: int = 12) -> Snapshot:
    """The study with its test split scored."""
    rng = np.random.default_rng(1)
    old = {f"sub-{n:02d}": float(rng.normal(0.8, 0.05)) for n in range(n)}
    new = {
        name: dice + gain + float(rng.normal(0, 0.012)) for name, dice in old.items()
    }
    champion, baseline = snapshot.standing.champion, snapshot.standing.baseline
    assert champion is not None and baseline is not None
    subjects = {"champion": new, "baseline": old}
    figures = {
        role: {"dice": float(np.mean([*of.values()])), "nll": 0.2, "aurc": 0.02}
        for role, of in subjects.items()
    }
    difference = bootstrap_difference([*new.values()], [*old.values()], 0)
    found = FinalResult(
        champion, baseline, "2024-01-02T04:00:00+00:00", figures, subjects, difference
    )
    return replace(snapshot, test=found)


# Baseline 0.80 and 0.82; run 2 is confirmed by run 3; run 5 is not yet. The spread is
# that of two pairs: sqrt((0.02**2 + 0.01**2) / 2 / 2) = 0.01118.
CROWNED = (
    row(0, 0.80), repeat(1, 0, 0.82), row(2, 0.86), repeat(3, 2, 0.87),
    row(4, state="memory", reason="used more than 6.0 GB", curve=((0.25, 0.4),)),
    row(5, 0.90, proposer="llm", note="<b>more</b> filters"),
    row(6, state="running", curve=((0.1, 0.3),)),
)  # fmt: skip


def show(snapshot: Snapshot, folder: Path) -> Page:
    return Page(write_study(snapshot, folder / "report.html"))


def words(page: Page) -> str:
    return " ".join(page.text.split())


def table(page: Page, head: str) -> list[list[str]]:
    """The rows of the table whose first column has this head."""
    start = next(n for n, cells in enumerate(page.rows) if cells[0] == head)
    rows = []
    for cells in page.rows[start + 1 :]:
        if cells[0] in ("recipe", "run", "state"):
            break
        rows.append(cells)
    return rows


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    return write_study(score(search()), folder / "full.html")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    snapshot = score(search(12, 1, objectives=("dice", "nll", "aurc")), gain=0.0)
    return write_study(snapshot, tmp_path_factory.mktemp("several") / "several.html")


def test_the_summary_says_what_was_found(tmp_path: Path) -> None:
    page = show(stand(CROWNED), tmp_path)
    text = words(page)
    assert (
        "Run 2 is better than the default recipe on the validation split; the test "
        "split has not been asked yet." in text
    )
    # Without repeats and what is under way: 0, 2, 5 and the failed 4; 6 runs of 6 min.
    assert "4 recipes were tried in 36 min" in text
    assert "3 trained to the end, 1 failed." in text
    assert "2 more trainings with another seed" in text
    # 0.055 / 0.01118 = 4.9
    assert (
        "reaches Dice 0.865 against the baseline's 0.810, 0.055 better (4.9 times the "
        "spread between seeds, 0.0112)" in text
    )
    assert "Run 5 may be better still; a repeat with another seed must" in text
    assert "The locked test split (12 subjects) is not scored yet" in text
    assert "pooled over champion and baseline" in text
    assert page.row("Dice") == ["Dice", "0.865", "0.810", "0.0112"]
    assert page.row("NLL (nats)") == ["NLL (nats)", "0.1350", "0.1900", DASH]


def test_tables_have_the_numbers(tmp_path: Path) -> None:
    page = show(stand(CROWNED), tmp_path)
    recipes = table(page, "recipe")
    assert [cells[:3] for cells in recipes] == [
        ["run 5", "0.900", "awaits a repeat"],
        ["run 2", "0.865", "champion"],
        ["run 0", "0.810", "beaten by 2"],
        ["run 4", DASH, "memory"],
        ["run 6", DASH, "running"],
    ]
    assert recipes[1][3:] == [
        "16", "3", "standard_normal", "0.001", "0", "0.003", "32x32x32",
    ]  # fmt: skip
    runs = table(page, "run")
    assert [cells[0] for cells in runs] == [
        "0 baseline", "1 repeat of 0", "2 proposal", "3 repeat of 2", "4 proposal",
        "5 proposal", "6 proposal",
    ]  # fmt: skip
    assert runs[3] == [
        "3 repeat of 2", "0.870", "0.1300", "0.0130", "done", "6.0", "1.25", "tpe",
        DASH,
    ]  # fmt: skip
    assert runs[4][-1] == "used more than 6.0 GB"
    assert runs[5][-1] == "<b>more</b> filters"
    assert page.row("levels") == ["levels", "3", "4", "yes"]
    assert page.row("base_filters") == ["base_filters", "16", "16", "no"]
    assert page.row("kl_weight")[1:] == ["0.001", "default, not in the space", "yes"]
    assert page.row("done")[1] == "5" and page.row("memory")[1] == "1"


def test_a_reign_begins_with_the_repeat_that_confirms_it() -> None:
    rows = [*CROWNED, repeat(7, 5, 0.92)]
    assert find_reigns(rows, judge(rows, ("dice",))) == [(0, 0), (3, 2), (7, 5)]
    assert find_reigns([], judge([], ("dice",))) == []


def test_a_run_that_learned_nothing_does_not_press_the_others_flat() -> None:
    rows = [row(n, 0.80 + n / 100) for n in range(8)] + [row(8, 0.05)]
    upper = draw_history(rows, judge(rows, ("dice",)), "dice").axes[0]
    # The worst quarter begins at 0.81, by 0.06 below the best: 0.87 - 3 * 0.06.
    assert 0.6 < upper.get_ylim()[0] < 0.69 + 1e-9
    drawn = [
        height
        for line in upper.lines
        for height in np.asarray(line.get_ydata(), float).tolist()
    ]
    assert 0.05 not in drawn and np.isclose(drawn, 0.69).any()


@pytest.mark.parametrize(
    ("low", "high", "news", "said"),
    [
        (0.01, 0.05, "A recipe better than the default was found: run 2.",
         "+0.010 to +0.050. The gain holds on subjects by which"),
        (-0.01, 0.05, "split, but the test split does not confirm it.",
         "-0.010 to +0.050. The interval contains 0"),
        (-0.05, -0.01, "split, but worse on the test split.",
         "-0.050 to -0.010. There the champion is worse"),
    ],
)  # fmt: skip
def test_the_test_split_has_the_last_word(
    low: float, high: float, news: str, said: str, tmp_path: Path
) -> None:
    snapshot = replace(stand(CROWNED), test=final(2, low, high))
    page = show(snapshot, tmp_path)
    mean = (low + high) / 2
    assert (
        f"12 subjects scored once (2024-01-02), the champion's Dice is "
        f"{0.75 + mean:.3f} and the baseline's 0.750: a difference of {mean:+.3f}"
        in words(page)
    )
    assert said in words(page) and news in words(page)
    assert "so few subjects" not in words(page)
    assert page.row("Dice")[-2:] == [f"{0.75 + mean:.3f}", "0.750"]
    assert page.row("NLL (nats)")[-2:] == ["0.1234", DASH]


def test_a_weak_test_is_called_weak(tmp_path: Path) -> None:
    few = replace(stand(CROWNED), test=final(2, 0.01, 0.03, n=3))
    assert "From so few subjects the interval is rough" in words(show(few, tmp_path))
    one = replace(stand(CROWNED), test=final(2, 0.02, 0.02, n=1))
    text = words(show(one, tmp_path))
    assert "one subject allows no interval" in text and "not confirm it" in text
    old = replace(stand(CROWNED), test=final(5, 0.01, 0.03))
    assert "then was run 5; now it is run 2, which" in words(show(old, tmp_path))
    none = replace(stand(CROWNED[:2]), test=final(0, 0.0, 0.0))
    page = show(none, tmp_path)
    assert "the baseline's Dice is 0.750; there was no champion" in words(page)
    assert page.row("Dice") == ["Dice", "0.810", "0.0141", "0.750"]


STAGES = {
    "nothing": ((), "Nothing has been run yet."),
    "begun": ((row(0),), "The default recipe is still being trained"),
    "baseline failed": (
        (row(0, state="crash", reason="<i>no</i> disk"), row(1, state="lost")),
        "so nothing can be compared with it: <i>no</i> disk.",
    ),
    "baseline": ((row(0, 0.8),), "No recipe but the default has been trained to its"),
    "baseline, failures": (
        (row(0, 0.8), *(row(n, state=s) for n, s in enumerate(REASONS, 1))),
        "No recipe but the default has been trained to its end yet.",
    ),
    "no gain": (
        (row(0, 0.80), repeat(1, 0, 0.82), row(2, 0.79)),
        "run 2, reaches Dice 0.790 against the baseline's 0.810, 0.020 worse",
    ),
    "luck": (
        (row(0, 0.80), repeat(1, 0, 0.82), row(2, 0.815)),
        "So small a gain may be luck of the seed, and it does not count.",
    ),
    "one seed": ((row(0, 0.8), row(1, 0.8)), "spread between seeds is not known yet"),
    "equal": (
        tuple(row(n, 0.8) for n in range(12)),
        "cannot be said: the 11 finished recipes are equally good",
    ),
    "no baseline": ((row(1, 0.8), row(2, 0.9)), "nothing to compare others with yet"),
    "no curve": ((row(0, 0.8), row(1, 0.8, curve=((0.5, math.nan),))), "No recipe"),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.filterwarnings("error")
def test_each_stage_has_a_page(stage: str, tmp_path: Path) -> None:
    rows, said = STAGES[stage]
    page = show(stand(rows), tmp_path)
    assert said in words(page)
    assert "How it was judged" in page.text and "[learning_rate]" in page.text
    assert "nan" not in page.text.lower().split()
    assert not page.all("i")


@pytest.mark.filterwarnings("error")
def test_a_parameter_with_one_choice_is_no_trouble(tmp_path: Path) -> None:
    ranges = {"levels": Choice((3,)), "base_filters": Choice((8, 16))}
    space = Space("bayesian_vnet", ranges)
    rows = [
        row(n, 0.8 + 0.01 * odd, values={"levels": 3, "base_filters": 8 + 8 * odd})
        for n, odd in enumerate([0, 1] * 4 + [0])
    ]
    page = show(stand(rows, space=space.to_toml()), tmp_path)
    assert "It rests on 9 recipes: a hint, no proof." in words(page)
    assert "The same in all of them: levels." in words(page)
    assert any("base_filters 100%" in str(image["alt"]) for image in page.all("img"))


def test_importance_finds_what_mattered(full: Path, tmp_path: Path) -> None:
    alts = [str(image["alt"]) for image in Page(full).all("img")]
    found = next(alt for alt in alts if alt.startswith("Importance"))
    shares = {n: int(s) for n, s in re.findall(r"(\w+) (\d+)%", found)}
    assert max(shares, key=shares.__getitem__) == "learning_rate"
    assert 97 <= sum(shares.values()) <= 103
    few = [row(n, 0.8 + n / 100) for n in range(8)]
    page = show(stand(few), tmp_path)
    # The baseline does not count: it has no kl_weight.
    assert "there are 7 yet" in words(page)


def test_several_objectives_have_a_front(several: Path) -> None:
    page = Page(several)
    assert "Trade-offs between the objectives" in page.text
    kinds = [str(image["alt"]).split(" of ")[0] for image in page.all("img")]
    for kind in ("Validation Dice", "Validation NLL (nats)", "Validation AURC"):
        assert kind in kinds
    pairs = [(0.8, 0.2), (0.9, 0.3), (0.7, 0.2), (0.9, 0.3)]
    rows = [
        row(n, figures={"dice": dice, "nll": nll}, state="done")
        for n, (dice, nll) in enumerate(pairs)
    ]
    objectives = ("dice", "nll")
    assert pareto_front(judge(rows, objectives), objectives) == {0, 1, 3}


def test_a_page_loads_nothing_and_is_small(full: Path, several: Path) -> None:
    for path in (full, several):
        page = Page(path)
        for _, attributes in page.elements:
            for key in ("src", "href", "xlink:href", "action"):
                assert str(attributes.get(key, "data:")).startswith("data:")
        assert not re.search(r"(src|href)\s*=\s*['\"]?(https?:|//)", page.source)
        assert not page.all("a") and not page.all("script")
        assert all(image["alt"] for image in page.all("img"))
        assert len(page.all("table")) == len(page.all("caption")) == 5
        assert "nan" not in page.text.lower().replace("step 41 is nan", "").split()
        assert path.stat().st_size < 1_000_000
    # What a crash and a language model said is text.
    assert "<script>alert(1)</script>" in Page(full).text
    assert "as <b>filters</b> helped" in Page(full).text


def test_hundreds_of_runs_are_written_soon(tmp_path: Path) -> None:
    rows = [row(n, 0.8 + 0.001 * (n % 50), curve=()) for n in range(300)]
    started = time.monotonic()
    page = show(stand(rows), tmp_path)
    # A second on an idle machine.
    assert time.monotonic() - started < 15
    assert len(table(page, "run")) == len(table(page, "recipe")) == 300


def test_a_study_on_synthetic_scans_says_so(tmp_path: Path) -> None:
    caution = "Trained on 7 synthetic scans: not for use on real ones."
    rows = tuple(
        replace(row, figures={**row.figures, "n_synthetic": 7.0}) for row in CROWNED
    )
    page = Page(write_study(stand(rows), tmp_path / "synthetic.html"))
    assert caution in page.text
    assert (
        "synthetic" not in Page(write_study(stand(CROWNED), tmp_path / "a.html")).text
    )


def test_a_page_is_the_same_each_time_and_kept_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    first = write_study(stand(CROWNED), path).read_bytes()
    assert write_study(stand(CROWNED), path).read_bytes() == first
    with pytest.raises(InputError, match="exists already"):
        write_study(stand(()), path, overwrite=False)
    assert path.read_bytes() == first


@pytest.mark.skipif(BROWSER is None, reason="needs a browser")
def test_a_browser_shows_it_wide_and_narrow(
    full: Path, several: Path, tmp_path: Path
) -> None:
    empty = write_study(stand(()), tmp_path / "empty.html")
    found, log = measure([full, several, empty], tmp_path)
    assert "CONSOLE" not in log, log
    n_images = [len(Page(path).all("img")) for path in (full, several, empty)]
    assert n_images[0] == 5 and n_images[2] == 0
    for number, one in enumerate(found):
        assert abs(one["width"] - (1280, 400)[number % 2]) < 20
        assert one["needed"] <= one["width"], (number, one)
        assert one["images"] == n_images[number // 2], (number, one)
        assert one["broken"] == 0 and one["loads"] == [], (number, one)
