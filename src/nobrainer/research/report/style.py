"""How the figures of a study look alike: colours, names, which way is better."""

from nobrainer.glossary import OF_RUNS

RUN, CHAMPION, BASELINE, OTHER = "tab:blue", "#c44e00", "black", "0.6"
LONGEST_NAME = 22
"""Letters of a name that a figure has room for."""


def name_with_direction(objective: str) -> str:
    """An objective's title, with its unit and which way is better."""
    metric = OF_RUNS[objective]
    return f"{metric.heading}, {metric.better} is better"


def signed(value: float, objective: str) -> float:
    """A figure with its sign changed where lower is better: more is then better."""
    return OF_RUNS[objective].sign * value


def shorten(text: str) -> str:
    """A name that fits into a figure."""
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"
