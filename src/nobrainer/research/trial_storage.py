"""The runs of a study in Optuna's storage, through which workers share them out."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from nobrainer.errors import InputError
from nobrainer.research.database import public_url, refusing_storage
from nobrainer.research.journal import Row
from nobrainer.research.optuna_study import to_directions, to_distribution
from nobrainer.research.records import Settings
from nobrainer.research.space import Space
from nobrainer.research.storage_log import open_log

_FEWEST = 4
"""How many other runs must have come as far before a run may be ended early."""
_ALL_BUT_DONE = 0.9
"""Share of the training after which ending a run early saves too little."""
_ROW = "row"
"""Attribute of Optuna's trials that holds the row."""
PRUNERS = {
    # At a quarter and at half of the training the better half of the runs goes on. It
    # does not start earlier or drop more: a night has few runs, and curves may cross.
    "asha": optuna.pruners.SuccessiveHalvingPruner(min_resource=25, reduction_factor=2),
    "hyperband": optuna.pruners.HyperbandPruner(
        min_resource=10, max_resource=100, reduction_factor=3
    ),
    "none": optuna.pruners.NopPruner(),
}


class TrialStorage:
    """The runs of a study as trials of Optuna, each with its row.

    Args:
        log: path of the file that is the storage where no database is given.
        settings: settings of the study.
        url: URL of the database; None takes the file.
        is_reader: whether to write nothing; the study must be there already.

    Attributes:
        is_file: whether the storage is a file in the study's folder.

    Raises:
        InputError: the storage cannot be used.
        KeyError: `is_reader` is set and the storage has no such study.
    """

    def __init__(
        self,
        log: Path,
        settings: Settings,
        url: str | None,
        *,
        is_reader: bool = False,
    ) -> None:
        digest = sha256(json.dumps(asdict(settings), sort_keys=True).encode())
        name = f"{settings.family}-{digest.hexdigest()[:12]}"
        self.is_file = url is None
        self._where = f"storage {public_url(url) or log}"
        with refusing_storage(self._where, url):
            self._storage: BaseStorage = (
                open_log(log) if url is None else RDBStorage(url)
            )
            self._study = (
                # Asking for one that may be there writes to the storage.
                optuna.load_study(study_name=name, storage=self._storage)
                if is_reader
                else optuna.create_study(
                    study_name=name,
                    storage=self._storage,
                    directions=to_directions(settings.objectives),
                    pruner=PRUNERS[settings.pruner],
                    load_if_exists=True,
                )
            )
        self._objectives = settings.objectives

    def take_number(self) -> int:
        """Return a number for a new run, which no other worker gets."""
        return self._study.ask().number

    def start(self, row: Row, space: Space) -> None:
        """Record a run that starts, its values also as Optuna's parameters.

        Args:
            row: row of the run, whose number comes from `take_number`.
            space: the space that is searched, which has the ranges of the values.
        """
        self._set(row)
        for name, value in row.values.items():
            kind = to_distribution(space.ranges[name])
            self._storage.set_trial_param(
                self._id(row.number), name, kind.to_internal_repr(value), kind
            )

    def restore(self, rows: Sequence[Row]) -> None:
        """Bring runs that the storage has lost back from the rows of the journal.

        A number without a row belongs to a run that never ended: it becomes "lost".
        """
        found = {row.number: row for row in rows}
        n_there = len(self._study.get_trials(deepcopy=False))
        for number in range(max(found, default=-1) + 1):
            row = found.get(number) or _nameless(number, "lost")
            if number < n_there:
                if number in found:
                    self.close(row)
                continue
            values, state = self._result_of(row)
            self._study.add_trial(
                create_trial(
                    state=state,
                    values=values,
                    user_attrs={_ROW: row.to_json()},
                    intermediate_values={_step(s): dice for s, dice in row.curve},
                )
            )

    def running(self) -> list[Row]:
        """Rows of the runs that nobody has closed.

        A row whose state is not "running" has ended: its worker died before it could
        close the run.
        """
        return [self._row_of(trial) for trial in self._trials(TrialState.RUNNING)]

    def ended(self) -> list[Row]:
        """Rows of the closed runs, in the order in which they ended."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        trials = [trial for state in states for trial in self._trials(state)]
        trials.sort(key=lambda trial: (trial.datetime_complete, trial.number))
        return [self._row_of(trial) for trial in trials]

    def close(self, row: Row) -> None:
        """Record how a run ended; a run that is closed already stays as it is."""
        if self._storage.get_trial(self._id(row.number)).state.is_finished():
            return
        # The row first: if this process dies in between, the next worker finds it.
        self._set(row)
        values, state = self._result_of(row)
        self._study.tell(row.number, values, state, skip_if_finished=True)

    def is_hopeless(self, number: int, point: tuple[float, float]) -> bool:
        """Report a point of a run's curve, and ask the pruner whether to end the run.

        Args:
            number: number of the run.
            point: the latest point of its curve: (share of the training that is over,
                0 to 1; validation Dice).
        """
        if len(self._objectives) > 1:
            # Optuna prunes by one curve, which says nothing of the other objectives.
            return False
        trial = optuna.trial.Trial(self._study, self._id(number))
        step = _step(point[0])
        trial.report(point[1], step)
        # Always asked, because the pruner records here how far each run has come.
        is_behind = trial.should_prune()
        as_far = [
            other.number
            for other in self._study.get_trials(deepcopy=False)
            if other.number != number
            and max(other.intermediate_values, default=0) >= step
        ]
        return is_behind and len(as_far) >= _FEWEST and point[0] < _ALL_BUT_DONE

    def _result_of(self, row: Row) -> tuple[list[float] | None, TrialState]:
        """The values and the state by which Optuna records how a run ended."""
        if row.state == "done":
            return [row.figures[name] for name in self._objectives], TrialState.COMPLETE
        return None, TrialState.PRUNED if row.state == "pruned" else TrialState.FAIL

    def _row_of(self, trial: FrozenTrial) -> Row:
        text = trial.user_attrs.get(_ROW)
        if text is None:
            # Its worker was killed after taking the number and before `start`.
            return _nameless(trial.number, "running")
        try:
            return Row.from_json(text)
        except InputError as error:
            raise InputError(f"{self._where}: run {trial.number}: {error}") from error

    def _trials(self, state: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(state,))

    def _id(self, number: int) -> int:
        study = self._storage.get_study_id_from_name(self._study.study_name)
        return self._storage.get_trial_id_from_study_id_trial_number(study, number)

    def _set(self, row: Row) -> None:
        self._storage.set_trial_user_attr(self._id(row.number), _ROW, row.to_json())


def _step(share: float) -> int:
    """Optuna's step for a point of a curve: the per cent of the training, from 1."""
    return max(1, math.floor(100 * share))


def _nameless(number: int, state: str) -> Row:
    """The row of a run about which nothing but its number is known."""
    return Row(number, "proposal", number, {}, 0, "", state=state)
