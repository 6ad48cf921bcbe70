"""The figures that nobrainer reports: what each is called, its unit, what it means.

This is the one place that knows them. Tables, pages, model cards, the command line and
the search read it, and a new figure is one entry here.
"""

from nobrainer.glossary.figures import (
    OF_CHANGES,
    OF_DRAWS,
    OF_REGIONS,
    OF_RUNS,
    OF_SCANS,
    OF_SEVERAL_SCANS,
    OF_STRUCTURES,
    OF_TRAINING,
    SCORES,
)
from nobrainer.glossary.generators import OF_GENERATORS
from nobrainer.glossary.metric import Metric

__all__ = [
    "OF_CHANGES",
    "OF_DRAWS",
    "OF_GENERATORS",
    "OF_REGIONS",
    "OF_RUNS",
    "OF_SCANS",
    "OF_SEVERAL_SCANS",
    "OF_STRUCTURES",
    "OF_TRAINING",
    "SCORES",
    "Metric",
]
