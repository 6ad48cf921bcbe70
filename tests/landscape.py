"""A task for studies: Dice is a formula of the values; its process starts quickly."""

import json
import math
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nobrainer.errors import DivergedError, InputError
from nobrainer.research.journal import Size

DEFAULT_RATE = 3e-3
NOISE = 0.001
BYTES = 4_700_000
GOES_WRONG = 1e-5


@dataclass(frozen=True)
class Landscape:
    """Dice falls with the distance of the learning rate from 1e-3, in decades.

    seconds: of each run; score_s: of the test. first_point: of the curve.
    count: whether networks have a size, and take memory.
    With a KL weight of `GOES_WRONG`, runs do: see `misbehave`.
    """

    seconds: float = 0.0
    count: bool = False
    first_point: float = 0.5
    score_s: float = 0.0

    def run(self, values, seed, folder, report):
        print("threads", os.environ.get("OMP_NUM_THREADS"))
        rate = values.get("learning_rate", DEFAULT_RATE)
        doing = values.get("prior_type", "standard_normal")
        held = bytearray(BYTES * values.get("base_filters", 16) * self.count)
        held[::4096] = b"1" * len(held[::4096])
        if values.get("kl_weight") == GOES_WRONG:
            misbehave(doing, values.get("base_filters"))
        noise = np.random.default_rng([seed, round(1e6 * rate)]).normal(0, NOISE)
        dice = 0.9 - 0.05 * abs(math.log10(rate / 1e-3)) + noise
        report((0.0, self.first_point))
        for step in range(1, 5):
            time.sleep(self.seconds / 4)
            report((step / 4, dice * (0.6 + 0.1 * step)))
        (Path(folder) / "model").mkdir(exist_ok=True)
        (Path(folder) / "model" / "dice.json").write_text(json.dumps(dice))
        return {"dice": dice, "nll": 1 - dice, "aurc": (1 - dice) / 10, "judge_s": 0.01}

    def score(self, folders, test, report):
        time.sleep(self.score_s)
        scores = {}
        for name, folder in folders.items():
            dice = json.loads((Path(folder) / "model" / "dice.json").read_text())
            subjects = {s: dice - 0.01 * n for n, s in enumerate(test)}
            mean = float(np.mean([*subjects.values()]))
            scores[name] = {"figures": {"dice": mean}, "subjects": subjects}
        return scores

    def size(self, values):
        if not self.count:
            return None
        n = values.get("base_filters", 16)
        return Size(1000 * n, 10**6 * n, 1e9 * n, 1e9 * n)

    def n_steps(self, values):
        return 10

    def publish(self, folder, best, search):
        shutil.copytree(folder / "model", best, dirs_exist_ok=True)
        (best / "search.json").write_text(json.dumps(search.run))

    def gpus(self):
        return False


def misbehave(prior, filters):
    if filters == 8:
        {
            "standard_normal": lambda: time.sleep(1000),
            "laplace": hoard,
            "spike_and_slab": lambda: os.kill(os.getpid(), 11),
        }[prior]()
    error = {
        "standard_normal": DivergedError("the loss is nan in epoch 1"),
        "laplace": InputError("block_shape must fit, got 7"),
        "spike_and_slab": ZeroDivisionError("planted"),
    }[prior]
    raise error


def hoard():
    held = []
    while True:
        held.append(np.ones(2**21))
