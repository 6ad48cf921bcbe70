"""Orders of scans against scores worked out by hand."""

import math
from collections import Counter

import numpy as np
import pytest

from nobrainer.errors import InputError
from nobrainer.ranking import STRATEGIES, Ranked, rank, to_tsv
from nobrainer.structures import Structure

NAN = math.nan


def structure(index, volume_mm3, entropy=NAN, information=NAN, dice=NAN, sd=1.0):
    return Structure(
        class_number=index,
        value=index,
        name=f"part-{index}",
        volume_mm3=volume_mm3,
        volume_sd_mm3=sd,
        volume_low_mm3=NAN,
        volume_high_mm3=NAN,
        conformal_low_mm3=NAN,
        conformal_high_mm3=NAN,
        cv=NAN,
        pairwise_dice=dice,
        iou=NAN,
        entropy=entropy,
        mutual_information=information,
        expected_dice=NAN,
    )


TABLES = {
    "large": [
        structure(1, 900.0, entropy=0.3, information=0.02, dice=0.9),
        structure(2, 100.0, entropy=0.1, information=0.10, dice=0.8),
    ],
    "small": [
        structure(1, 900.0, entropy=0.1, information=0.05, dice=0.95),
        structure(2, 100.0, entropy=0.5, information=0.05, dice=0.3),
    ],
    "absent": [structure(1, 50.0, 0.25, 0.03, 0.9), structure(2, 0.0)],
}


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        # 0.9 · 0.3 + 0.1 · 0.1; one structure only; 0.9 · 0.1 + 0.1 · 0.5.
        ("entropy", [("large", 0.28), ("absent", 0.25), ("small", 0.14)]),
        ("mutual_information", [("small", 0.05), ("absent", 0.03), ("large", 0.028)]),
        ("pairwise_dice", [("small", 0.375), ("large", 0.15), ("absent", 0.1)]),
    ],
)
def test_scores_by_hand(strategy, expected):
    found = rank(TABLES, strategy, seed=0)
    assert [one.name for one in found] == [name for name, _ in expected]
    np.testing.assert_allclose(
        [one.score for one in found], [score for _, score in expected]
    )


def test_structures_count_the_same_when_balanced():
    # Means 0.2, 0.3 and 0.25, of standard deviation 0.0408, and Gumbel noise of mean
    # 0.5772 and variance π²/6 times that.
    scores = [dict(rank(TABLES, "class_balanced", seed)) for seed in range(2000)]
    spread = np.std([0.2, 0.3, 0.25])
    for name, mean in (("large", 0.2), ("small", 0.3), ("absent", 0.25)):
        values = np.array([score[name] for score in scores])
        assert values.mean() == pytest.approx(mean + 0.5772 * spread, abs=0.005)
        assert values.std() == pytest.approx(spread * math.pi / math.sqrt(6), rel=0.1)


def test_equal_scores_have_no_noise_and_go_by_name():
    alike = {name: TABLES["large"] for name in ("c", "a", "b")}
    for strategy in ("class_balanced", "entropy"):
        assert [one.name for one in rank(alike, strategy, 0)] == ["a", "b", "c"]


def test_random_goes_by_the_volume_of_the_foreground():
    tables = {
        "a": [structure(1, 1000.0), structure(2, 2000.0)],
        "b": [structure(1, 1000.0), structure(2, 0.0)],
        "c": [structure(1, 0.0), structure(2, 1000.0)],
    }
    firsts, seconds = Counter(), Counter()
    for seed in range(3000):
        order = [one.name for one in rank(tables, "random", seed)]
        assert sorted(order) == ["a", "b", "c"]
        firsts[order[0]] += 1
        if order[0] == "b":
            seconds[order[1]] += 1
    # 3 : 1 : 1, and once b is gone, 3 : 1; standard errors 0.009 and 0.018.
    assert firsts["a"] / 3000 == pytest.approx(0.6, abs=0.03)
    assert firsts["b"] / 3000 == pytest.approx(0.2, abs=0.03)
    assert seconds["a"] / seconds.total() == pytest.approx(0.75, abs=0.06)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_order_of_the_input_does_not_matter_and_the_seed_decides(strategy):
    backwards = dict(reversed(TABLES.items()))
    for seed in range(3):
        assert rank(TABLES, strategy, seed) == rank(backwards, strategy, seed)
    orders = {tuple(rank(TABLES, strategy, seed)) for seed in range(3)}
    assert len(orders) == (3 if strategy in ("class_balanced", "random") else 1)


@pytest.mark.parametrize("strategy", ["entropy", "mutual_information", "pairwise_dice"])
def test_a_scan_without_any_structure_is_most_wanted(strategy):
    nothing = [structure(1, 0.0, sd=0.0), structure(2, 0.0, sd=0.0)]
    first = rank({**TABLES, "nothing": nothing}, strategy, seed=0)[0]
    worst = 1.0 if strategy == "pairwise_dice" else math.log(3)
    assert first == Ranked("nothing", pytest.approx(worst))


def test_one_draw_cannot_disagree():
    single = {"a": [structure(1, 10.0, entropy=0.2, information=0.0, sd=NAN)]}
    assert rank(single, "entropy", 0) == [Ranked("a", 0.2)]
    assert len(rank(single, "class_balanced", 0)) == 1
    for strategy in ("mutual_information", "pairwise_dice"):
        with pytest.raises(InputError, match=r"a: .* needs at least 2 draws, got 1"):
            rank(single, strategy, 0)


def test_unknown_strategy():
    with pytest.raises(InputError, match="did you mean 'entropy'"):
        rank(TABLES, "entropie", 0)


def test_nothing_to_rank():
    for strategy in STRATEGIES:
        assert rank({}, strategy, 0) == []


def test_table():
    assert to_tsv([Ranked("b", 0.25), Ranked("a", 1 / 3)]) == (
        "rank\tsubject\tscore\n1\tb\t0.25\n2\ta\t0.333333\n"
    )
