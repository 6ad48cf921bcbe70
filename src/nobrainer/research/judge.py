"""Which run is best so far: fixed rules, as a pure function of the journal's rows."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from nobrainer.checks import check_choice
from nobrainer.errors import InputError
from nobrainer.glossary import OF_RUNS
from nobrainer.research.journal import INFEASIBLE, Row

OBJECTIVES = ("dice", "nll", "aurc")
"""Figures of a row on the validation scans by which runs can be judged."""
_RESAMPLES = 10_000
"""Resamples of a bootstrap."""
_EARLY, _AWAITS = "no baseline to compare with", "awaits a repeat"
_OPEN = (_EARLY, _AWAITS)
"""Verdicts that may still change; "no gain", for instance, stays."""


@dataclass(frozen=True)
class Standing:
    """What the judge concludes from the rows so far.

    champion: number of the run that is best so far; None before the baseline is done.
    baseline: number of the baseline's run once it is done; None before.
    means: by the number of each judged baseline or proposal: every objective, averaged
        over the seeds of that recipe.
    spread: by objective: the standard deviation between seeds, pooled over champion and
        baseline; None before one of them has two seeds.
    verdicts: by the number of each row: what became of the run, in words.
    waiting: numbers of the runs that need a repeat with another seed: the baseline
        while it has one seed, then those that look better than the champion, best
        first.
    undecided: numbers of all runs whose verdict may still change, so that each may be
        the next champion; some have their own repeat and wait for another run's.
    """

    champion: int | None = None
    baseline: int | None = None
    means: dict[int, dict[str, float]] = field(default_factory=dict)
    spread: dict[str, float] | None = None
    verdicts: dict[int, str] = field(default_factory=dict)
    waiting: tuple[int, ...] = ()
    undecided: tuple[int, ...] = ()


@dataclass(frozen=True)
class Difference:
    """The Dice of the champion minus that of the baseline, over subjects.

    mean: mean over the subjects.
    low, high: 95 % percentile interval of a bootstrap over the subjects.
    n_subjects: number of subjects.
    """

    mean: float
    low: float
    high: float
    n_subjects: int


def check_objectives(names: Sequence[str]) -> tuple[str, ...]:
    """Check names of objectives and return them as a tuple.

    Args:
        names: names of `OBJECTIVES`, the main one first.

    Raises:
        InputError: a name is unknown or given twice, or there are none.
    """
    for name in names:
        check_choice("objective", name, OBJECTIVES)
    if not names or len({*names}) < len(names):
        raise InputError(
            f"objectives must be different names of {', '.join(OBJECTIVES)}, got "
            f"{', '.join(names) or 'none'}"
        )
    return tuple(names)


def judge(rows: Sequence[Row], objectives: Sequence[str]) -> Standing:
    """Replay the rows: which run is champion, by how much, and which must run again.

    A challenger becomes the champion when its mean over two seeds is better than the
    champion's by more than the spread between seeds, pooled over the two recipes. With
    several objectives it must be better in one of them, and worse by more than the
    spread in none. So a recipe whose seeds differ a lot makes it harder for itself to
    win, not for others. What earlier rows have decided stays decided.

    Args:
        rows: rows of the study in the order in which they ended; those of runs that
            are under way are passed over.
        objectives: names of `OBJECTIVES`, the main one first.

    Raises:
        InputError: a run is done but lacks a figure to judge it by.
    """
    replay = _Replay(tuple(objectives))
    for row in rows:
        replay.add(row)
    return replay.standing()


def bootstrap_difference(
    champion: Sequence[float], baseline: Sequence[float], seed: int
) -> Difference:
    """Compare two models on the same subjects, with a bootstrap interval.

    Args:
        champion, baseline: Dice of each subject, in the same order.
        seed: seed of the resampling.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    gain = np.subtract(champion, baseline)
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(gain), size=(_RESAMPLES, len(gain)))
    low, high = np.percentile(gain[picks].mean(1), (2.5, 97.5))
    return Difference(float(gain.mean()), float(low), float(high), len(gain))


class _Replay:
    """The state of the judge while rows are added to it one after the other."""

    def __init__(self, objectives: tuple[str, ...]) -> None:
        self._objectives = objectives
        self._scores: dict[int, list[dict[str, float]]] = defaultdict(list)
        self._failed_repeats: set[int] = set()
        self._verdicts: dict[int, str] = {}
        self._champion: int | None = None
        self._baseline: int | None = None
        self._decided_for: tuple[object, ...] = ()

    def add(self, row: Row) -> None:
        """Take the next row into account."""
        if row.state == "running":
            return
        if row.state != "done":
            self._verdicts[row.number] = row.state
            if row.role == "repeat" and row.state in INFEASIBLE:
                self._failed_repeats.add(row.of)
                if row.of not in (self._champion, self._baseline):
                    self._verdicts[row.of] = "its repeat failed"
            return
        if row.role == "repeat" and row.of not in self._scores:
            # Its first run is not in the journal: somebody removed a damaged line.
            self._verdicts[row.number] = f"repeat of {row.of}"
            return
        self._scores[row.of].append(self._score(row))
        if row.role == "baseline":
            self._baseline = self._champion = row.number
            self._verdicts[row.number] = "champion"
        elif row.role == "repeat":
            self._verdicts[row.number] = f"repeat of {row.of}"
        self._decide(row.of)
        # Then the runs that wait: only a new champion, or its second seed, can change
        # their verdicts. Deciding on all of them after every row would take long in a
        # long study.
        rivals = self._rivals()
        if rivals == self._decided_for:
            return
        for number in [*self._scores]:
            if number != row.of and self._verdicts.get(number, _EARLY) in _OPEN:
                self._decide(number)
        # A run that became champion just now was not compared with those before it.
        self._decided_for = rivals if rivals == self._rivals() else ()

    def _score(self, row: Row) -> dict[str, float]:
        """The objectives of a row; refuse a row that lacks one."""
        try:
            return {name: row.figures[name] for name in self._objectives}
        except KeyError as error:
            raise InputError(
                f"run {row.number} is done, but has no figure {error} to judge it by: "
                "remove its line"
            ) from error

    def _rivals(self) -> tuple[object, ...]:
        """The runs that a challenger must beat, with their numbers of seeds."""
        return tuple(
            (number, len(self._scores.get(number, ())))  # type: ignore[arg-type]
            for number in (self._champion, self._baseline)
        )

    def _decide(self, challenger: int) -> None:
        """Make the challenger the champion, or note why not."""
        champion = self._champion
        if champion is None:
            self._verdicts[challenger] = _EARLY
        if champion in (None, challenger):
            return
        margins = self._spread(challenger, champion)
        if not self._beats(challenger, champion, margins):
            within = self._beats(challenger, champion, None)
            self._verdicts[challenger] = "within the spread" if within else "no gain"
        elif len(self._scores[challenger]) < 2 or len(self._scores[champion]) < 2:
            self._verdicts[challenger] = _AWAITS
        else:
            self._verdicts[champion] = f"beaten by {challenger}"
            self._verdicts[challenger] = "champion"
            self._champion = challenger

    def _beats(
        self, challenger: int, champion: int, spread: dict[str, float] | None
    ) -> bool:
        """Whether the challenger is better by more than the spread, None being 0."""
        gains = self._gains(challenger, champion)
        margins = spread or dict.fromkeys(self._objectives, 0.0)
        # Nor worse than the baseline, or small losses in one objective would add up
        # from champion to champion.
        rivals = {champion, champion if self._baseline is None else self._baseline}
        worse = any(
            gain < -margins[name]
            for rival in rivals
            for name, gain in self._gains(challenger, rival).items()
        )
        return not worse and any(gains[name] > margins[name] for name in gains)

    def _gains(self, challenger: int, champion: int) -> dict[str, float]:
        """By how much the challenger is better in each objective."""
        new, old = self._mean(challenger), self._mean(champion)
        return {
            name: OF_RUNS[name].sign * (new[name] - old[name])
            for name in self._objectives
        }

    def _mean(self, number: int) -> dict[str, float]:
        """The objectives of a recipe, averaged over its seeds."""
        scores = self._scores[number]
        return {
            name: math.fsum(s[name] for s in scores) / len(scores)
            for name in self._objectives
        }

    def _spread(self, *numbers: int) -> dict[str, float] | None:
        """The standard deviation between seeds, pooled over these recipes."""
        groups = [self._scores[n] for n in {*numbers} if len(self._scores[n]) > 1]
        if not groups:
            return None
        freedom = sum(len(scores) - 1 for scores in groups)
        return {
            name: math.sqrt(
                sum(
                    len(scores) * np.var([s[name] for s in scores]) for scores in groups
                )
                / freedom
            )
            for name in self._objectives
        }

    def standing(self) -> Standing:
        """What follows from the rows that were added so far."""
        waiting: list[int] = []
        champion, spread = self._champion, None
        if champion is not None:
            baseline = self._baseline
            spread = self._spread(champion, champion if baseline is None else baseline)
            rivals = [
                number
                for number, scores in self._scores.items()
                if self._verdicts.get(number) == _AWAITS and len(scores) < 2
            ]
            first = self._objectives[0]
            waiting = sorted(rivals, key=lambda n: -self._gains(n, champion)[first])
        baseline = self._baseline
        if (
            baseline is not None
            and len(self._scores[baseline]) < 2
            and baseline not in self._failed_repeats
        ):
            waiting.insert(0, baseline)
        return Standing(
            champion,
            baseline,
            {number: self._mean(number) for number in self._scores},
            spread,
            dict(self._verdicts),
            tuple(dict.fromkeys(waiting)),
            tuple(n for n in self._scores if self._verdicts.get(n) in _OPEN),
        )
