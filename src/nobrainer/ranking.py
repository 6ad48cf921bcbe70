"""Which unlabelled scans to label next: active learning from structure tables."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nobrainer.bayes.draws import mix_seed
from nobrainer.errors import InputError
from nobrainer.registry import Registry
from nobrainer.structures import Structure, is_single_draw, mean_by_volume

Tables = Mapping[str, Sequence[Structure]]

STRATEGIES: Registry[Callable[[Tables, int], dict[str, float]]] = Registry("strategy")
"""Strategies by name: functions that score every scan, given the structures of each
scan and a seed."""
OF_DRAWS = ("mutual_information", "pairwise_dice")
"""Names of the strategies that measure how far draws differ."""


class Ranked(NamedTuple):
    """A scan and how much its labels are wanted; larger is more."""

    name: str
    score: float


def rank(tables: Tables, strategy: str, seed: int) -> list[Ranked]:
    """Order unlabelled scans by how much a network would learn from their labels.

    The order depends on the scans, their names and the seed, not on the order in
    which they are given.

    Args:
        tables: structures of each scan by name, see `nobrainer.structures`.
        strategy: one of `STRATEGIES`.
        seed: seed of the strategies with chance in them.

    Returns:
        The most wanted first; equal scores in the order of names. A scan in which
        nothing was segmented comes first where the score is about uncertainty.

    Raises:
        InputError: an unknown strategy, or one about draws where there was only one.
    """
    score = STRATEGIES[strategy]
    scores = score(tables, seed)
    ranked = [Ranked(name, scores[name]) for name in tables]
    return sorted(ranked, key=lambda one: (-one.score, one.name))


def check_strategy(strategy: str, *, n_draws: int) -> None:
    """Check that a strategy can be used.

    Args:
        strategy: name of a strategy.
        n_draws: number of draws that each scan is predicted with.

    Raises:
        InputError: there is no such strategy, or it needs more draws.
    """
    STRATEGIES.check(strategy)
    if n_draws < 2 and strategy in OF_DRAWS:
        raise _needs_draws(f"strategy {strategy!r}")


@STRATEGIES.register("entropy")
def mean_entropy(tables: Tables, seed: int) -> dict[str, float]:
    """Mean entropy in the predicted foreground, nats; works with one draw too."""
    return {name: mean_by_volume(table, "entropy") for name, table in tables.items()}


@STRATEGIES.register("mutual_information")
def mean_mutual_information(tables: Tables, seed: int) -> dict[str, float]:
    """Mean mutual information of class and draw in the predicted foreground, nats.

    It is high where the draws disagree, and not where every draw by itself is unsure.

    Source: Houlsby et al., "Bayesian active learning for classification and
    preference learning", arXiv:1112.5745 (2011), eq. 2.
    """
    _check_draws(tables, "mutual_information")
    return {
        name: mean_by_volume(table, "mutual_information")
        for name, table in tables.items()
    }


@STRATEGIES.register("pairwise_dice")
def disagreement(tables: Tables, seed: int) -> dict[str, float]:
    """1 - Dice between pairs of draws, mean over structures; in [0, 1]."""
    _check_draws(tables, "pairwise_dice")
    return {
        name: 1 - _mean([one.pairwise_dice for one in table], worst=0.0)
        for name, table in tables.items()
    }


@STRATEGIES.register("class_balanced")
def balanced_entropy(tables: Tables, seed: int) -> dict[str, float]:
    """Mean over structures of their mean entropy, plus noise; nats.

    Small structures count as much as large ones. The Gumbel noise is as wide as the
    scores themselves. It keeps a batch from consisting of near-duplicates of the scan
    that is wanted most.

    Source: Kirsch et al., "Stochastic batch acquisition", arXiv:2106.12059 (2021),
    3, softmax acquisition.
    """
    scores = {
        name: _mean([one.entropy for one in table], worst=math.log(len(table) + 1))
        for name, table in tables.items()
    }
    spread = float(np.std(list(scores.values()))) if scores else 0.0
    return {
        name: score + spread * _gumbel(seed, name) for name, score in scores.items()
    }


@STRATEGIES.register("random")
def chance(tables: Tables, seed: int) -> dict[str, float]:
    """A random order, in which scans with more predicted foreground tend to come first.

    Scans are drawn without replacement, in proportion to the volume of the foreground.
    This is what the other strategies have to beat: a scan that is cut down to a few
    slices teaches less than a whole head. The score is the log volume (of at least
    1 mm³) plus Gumbel noise.

    Source: Kool et al., "Stochastic beams and where to find them", ICML 2019, 2.3,
    for drawing without replacement by Gumbel noise.
    """
    return {
        name: math.log(max(sum(s.volume_mm3 for s in table if s.volume_mm3 > 0), 1.0))
        + _gumbel(seed, name)
        for name, table in tables.items()
    }


def to_tsv(ranked: Sequence[Ranked]) -> str:
    """The order as a tab-separated table: `rank` from 1, `subject` and `score`."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(["rank", "subject", "score"])
    for number, one in enumerate(ranked, 1):
        writer.writerow([number, one.name, f"{one.score:.6g}"])
    return text.getvalue()


def _mean(values: Sequence[float], worst: float) -> float:
    """Average the values that are defined; `worst` if none is."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else worst


def _gumbel(seed: int, name: str) -> float:
    """Standard Gumbel noise that belongs to a scan."""
    return float(np.random.default_rng(mix_seed(seed, "rank", name)).gumbel())


def _check_draws(tables: Tables, strategy: str) -> None:
    for name, table in tables.items():
        if is_single_draw(table):
            raise _needs_draws(f"{name}: strategy {strategy!r}")


def _needs_draws(what: str) -> InputError:
    return InputError(
        f"{what} needs at least 2 draws, got 1: predict with n_samples >= 2 and a "
        "Bayesian model, or rank by 'entropy'"
    )
