"""How the structures of one person change from one scan to a later one.

Where both scans are predicted with the same draws, what a draw gets wrong in the one it
tends to get wrong in the other as well. So the change is taken draw by draw: its
variance is that of both volumes less twice their covariance over the draws.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from scipy.special import stdtrit

from nobrainer.errors import InputError


@dataclass(frozen=True)
class Change:
    """What the draws say about the change of one structure; NaN where undefined.

    Intervals hold the change that one further draw gives, with 95 % probability. They
    say how uncertain the weights of the network leave the change. What differs
    between two scans of the same person on the same day (position, motion, noise, the
    scanner itself) is not in them. They are not defined for one draw, nor where no
    draw has the structure in one of the scans.

    name: name of the structure.
    earlier_mm3, later_mm3: mean volume over draws in each scan, mm³.
    change_mm3: mean over draws of the later volume minus the earlier one, mm³.
    change_sd_mm3: sample standard deviation (n - 1) of this difference, mm³.
    change_low_mm3, change_high_mm3: its interval, mm³.
    correlation: of the two volumes over the draws, -1 to 1; NaN where one of them is
        the same in all draws.
    percent: mean over draws of 100 · (later / earlier - 1); NaN where a draw lacks the
        structure in the earlier scan.
    percent_low, percent_high: its interval.
    years: time between the scans in years, above 0; NaN where it is not known.
    mm3_per_year, mm3_per_year_low, mm3_per_year_high: the change over `years`, mm³.
    percent_per_year, percent_per_year_low, percent_per_year_high: `percent` and its
        interval over `years`.
    """

    name: str
    earlier_mm3: float
    later_mm3: float
    change_mm3: float
    change_sd_mm3: float
    change_low_mm3: float
    change_high_mm3: float
    correlation: float
    percent: float
    percent_low: float
    percent_high: float
    years: float
    mm3_per_year: float
    mm3_per_year_low: float
    mm3_per_year_high: float
    percent_per_year: float
    percent_per_year_low: float
    percent_per_year_high: float


def compare_draws(
    names: Sequence[str],
    earlier_mm3: np.ndarray,
    later_mm3: np.ndarray,
    years: float | None = None,
) -> tuple[Change, ...]:
    """Compare the volumes that the same draws give to two scans of one person.

    Args:
        names: names of the S structures.
        earlier_mm3: (n_draws, S), volume of each structure in each draw, mm³.
        later_mm3: the same of the later scan, the same draws in the same order; a row
            n of both must come from the same weights.
        years: time between the scans in years; None where it is not known.

    Raises:
        InputError: the scans have not as many draws or structures, or the time is not
            above 0.
    """
    if earlier_mm3.shape != later_mm3.shape or earlier_mm3.shape[1:] != (len(names),):
        raise InputError(
            f"volumes must be of the same draws and of {len(names)} structures, got "
            f"{earlier_mm3.shape} and {later_mm3.shape}: predict both scans with the "
            "same model, seed and number of draws"
        )
    if years is not None and not 0 < years < math.inf:
        raise InputError(f"years must be a number > 0 and finite, got {years}")
    pairs = zip(names, earlier_mm3.T, later_mm3.T, strict=True)
    return tuple(
        _compare(name, earlier, later, math.nan if years is None else years)
        for name, earlier, later in pairs
    )


def _compare(name: str, earlier: np.ndarray, later: np.ndarray, years: float) -> Change:
    """The change of one structure; its volumes are (n_draws,), mm³."""
    is_found = bool(earlier.any() and later.any())
    change = _Spread.of(later - earlier, is_found)
    # A draw that lacks the structure at first has no relative change.
    ratios = later / earlier if earlier.all() else np.full(len(earlier), math.nan)
    percent = _Spread.of(100 * (ratios - 1), is_found)
    spread = float(earlier.std() * later.std())
    covariance = float(((earlier - earlier.mean()) * (later - later.mean())).mean())
    return Change(
        name=name,
        earlier_mm3=float(earlier.mean()),
        later_mm3=float(later.mean()),
        change_mm3=change.mean,
        change_sd_mm3=change.sd,
        change_low_mm3=change.low,
        change_high_mm3=change.high,
        correlation=covariance / spread if spread else math.nan,
        percent=percent.mean,
        percent_low=percent.low,
        percent_high=percent.high,
        years=years,
        mm3_per_year=change.mean / years,
        mm3_per_year_low=change.low / years,
        mm3_per_year_high=change.high / years,
        percent_per_year=percent.mean / years,
        percent_per_year_low=percent.low / years,
        percent_per_year_high=percent.high / years,
    )


class _Spread(NamedTuple):
    """Mean and standard deviation over draws; the interval of one further draw."""

    mean: float
    sd: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def of(cls, values: np.ndarray, is_found: bool) -> Self:
        """The spread of some values, (n_draws,); where not found, the mean alone."""
        n_draws, mean = len(values), float(values.mean())
        if n_draws < 2 or not is_found:
            return cls(mean)
        sd = float(values.std(ddof=1))
        half = float(stdtrit(n_draws - 1, 0.975)) * sd * math.sqrt(1 + 1 / n_draws)
        return cls(mean, sd, mean - half, mean + half)
