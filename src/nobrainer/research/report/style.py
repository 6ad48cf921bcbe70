"""What the figures of a study share: colours, names, and which way is better."""

from nobrainer.glossary import OF_RUNS

RUN, CHAMPION, BASELINE, OTHER = "tab:blue", "#c44e00", "black", "0.6"
LONGEST_NAME = 22
"""Most letters of a name in a figure."""


def name_with_direction(objective: str) -> str:
    """An objective's title, with its unit and which way is better."""
    metric = OF_RUNS[objective]
    return f"{metric.heading}, {metric.better} is better"


def signed(value: float, objective: str) -> float:
    """Turn a value so that more is always better: change the sign where less is.

    Args:
        value: value of an objective.
        objective: a name of `OBJECTIVES`.
    """
    return OF_RUNS[objective].sign * value


def shorten(text: str) -> str:
    """Shorten a name so that it fits into a figure."""
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"
