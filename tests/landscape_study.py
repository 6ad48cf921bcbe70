"""Studies of `landscape`, in this process or, as a program, in one of their own."""

import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from landscape import Landscape
from nobrainer.research.budget import Budget
from nobrainer.research.folder import StudyFolder
from nobrainer.research.proposers import PROPOSERS, Proposal
from nobrainer.research.records import Settings, Split
from nobrainer.research.space import Space, family_space
from nobrainer.research.study import Study
from nobrainer.research.trial_storage import TrialStorage
from nobrainer.research.worker import Presence

SPACE = family_space("bayesian_vnet")
HERE = str(Path(__file__).parent)


def settings(**changes):
    return replace(
        Settings(
            family="bayesian_vnet",
            space=SPACE.to_toml(),
            objectives=("dice",),
            proposer="random",
            pruner="none",
            seed=0,
            train_minutes=None,
            epochs=4,
            n_draws=2,
            n_classes=2,
            binarize=True,
            relabel=None,
            n_train=6,
            n_validate=2,
            n_test=2,
            started="2026-01-01T00:00:00+00:00",
            versions={},
        ),
        **changes,
    )


def of(values):
    """A proposer of a list of values, each once."""

    def propose(space, rows, objectives, seed):
        tried = [row.values for row in rows if row.role == "proposal"]
        left = [v for v in values if v not in tried]
        return Proposal(left[0], "list") if left else None

    return propose


def values(rate=1e-3, kl=1e-3, prior="standard_normal", filters=16):
    return {
        "base_filters": filters,
        "levels": 2,
        "prior_type": prior,
        "kl_weight": kl,
        "dropout_rate": 0.0,
        "learning_rate": rate,
        "block_shape": "32x32x32",
    }


class Notes:
    """Keeps what it is told."""

    def __init__(self):
        self.said, self.told, self.shown = [], [], []

    def show(self, snapshot):
        self.shown.append(snapshot)

    def tell(self, row, standing):
        self.told.append(row)

    def say(self, text):
        self.said.append(text)


def work(
    folder,
    *,
    task=None,
    propose=None,
    n=6,
    budget_s=300.0,
    run_s=None,
    memory_bytes=None,
    view=None,
    space: Space = SPACE,
    storage=None,
    **changes,
):
    folder.mkdir(exist_ok=True)
    chosen, places = settings(**changes), StudyFolder(folder)
    places.settings.write_text(json.dumps(asdict(chosen)))
    with Presence(places.workers) as worker:
        return Study(
            places,
            chosen,
            space,
            task or Landscape(),
            propose or PROPOSERS["random"](),
            Split(train=(), validate=(), test=("a", "b")),
            storage=TrialStorage(places.storage, chosen, storage),
            worker=worker.name,
            environment={"PYTHONPATH": os.pathsep.join([HERE, *sys.path])},
            budget=Budget(
                time.monotonic() + budget_s, n, memory_bytes or 10**10, run_s
            ),
            view=view or Notes(),
        ).work()


if __name__ == "__main__":
    place, experiments, pause_s = sys.argv[1:]
    work(Path(place), task=Landscape(seconds=float(pause_s)), n=int(experiments))
