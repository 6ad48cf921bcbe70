"""How a study begins, is joined or goes on; and how it is read."""

import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Unpack

import platformdirs
from filelock import FileLock

from nobrainer.checks import check_arguments, check_choice, check_count, check_positive
from nobrainer.data.mapping import read_mapping
from nobrainer.errors import InputError
from nobrainer.memory import memory_limit_bytes
from nobrainer.research.budget import Budget, describe_shortage, plan_train_minutes
from nobrainer.research.database import check_database, public_url
from nobrainer.research.folder import StudyFolder, read_text
from nobrainer.research.journal import Row, read_journal
from nobrainer.research.judge import check_objectives
from nobrainer.research.proposers import PROPOSERS
from nobrainer.research.records import (
    RunArguments,
    RunOptions,
    Settings,
    SilentView,
    Snapshot,
    Split,
    View,
)
from nobrainer.research.shared import judge_journal
from nobrainer.research.space import Space, family_space
from nobrainer.research.split import list_scans, split_subjects
from nobrainer.research.study import Study
from nobrainer.research.task import SegmentationTask, list_gpus
from nobrainer.research.trial import run_trial
from nobrainer.research.trial_storage import PRUNERS, TrialStorage
from nobrainer.research.worker import Presence, claim_gpu, list_workers

_NO_LIMIT = 100_000
"""Epochs of a training that minutes end."""
_DECIDING = ("nobrainer", "torch", "optuna", "monai")
"""Packages whose versions decide what a run does."""
_MAY_DIFFER = {"n_train", "n_validate", "n_test", "started", "versions"}
"""Settings that are counted or noted, and that no user gives."""


def run(
    working_dir: str | Path,
    model_family: str = "bayesian_vnet",
    *,
    data: str | Path | None = None,
    max_experiments: int = 15,
    budget_hours: float = 8.0,
    proposer: str = "tpe",
    objectives: Sequence[str] = ("dice",),
    space: str | Path | None = None,
    storage: str | None = None,
    seed: int = 0,
    view: View | None = None,
    **options: Unpack[RunArguments],
) -> Snapshot:
    """Search for a better recipe; begin a study, join it, or go on with it.

    Run 0 is the unchanged recipe; a second seed says how much the seed alone changes.
    Then values are proposed, trained and judged on validation subjects. The test
    subjects are scored once, at the end, with the best model and the baseline.

    Args:
        working_dir: the study's folder; made if missing. Workers share it.
        model_family: name of a registered model.
        data: CSV table with the columns features,labels, or a store; None takes
            `get_data()`.
        max_experiments: number of distinct recipes to try, the baseline among them.
        budget_hours: hours within which this call ends.
        proposer: a name of `PROPOSERS`.
        objectives: names of `OBJECTIVES`; the first is what is shown.
        space: TOML file for `Space.from_toml`; None is `family_space`.
        storage: URL of a database for many workers; None is a file in the folder.
        seed: seed of the split, the proposals and the trainings.
        view: shows how it goes; None shows nothing.
        **options: fields of `RunOptions` by name.

    Returns: the study as it stands at the end.

    Raises:
        InputError: arguments that cannot be used or differ from those that the study
            began with; or a baseline that cannot be trained.
        KeyboardInterrupt: the run under way is lost, no other.
    """
    check_positive("budget_hours", budget_hours)
    deadline = time.monotonic() + 3600 * budget_hours
    view = view or SilentView()
    check_arguments("argument of run", RunOptions, options)
    each_run = RunOptions(**options)
    check_count("max_experiments", max_experiments, 1)
    check_count("seed", seed, 0)
    check_choice("pruner", each_run.pruner, PRUNERS)
    ranges = _read_space(model_family, space)
    minutes = _choose_minutes(each_run, 60 * budget_hours, max_experiments)
    fresh = _settle(ranges, objectives, proposer, each_run, seed, minutes, storage)
    # Before anything is written: the language model's environment is checked here.
    propose = PROPOSERS[proposer]()
    folder = StudyFolder(Path(working_dir).resolve())
    with folder.refusing(), ExitStack() as stack:
        settings, split = _open(folder, fresh, data, each_run, storage)
        asked = 60 * budget_hours, max_experiments, settings.train_minutes
        if (short := describe_shortage(*asked)) and not folder.journal.exists():
            view.say(short)
        task = SegmentationTask(ranges, split.train, split.validate, settings)
        worker = stack.enter_context(Presence(folder.workers))
        gpus = _list_gpus(folder) if task.gpus() else []
        gpu = stack.enter_context(claim_gpu(_gpu_locks(), gpus))
        return Study(
            folder,
            settings,
            ranges,
            task,
            propose,
            split,
            storage=TrialStorage(folder.storage, settings, storage),
            worker=worker.name,
            environment={} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu},
            budget=_make_budget(each_run, deadline, max_experiments),
            view=view,
        ).work()


def read(working_dir: str | Path, storage: str | None = None) -> Snapshot:
    """A study as it stands, changing nothing.

    Args:
        working_dir: the study's folder.
        storage: a database's URL, where the study has one, to see runs under way.

    Raises:
        InputError: no study is there.
    """
    folder = StudyFolder(Path(working_dir).resolve())
    with folder.refusing():
        if not folder.settings.is_file():
            raise InputError(
                f"{folder.root}: holds no study: give the --working-dir of "
                "`research run`"
            )
        settings = folder.read_settings()
        rows = read_journal(folder.journal)
        standing = judge_journal(folder, rows, settings)
        found = {row.number: row for row in _read_running(folder, settings, storage)}
        found |= {row.number: row for row in rows}
        ordered = tuple(found[number] for number in sorted(found))
        return Snapshot(settings, ordered, standing, test=folder.read_test())


def _read_space(family: str, path: str | Path | None) -> Space:
    """What a search over a family of models may change; None is all that it can."""
    if path is None:
        return family_space(family)
    return Space.from_toml(family, read_text(Path(path)))


def _read_running(
    folder: StudyFolder, settings: Settings, url: str | None
) -> list[Row]:
    """The runs under way; a damaged storage has none, and a warning says why."""
    # Reading a storage of many runs takes long: only where somebody is at work.
    if not list_workers(folder.workers) or (url is None and settings.storage):
        return []
    try:
        return TrialStorage(folder.storage, settings, url, is_reader=True).running()
    except KeyError:
        return []  # A worker is just beginning.
    except InputError as error:
        if url is not None:
            raise
        warnings.warn(f"{error}; until then no run under way is shown", stacklevel=3)
        return []


def _settle(
    ranges: Space,
    objectives: Sequence[str],
    proposer: str,
    options: RunOptions,
    seed: int,
    train_minutes: float | None,
    storage: str | None,
) -> Settings:
    """The settings of a study that begins now; its subjects are not counted yet."""
    n_classes, binarize = _choose_classes(options)
    return Settings(
        family=ranges.family,
        space=ranges.to_toml(),
        objectives=check_objectives(objectives),
        proposer=proposer,
        pruner=options.pruner,
        seed=seed,
        train_minutes=train_minutes,
        epochs=options.epochs or _NO_LIMIT,
        n_draws=options.n_draws,
        n_classes=n_classes,
        binarize=binarize,
        relabel=options.relabel,
        n_train=0,
        n_validate=0,
        n_test=0,
        started=datetime.now(UTC).isoformat(),
        versions={name: version(name) for name in _DECIDING},
        storage=public_url(storage),
    )


def _choose_classes(options: RunOptions) -> tuple[int, bool]:
    """The number of classes, and whether every label but 0 is one of them."""
    n_classes, binarize, relabel = options.n_classes, options.binarize, options.relabel
    if binarize is None:
        binarize = n_classes in (None, 2) and relabel is None
    if n_classes is None:
        n_classes = 2
        if relabel is not None and not binarize:
            n_classes = len(read_mapping(relabel)[1].names)
    return n_classes, binarize


def _choose_minutes(
    options: RunOptions, budget_minutes: float, max_experiments: int
) -> float | None:
    """Minutes of each training; None where epochs alone end it."""
    if options.has_no_length:
        return plan_train_minutes(budget_minutes, max_experiments)
    return options.train_minutes


def _make_budget(options: RunOptions, deadline: float, max_experiments: int) -> Budget:
    minutes, memory_gb = options.run_minutes, options.memory_gb
    free = 0.9 * memory_limit_bytes() if memory_gb is None else 1e9 * memory_gb
    return Budget(
        deadline,
        max_experiments,
        memory_bytes=int(free),
        run_s=None if minutes is None else 60 * minutes,
    )


def _open(
    folder: StudyFolder,
    fresh: Settings,
    data: str | Path | None,
    options: RunOptions,
    storage: str | None,
) -> tuple[Settings, Split]:
    """Begin a study, or find the one that is there and see that it is the same.

    Args:
        folder: the study's folder; made if missing.
        fresh: settings of a study that begins now.
        data: table or store of the scans; None takes `get_data()`.
        options: say which settings were computed from a budget.
        storage: URL of a database; None is a file in the folder.

    Returns: settings and split as the folder has them.
    """
    # Before anything is made: a command that is refused leaves nothing behind.
    folder.refuse_foreign()
    parts = None
    if not folder.settings.exists():
        parts, counts = split_subjects(data, fresh)
        fresh = replace(
            fresh,
            n_train=counts["train"],
            n_validate=counts["validate"],
            n_test=counts["test"],
        )
        if storage is not None:
            check_database(storage)
    folder.root.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.lock):
        # Another worker may have begun it just now.
        if parts is not None and not folder.settings.exists():
            folder.refuse_foreign()
            folder.write_new(fresh, parts)
        settings, split = folder.read_settings(), folder.read_split()
    _refuse_other(folder, settings, fresh, options)
    scans = sorted(row[:2] for row in (*split.train, *split.validate, *split.test))
    if data is not None and [row[:2] for row in list_scans(data)] != scans:
        raise InputError(
            f"{folder.root}: was begun with other scans than those of {data}: give the "
            "same --data or another --working-dir"
        )
    return settings, split


def _refuse_other(
    folder: StudyFolder, settings: Settings, fresh: Settings, options: RunOptions
) -> None:
    """Raise where a study that goes on was begun otherwise."""
    # What was computed from a budget may differ when a study goes on.
    computed = {"train_minutes", "epochs"} if options.has_no_length else set()
    for name, before in asdict(settings).items():
        now = asdict(fresh)[name]
        if name not in _MAY_DIFFER | computed and now != before:
            raise InputError(
                f"{folder.root}: was begun with {name}={before!r}, now it is {now!r}: "
                "give the same, or another --working-dir for another study"
            )


def _gpu_locks() -> Path:
    """Where workers of all studies on this machine say which GPU is theirs."""
    return Path(platformdirs.user_cache_dir("nobrainer")) / "gpus"


def _list_gpus(folder: StudyFolder) -> list[str]:
    """The GPUs of this machine, asked in a process of its own."""
    outcome = run_trial(
        list_gpus,
        (),
        wall_s=120,
        memory_bytes=None,
        log=folder.gpus_log,
        on_report=lambda _: True,
        on_wait=lambda: None,
    )
    if outcome.state != "done":
        raise InputError(f"the GPUs cannot be listed: {outcome.reason}")
    gpus: list[str] = outcome.result
    return gpus
