"""What is fixed before a study begins, what it came to, and how it stands."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from nobrainer.research.journal import Row
from nobrainer.research.judge import Difference, Standing


@dataclass(frozen=True)
class Settings:
    """What must not change while a study runs, or its runs could not be compared.

    family: the registered model that is searched over.
    space: its parameters' ranges, as `Space.to_toml` writes them.
    objectives: what is judged, the first one first.
    proposer, pruner: their names.
    seed: seed of the split, the proposals and the trainings.
    train_minutes: of each run's training; None where `epochs` alone ends it.
    epochs: of each run's training at most.
    n_draws: draws of the weights, for judging.
    n_classes, binarize, relabel: how labels are made into classes.
    n_train, n_validate, n_test: subjects of each part.
    started: ISO 8601 in UTC; `versions` of the software.
    storage: where workers agree on who does what: "" for a file in the study's folder,
        else a database's URL, without its password.
    """

    family: str
    space: str
    objectives: tuple[str, ...]
    proposer: str
    pruner: str
    seed: int
    train_minutes: float | None
    epochs: int
    n_draws: int
    n_classes: int
    binarize: bool
    relabel: str | None
    n_train: int
    n_validate: int
    n_test: int
    started: str
    versions: dict[str, str]
    storage: str = field(default="", metadata={"since": 1})


@dataclass(frozen=True)
class FinalResult:
    """Champion and baseline on the locked test split, scored once.

    figures: "champion" and "baseline" -> "dice", "nll", "aurc" and more, means over
        the subjects.
    subjects: "champion" and "baseline" -> subject -> mean Dice.
    """

    champion: int
    baseline: int
    scored: str
    figures: dict[str, dict[str, float]]
    subjects: dict[str, dict[str, float]]
    difference: Difference


@dataclass(frozen=True)
class Snapshot:
    """A study as it stands.

    rows: by number, those under way included (state "running").
    remaining_s: of this command's budget, None for no budget or no running command.
    max_experiments: distinct recipes to try, the baseline among them; None where no
        command runs.
    test: None until the test split is scored.
    """

    settings: Settings
    rows: tuple[Row, ...]
    standing: Standing
    remaining_s: float | None = None
    max_experiments: int | None = None
    test: FinalResult | None = None


class View(Protocol):
    """What shows how a study goes on."""

    def show(self, snapshot: Snapshot) -> None:
        """The study stands so; called about once a second."""

    def tell(self, row: Row, standing: Standing) -> None:
        """A run has ended."""

    def say(self, text: str) -> None:
        """A sentence on what happens."""


def describe_values(values: dict[str, Any]) -> str:
    """The values of a run in one line.

    >>> describe_values({"base_filters": 8, "learning_rate": 0.00312345})
    'base_filters=8 learning_rate=0.00312'
    """
    return " ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in values.items()
    )
