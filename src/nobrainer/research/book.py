"""Who does what: the rows of a study in Optuna's storage, which workers share."""

import json
import math
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from nobrainer.errors import InputError
from nobrainer.research.journal import Row
from nobrainer.research.proposers import to_directions, to_distribution
from nobrainer.research.records import Settings
from nobrainer.research.space import Space

STORAGE = "optuna.log"
"""The storage of a study that is given none, in its folder."""
_FEWEST = 4
"""Runs that must have come as far before one is given up."""
_ALL_BUT_DONE = 0.9
"""Share of the training after which there is little left to save by giving up."""
_ROW = "row"
"""Attribute of Optuna's trials that holds the row."""
PRUNERS = {
    # At a quarter and at half of the training, the better half goes on: a night has
    # few runs, and curves of a training that is not over cross.
    "asha": optuna.pruners.SuccessiveHalvingPruner(min_resource=25, reduction_factor=2),
    "hyperband": optuna.pruners.HyperbandPruner(
        min_resource=10, max_resource=100, reduction_factor=3
    ),
    "none": optuna.pruners.NopPruner(),
}


class Book:
    """The rows in Optuna's storage, where workers agree on who does what."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        url: str | None,
        *,
        is_reader: bool = False,
    ) -> None:
        digest = sha256(json.dumps(asdict(settings), sort_keys=True).encode())
        name = f"{settings.family}-{digest.hexdigest()[:12]}"
        path = str(folder / STORAGE)
        try:
            self._storage: BaseStorage = (
                JournalStorage(JournalFileBackend(path, _Lock(f"{path}.lock")))  # type: ignore[arg-type]
                if url is None
                else RDBStorage(url)
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
        except (SQLAlchemyError, ImportError, OSError) as error:
            raise InputError(
                f"storage {public_url(url) or folder / STORAGE}: cannot be used: "
                f"{str(error).splitlines()[0]}: check the URL, its driver and the "
                "permissions"
            ) from error
        self._objectives = settings.objectives

    def open(self) -> int:
        """A new run's number."""
        return self._study.ask().number

    def note(self, row: Row, space: Space) -> None:
        """Write down a run that starts, its values also as Optuna's parameters."""
        self._set(row)
        for name, value in row.values.items():
            kind = to_distribution(space.ranges[name])
            self._storage.set_trial_param(
                self._id(row.number), name, kind.to_internal_repr(value), kind
            )

    def running(self) -> list[Row]:
        """Runs that nobody has closed; a row that is not "running" ended just now."""
        return [_row_of(trial) for trial in self._trials(TrialState.RUNNING)]

    def ended(self) -> list[Row]:
        """Closed runs in the order in which they ended."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        trials = [trial for state in states for trial in self._trials(state)]
        trials.sort(key=lambda trial: (trial.datetime_complete, trial.number))
        return [_row_of(trial) for trial in trials]

    def close(self, row: Row) -> None:
        """Write down how a run ended; a run that is closed stays as it is."""
        if self._storage.get_trial(self._id(row.number)).state.is_finished():
            return
        # The row first: should we die in between, who comes next finds it.
        self._set(row)
        values, state = None, TrialState.FAIL
        if row.state == "done":
            values = [row.figures[name] for name in self._objectives]
            state = TrialState.COMPLETE
        elif row.state == "pruned":
            state = TrialState.PRUNED
        self._study.tell(row.number, values, state, skip_if_finished=True)

    def hopeless(self, number: int, point: tuple[float, float]) -> bool:
        """Whether the pruner gives a run up, (share, Dice) being its latest."""
        if len(self._objectives) > 1:
            # Optuna prunes by one curve, which says nothing of the other objectives.
            return False
        trial = optuna.trial.Trial(self._study, self._id(number))
        step = max(1, math.floor(100 * point[0]))
        trial.report(point[1], step)
        # Always asked, because it notes who has come how far.
        is_behind = trial.should_prune()
        as_far = [
            other.number
            for other in self._study.get_trials(deepcopy=False)
            if other.number != number
            and max(other.intermediate_values, default=0) >= step
        ]
        return is_behind and len(as_far) >= _FEWEST and point[0] < _ALL_BUT_DONE

    def _trials(self, state: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(state,))

    def _id(self, number: int) -> int:
        study = self._storage.get_study_id_from_name(self._study.study_name)
        return self._storage.get_trial_id_from_study_id_trial_number(study, number)

    def _set(self, row: Row) -> None:
        self._storage.set_trial_user_attr(self._id(row.number), _ROW, row.to_json())


class _Lock:
    """A lock for Optuna that the system frees when its holder dies, of whatever."""

    def __init__(self, path: str) -> None:
        self._lock = FileLock(path)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def public_url(url: str | None) -> str:
    """A database's URL without its password."""
    if url is None:
        return ""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError as error:
        raise InputError(
            f"storage {url!r} must be a database's URL, such as "
            "postgresql://user@host/name, or nothing for a file in the study's folder"
        ) from error


def _row_of(trial: FrozenTrial) -> Row:
    text = trial.user_attrs.get(_ROW)
    if text is not None:
        return Row.from_json(text)
    # Its worker was killed between asking for a number and saying what it is for.
    return Row(trial.number, "proposal", trial.number, {}, 0, "", state="running")
