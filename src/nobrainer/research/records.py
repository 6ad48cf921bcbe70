"""What is fixed before a study begins, what it came to, and how it stands."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypedDict

from nobrainer.checks import check_count, check_positive
from nobrainer.recipe import SearchRecord
from nobrainer.research.journal import Row, Size
from nobrainer.research.judge import Difference, Standing

Rows = tuple[tuple[str, ...], ...]
"""(scan, labels, subject) of each scan; the subject is "" or left out if not known."""
Report = Callable[[tuple[float, float]], None]
"""Takes a point of a curve: (share of the training that is over, 0 to 1; validation
Dice)."""
Scores = dict[str, dict[str, dict[str, float]]]
"""By the name of a model: "figures", its means over the test subjects, and "subjects",
the mean Dice of each subject."""


@dataclass(frozen=True)
class Split:
    """The scans of each part; all scans of a subject are in one part."""

    train: Rows
    validate: Rows
    test: Rows


@dataclass(frozen=True)
class RunOptions:
    """How each run of a study is made: `run` takes each of these by its name.

    n_classes: number of classes, background among them; None is as many as `relabel`
        makes, else 2.
    binarize: whether every label but 0 is one class; None is True for two classes
        without `relabel`.
    relabel: name or file of a mapping from label values to classes; None for none.
    train_minutes: minutes of each training; where `epochs` is None, too, they are
        computed from the budget.
    epochs: most epochs of each training; None is no limit but the minutes.
    n_draws: number of draws of the weights by which a run is judged.
    pruner: a name of `PRUNERS`; ends hopeless runs early by their validation curve,
        where there is one objective.
    run_minutes: minutes, judging included, after which a run is ended; None sets no
        limit of its own.
    memory_gb: gigabytes of main memory above which a run is ended; None is what is
        free.

    Raises:
        InputError: a number that is below its least value.
    """

    n_classes: int | None = None
    binarize: bool | None = None
    relabel: str | None = None
    train_minutes: float | None = None
    epochs: int | None = None
    n_draws: int = 3
    pruner: str = "asha"
    run_minutes: float | None = None
    memory_gb: float | None = None

    def __post_init__(self) -> None:
        check_count("n_draws", self.n_draws, 1)
        if self.epochs is not None:
            check_count("epochs", self.epochs, 1)
        for name in ("train_minutes", "run_minutes", "memory_gb"):
            value = getattr(self, name)
            if value is not None:
                check_positive(name, value)

    @property
    def has_no_length(self) -> bool:
        """Whether the length of each training is left to the budget."""
        return self.train_minutes is None and self.epochs is None


class RunArguments(TypedDict, total=False):
    """The fields of `RunOptions` as keyword arguments, for type checkers."""

    n_classes: int | None
    binarize: bool | None
    relabel: str | None
    train_minutes: float | None
    epochs: int | None
    n_draws: int
    pruner: str
    run_minutes: float | None
    memory_gb: float | None


@dataclass(frozen=True)
class Settings:
    """What must not change while a study runs, or its runs could not be compared.

    family: name of the registered model that is searched over.
    space: ranges of its parameters, as `Space.to_toml` writes them.
    objectives: names of `OBJECTIVES` by which runs are judged, the main one first.
    proposer: name of who proposes values, an entry of `PROPOSERS`.
    pruner: name of what ends hopeless runs, an entry of `PRUNERS`.
    seed: seed of the split, the proposals and the trainings.
    train_minutes: minutes of each run's training; None where `epochs` alone ends it.
    epochs: most epochs of each run's training.
    n_draws: number of draws of the weights by which a run is judged.
    n_classes: number of classes, background among them.
    binarize: whether every label but 0 is one class.
    relabel: name or file of a mapping from label values to classes; None for none.
    n_train, n_validate, n_test: number of subjects of each part.
    started: time at which the study began, ISO 8601 in UTC.
    versions: version of each package that decides what a run does.
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

    champion, baseline: numbers of their runs.
    scored: time at which they were scored, ISO 8601 in UTC.
    figures: of "champion" and "baseline": "dice", "nll", "aurc" and more, means over
        the subjects.
    subjects: of "champion" and "baseline": the mean Dice of each subject.
    difference: champion minus baseline.
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

    settings: what was fixed before run 0.
    rows: rows of all runs in the order of their numbers, those under way included
        (state "running").
    standing: what the judge makes of the rows.
    remaining_s: seconds that are left of this command's budget; None where no command
        runs.
    max_experiments: number of distinct recipes to try, the baseline among them; None
        where no command runs.
    test: scores on the test split; None until it is scored.
    """

    settings: Settings
    rows: tuple[Row, ...]
    standing: Standing
    remaining_s: float | None = None
    max_experiments: int | None = None
    test: FinalResult | None = None


class View(Protocol):
    """Shows the user how a study goes on."""

    def show(self, snapshot: Snapshot) -> None:
        """Show the study as it stands; called about once a second."""

    def tell(self, row: Row, standing: Standing) -> None:
        """Tell that a run has ended.

        Args:
            row: row of the run.
            standing: what the judge makes of all rows, this one included.
        """

    def say(self, text: str) -> None:
        """Say a sentence about what happens."""


class SilentView:
    """Shows nothing."""

    def show(self, snapshot: Snapshot) -> None:
        """Show nothing."""

    def tell(self, row: Row, standing: Standing) -> None:
        """Tell nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""


class Task(Protocol):
    """What a study repeats; see `SegmentationTask`.

    It can be pickled, and so can its arguments and what it returns: runs take place in
    processes of their own.
    """

    def run(
        self, values: Mapping[str, Any], seed: int, folder: str, report: Report
    ) -> dict[str, float]:
        """Train with some values, judge the model and save it.

        Args:
            values: values of parameters; the others keep their defaults.
            seed: seed of the training.
            folder: path of the run's folder, which gets the model.
            report: gets points of the validation curve.

        Returns: figures of the run, by name.
        """

    def score(self, folders: Mapping[str, str], test: Rows, report: Report) -> Scores:
        """Apply trained models to the test scans.

        Args:
            folders: path of each run's folder, by the name of its scores.
            test: (scan, labels, subject) of each scan.
            report: called by nothing: scoring has no curve.
        """

    def size(self, values: Mapping[str, Any]) -> Size | None:
        """Count the size of the network; None where there is nothing to count."""

    def n_steps(self, values: Mapping[str, Any]) -> int:
        """Count the optimiser's steps in all epochs."""

    def publish(self, folder: Path, best: Path, search: SearchRecord) -> None:
        """Copy a run's model to where the best one is kept.

        Args:
            folder: folder of the run.
            best: folder of the best model, which is replaced.
            search: record of the search, which the copy gets.
        """

    def gpus(self) -> bool:
        """Whether each worker should own a GPU."""


def describe_values(values: dict[str, Any]) -> str:
    """The values of a run in one line.

    >>> describe_values({"base_filters": 8, "learning_rate": 0.00312345})
    'base_filters=8 learning_rate=0.00312'
    """
    return " ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in values.items()
    )
