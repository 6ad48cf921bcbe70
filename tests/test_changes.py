"""Changes of structures: closed forms of the variance, and what is not defined."""

import math

import numpy as np
import pytest
from scipy import stats

from nobrainer.changes import compare_draws
from nobrainer.errors import InputError

SHARED = np.array([10.0, -4.0, 2.0, -8.0, 0.0])
OWN = np.array([1.0, -1.0, 0.0, 2.0, -2.0])


def columns(*volumes: np.ndarray) -> np.ndarray:
    return np.stack(volumes, axis=1)


def test_the_variance_is_that_of_both_volumes_less_twice_their_covariance() -> None:
    earlier, later = 1000 + SHARED, 900 + SHARED + OWN
    (change,) = compare_draws(["ball"], columns(earlier), columns(later))
    covariance = np.cov(earlier, later)
    assert covariance[0, 1] == pytest.approx(45.5)  # (184 - 2) / 4
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert variance == pytest.approx(2.5)  # that of OWN: 10 / 4
    assert change.change_mm3 == pytest.approx(-100)
    assert change.change_sd_mm3 == pytest.approx(math.sqrt(2.5))
    half = stats.t(4).ppf(0.975) * math.sqrt(2.5 * 6 / 5)
    assert change.change_low_mm3 == pytest.approx(-100 - half)
    assert change.change_high_mm3 == pytest.approx(-100 + half)
    assert change.correlation == pytest.approx(np.corrcoef(earlier, later)[0, 1])
    assert (change.earlier_mm3, change.later_mm3) == (1000, 900)


def test_what_draws_scale_alike_changes_by_one_percentage() -> None:
    scale = 1 + SHARED / 100
    (change,) = compare_draws(
        ["ball"], columns(1000 * scale), columns(950 * scale), years=2.5
    )
    assert change.percent == pytest.approx(-5)
    assert change.percent_low == pytest.approx(-5)
    assert change.percent_high == pytest.approx(-5)
    assert change.percent_per_year == pytest.approx(-2)
    assert change.change_sd_mm3 == pytest.approx(50 * scale.std(ddof=1))
    assert change.mm3_per_year == pytest.approx(-20)
    assert change.mm3_per_year_low == pytest.approx(change.change_low_mm3 / 2.5)
    assert change.mm3_per_year_high == pytest.approx(change.change_high_mm3 / 2.5)


def test_the_interval_holds_the_change_of_a_further_draw_in_95_of_100() -> None:
    rng = np.random.default_rng(0)
    scatter, own = rng.normal(0, 30, (2000, 7)), rng.normal(0, 3, (2000, 7))
    held = 0
    for both, alone in zip(scatter, own, strict=True):
        earlier, later = 1000 + both, 980 + both + alone
        (change,) = compare_draws(["x"], columns(earlier[:6]), columns(later[:6]))
        further = later[6] - earlier[6]
        held += change.change_low_mm3 <= further <= change.change_high_mm3
    assert held / 2000 == pytest.approx(0.95, abs=0.015)


def test_what_is_not_known_is_not_defined() -> None:
    zeros, some = np.zeros(5), np.array([0.0, 5.0, 5.0, 5.0, 5.0])
    gone, come, absent = compare_draws(
        ["gone", "come", "absent"],
        columns(1000 + SHARED, some, zeros),
        columns(zeros, 20 + OWN, zeros),
    )
    # A structure that no draw finds may be there: its change has no interval.
    assert (gone.change_mm3, gone.percent) == (-1000, -100)
    assert math.isnan(gone.change_low_mm3) and math.isnan(gone.percent_high)
    # A draw that lacks it at first has no relative change, but an absolute one.
    assert come.change_mm3 == 16 and come.change_low_mm3 < 16
    assert math.isnan(come.percent) and math.isnan(come.percent_low)
    assert absent.change_mm3 == 0 and math.isnan(absent.correlation)
    assert math.isnan(absent.change_sd_mm3) and math.isnan(gone.years)
    (one,) = compare_draws(["x"], np.array([[8.0]]), np.array([[9.0]]), years=0.5)
    assert (one.change_mm3, one.percent, one.percent_per_year) == (1, 12.5, 25)
    assert math.isnan(one.change_sd_mm3) and math.isnan(one.percent_per_year_low)


def test_draws_and_years_that_cannot_be_compared_are_refused() -> None:
    volumes = columns(SHARED, OWN)
    with pytest.raises(InputError, match="same model, seed and number of draws"):
        compare_draws(["a", "b"], volumes, volumes[:4])
    with pytest.raises(InputError, match="of 3 structures"):
        compare_draws(["a", "b", "c"], volumes, volumes)
    for years in (0, -1.5, math.nan, math.inf):
        with pytest.raises(InputError, match="years must be a number > 0"):
            compare_draws(["a", "b"], volumes, volumes, years)
