"""The search over hyper-parameters that a model comes from, as its recipe keeps it."""

from dataclasses import dataclass, field
from typing import Any

from nobrainer.errors import InputError
from nobrainer.json_records import as_json_stores, since


@dataclass(frozen=True)
class SearchRecord:
    """The search over hyper-parameters that a model comes from.

    family: the registered model that was searched over.
    proposer: name of what proposed the run's values.
    objectives: figures that were judged, the first one first.
    seed: seed of the study: its split, proposals and trainings.
    run: number of the run whose weights these are.
    n_runs, n_failed: number of runs that ended, repeats with a second seed included,
        and number of those that failed.
    n_train, n_validate, n_test: number of subjects in each part of the split.
    n_train_scans, n_validate_scans, n_test_scans: number of their scans; None where
        that is not on record.
    started, ended: times of the study, ISO 8601 in UTC.
    space: the range of each parameter, by its name: `values`, or `low`, `high`, `log`.
    values: values of this run, by parameter; empty for the unchanged recipe.
    validation, baseline_validation: figures of this run and of the unchanged recipe on
        the validation subjects, means over them and over seeds: "dice" (0 to 1), "nll"
        (nats) and "aurc" (0 to 1) near the foreground.
    spread: standard deviation of each objective between seeds, in the objective's
        unit; empty where nothing was trained twice.
    test, baseline_test: figures of both on the test subjects; None until these were
        scored, which happens once.
    test_difference: Dice on the test subjects, this run's minus the baseline's: mean,
        low and high end of the 95 % interval of a bootstrap over the subjects.
    """

    family: str
    proposer: str
    objectives: tuple[str, ...]
    seed: int
    run: int
    n_runs: int
    n_failed: int
    n_train: int
    n_validate: int
    n_test: int
    started: str
    ended: str
    space: dict[str, Any]
    values: dict[str, Any]
    validation: dict[str, float]
    baseline_validation: dict[str, float]
    spread: dict[str, float]
    test: dict[str, float] | None = field(default=None, metadata=since(3))
    baseline_test: dict[str, float] | None = field(default=None, metadata=since(3))
    test_difference: tuple[float, float, float] | None = field(
        default=None, metadata=since(3)
    )
    n_train_scans: int | None = field(default=None, metadata=since(4))
    n_validate_scans: int | None = field(default=None, metadata=since(4))
    n_test_scans: int | None = field(default=None, metadata=since(4))

    def __post_init__(self) -> None:
        for name in ("space", "values"):
            plain = as_json_stores(getattr(self, name), f"search {name}")
            object.__setattr__(self, name, plain)
        scored = (self.test, self.baseline_test, self.test_difference)
        if None in scored and any(part is not None for part in scored):
            raise InputError(
                "test, baseline_test and test_difference of a search must be given "
                f"together or not at all, got {scored}: score the test split once"
            )
