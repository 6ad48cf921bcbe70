import math

import numpy as np
import pytest

from nobrainer.errors import InputError
from nobrainer.research.journal import Row, Size, append_rows, read_journal
from nobrainer.research.judge import (
    bootstrap_difference,
    check_objectives,
    judge,
)


def row(number, dice, role="proposal", of=None, state="done", nll=0.1):
    figures = {"dice": dice, "nll": nll} if state == "done" else {}
    of = number if of is None else of
    return Row(number, role, of, {}, 0, "tpe", state=state, figures=figures)


BASE = [row(0, 0.90, "baseline"), row(1, 0.92, "repeat", 0)]
# Two values 0.02 apart have a standard deviation of 0.02 / sqrt(2).
SPREAD = 0.02 / math.sqrt(2)


def test_the_baseline_is_champion_and_runs_twice():
    first = judge(BASE[:1], ["dice"])
    assert (first.champion, first.waiting, first.spread) == (0, (0,), None)
    both = judge(BASE, ["dice"])
    assert both.means[0]["dice"] == pytest.approx(0.91)
    assert both.spread["dice"] == pytest.approx(SPREAD)
    assert (both.champion, both.waiting) == (0, ())


def test_within_the_spread_is_no_gain():
    standing = judge([*BASE, row(2, 0.91 + 0.9 * SPREAD), row(3, 0.80)], ["dice"])
    assert (standing.champion, standing.waiting) == (0, ())
    assert standing.verdicts[2] == "within the spread"
    assert standing.verdicts[3] == "no gain"


def test_a_champion_needs_two_seeds():
    rows = [*BASE, row(2, 0.95), row(3, 0.96)]
    standing = judge(rows, ["dice"])
    assert standing.champion == 0
    assert standing.waiting == (3, 2)
    assert standing.verdicts[3] == "awaits a repeat"
    # Its second seed brings it below: 0.925 is within the spread of 0.91.
    lucky = judge([*rows, row(4, 0.89, "repeat", 3)], ["dice"])
    assert lucky.champion == 0 and lucky.verdicts[3] == "within the spread"
    real = judge([*rows, row(4, 0.958, "repeat", 3)], ["dice"])
    assert real.champion == 3
    assert real.verdicts[0] == "beaten by 3"
    # 0.95 on one seed no longer beats 0.959.
    assert real.waiting == ()
    # Pooled over two pairs: sqrt((0.02**2 / 2 + 0.002**2 / 2) / 2).
    pooled = math.sqrt((0.02**2 / 2 + 0.002**2 / 2) / 2)
    assert real.spread["dice"] == pytest.approx(pooled)


def test_a_recipe_that_a_seed_ruins_does_not_raise_the_bar():
    ruined = [row(2, 0.99), row(3, 0.10, "repeat", 2)]
    good = [row(4, 0.95), row(5, 0.96, "repeat", 4)]
    standing = judge([*BASE, *ruined, *good], ["dice"])
    assert standing.verdicts[2] == "no gain"
    assert standing.champion == 4
    pooled = math.sqrt((0.02**2 / 2 + 0.01**2 / 2) / 2)
    assert standing.spread["dice"] == pytest.approx(pooled)


def test_a_repeat_that_fails_changes_no_champion():
    rows = [*BASE, row(2, 0.99), row(3, 0, "repeat", 2, state="memory")]
    standing = judge(rows, ["dice"])
    assert (standing.champion, standing.waiting) == (0, ())
    assert standing.verdicts[2] == "its repeat failed"
    lost = judge([*BASE, row(2, 0.99), row(3, 0, "repeat", 2, state="lost")], ["dice"])
    assert lost.waiting == (2,)


def test_several_objectives_may_not_get_worse():
    base = [row(0, 0.90, "baseline", nll=0.10), row(1, 0.90, "repeat", 0, nll=0.12)]
    worse = [row(2, 0.95, nll=0.20), row(3, 0.95, "repeat", 2, nll=0.20)]
    assert judge([*base, *worse], ["dice"]).champion == 2
    assert judge([*base, *worse], ["dice", "nll"]).champion == 0
    level = [row(2, 0.95, nll=0.115), row(3, 0.95, "repeat", 2, nll=0.115)]
    assert judge([*base, *level], ["dice", "nll"]).champion == 2


def test_small_losses_do_not_add_up():
    rows = [row(0, 0.900, "baseline", nll=0.10), row(1, 0.900, "repeat", 0, nll=0.11)]
    for n in range(1, 5):
        for seed in range(2):
            role, of = ("repeat", 2 * n) if seed else ("proposal", None)
            nll = 0.10 + 0.005 * n + 0.01 * seed
            rows.append(row(2 * n + seed, 0.9 + 0.01 * n, role, of, nll=nll))
    standing = judge(rows, ["dice", "nll"])
    # 0.115 against 0.105 is more than the 0.0071 between seeds, 0.110 is not.
    assert standing.champion == 2


def test_no_gain_is_final():
    rows = [*BASE, row(2, 0.9225)]
    assert judge(rows, ["dice"]).verdicts[2] == "within the spread"
    rows += [row(n, 0.80) for n in (3, 4, 5)]
    rows += [row(6, 0.9245), row(7, 0.914, "repeat", 6)]
    # Its weights are gone by now.
    assert 2 not in judge(rows, ["dice"]).waiting


def test_who_ended_before_the_baseline_is_judged_with_it():
    rows = [row(1, 0.99), row(0, 0.90, "baseline")]
    standing = judge(rows, ["dice"])
    assert standing.champion == 0 and standing.verdicts[1] == "awaits a repeat"
    assert standing.waiting == (0, 1)


def test_a_run_that_may_still_become_champion_is_undecided():
    # Its repeat ends before the baseline's: it waits, though it need not run again.
    rows = [row(0, 0.90, "baseline"), row(1, 0.95), row(2, 0.96, "repeat", 1)]
    early = judge(rows, ["dice"])
    assert (early.champion, early.waiting, early.undecided) == (0, (0,), (1,))
    assert judge([*rows, row(3, 0.90, "repeat", 0)], ["dice"]).champion == 1
    assert judge(rows[1:2], ["dice"]).undecided == (1,)


def test_a_champion_was_undecided_ever_since_it_ended():
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows = [row(n, rng.uniform(0.7, 0.9)) for n in range(1, 8)]
        rows += [row(8 + n, rng.uniform(0.7, 0.9), "repeat", n) for n in range(1, 8)]
        rows += [row(0, 0.8, "baseline"), row(8, 0.79, "repeat", 0)]
        # Several workers' runs end in any order, but a repeat after its first run.
        ends = rng.permutation(16)
        order = sorted(rows, key=lambda r: (max(ends[r.number], ends[r.of]), r.number))
        may_win = {r.number for r in order}
        for n in range(1, 17):
            found = judge(order[:n], ["dice"])
            assert found.champion is None or found.champion in may_win
            # A repeat that is under way may still change what was decided.
            over = {r.of for r in order[:n]} - {r.of for r in order[n:]}
            may_win -= over - {*found.undecided, found.champion, found.baseline}


def test_bootstrap_of_equal_gains_is_a_point():
    found = bootstrap_difference([0.9, 0.8, 0.7], [0.88, 0.78, 0.68], 0)
    assert (found.mean, found.n_subjects) == (pytest.approx(0.02), 3)
    assert found.low == pytest.approx(0.02) and found.high == pytest.approx(0.02)


def test_bootstrap_of_two_subjects_by_hand():
    # Means of two draws of (0, 1): 0 with 1/4, 1/2 with 1/2, 1 with 1/4.
    found = bootstrap_difference([0.0, 1.0], [0.0, 0.0], 1)
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)
    assert found == bootstrap_difference([0.0, 1.0], [0.0, 0.0], 1)


def test_objectives_are_known_and_once():
    assert check_objectives(["dice", "nll"]) == ("dice", "nll")
    with pytest.raises(InputError, match="did you mean 'dice'"):
        check_objectives(["dise"])
    for names in ([], ["nll", "nll"]):
        with pytest.raises(InputError, match="must be different names"):
            check_objectives(names)


def test_journal_round_trip_and_a_torn_line(tmp_path):
    path = tmp_path / "journal.jsonl"
    assert read_journal(path) == []
    first = Row(
        0,
        "baseline",
        0,
        {"levels": 2},
        0,
        "default",
        state="done",
        figures={"dice": 0.5},
        curve=((0.5, 0.1), (1.0, 0.5)),
        size=Size(1, 2, 3.0, 4.0),
    )
    append_rows(path, [first, row(1, 0.5)])
    assert read_journal(path) == [first, row(1, 0.5)]
    with path.open("a") as file:
        file.write('{"number": 2, "role": "prop')
    assert len(read_journal(path)) == 2
    append_rows(path, [row(2, 0.75)])
    assert [r.number for r in read_journal(path)] == [0, 1, 2]


@pytest.mark.parametrize(
    "line", ["nonsense", '{"number": 1}', row(1, 0.5).to_json().replace("done", "dome")]
)
def test_a_damaged_journal_names_the_line(tmp_path, line):
    path = tmp_path / "journal.jsonl"
    path.write_text(f"{row(0, 0.5).to_json()}\n{line}\n")
    with pytest.raises(InputError, match=r"journal\.jsonl line 2"):
        read_journal(path)
