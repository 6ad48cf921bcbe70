"""Posteriors q(w) by name: one family per file, its parts always in the same order."""

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
