"""Posteriors q(w) by name: a family a file, each with its parts in the same order."""

from nobrainer.bayes.posteriors.mean_field import MeanFieldNormal, WeightNormal
from nobrainer.bayes.posteriors.posterior import POSTERIORS, Posterior
from nobrainer.bayes.posteriors.weight_normalised import (
    WeightNormalised,
    WeightNormalisedNormal,
)

__all__ = [
    "POSTERIORS",
    "MeanFieldNormal",
    "Posterior",
    "WeightNormal",
    "WeightNormalised",
    "WeightNormalisedNormal",
]
