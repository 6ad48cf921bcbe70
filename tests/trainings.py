"""Small trainings on balls, for the tests of training."""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from nobrainer.processing.dataset import Dataset
from nobrainer.processing.segmentation import Segmentation

BLOCK = (16, 16, 16)
SMALL = {"base_filters": 2, "levels": 2}
# No norm over the batch, so that two small batches have one large one's gradient.
INSTANCE = {"base_filters": 2, "levels": 2, "norm": "instance"}
CLOCKS = ("seconds", "patches_per_s")
# Two volumes, four patches each, two to a batch.
STEPS = 4


def build(pairs):
    return Dataset.from_files(pairs, BLOCK).batch(2).binarize().patches(per_volume=4)


def fit(dataset, validate=None, *, model="vnet", args=SMALL, folder=None, **given):
    return Segmentation(model, args, folder).fit(dataset, validate, **given)


sgd = partial(fit, optimizer=torch.optim.SGD, schedule="constant")


def still(dataset, **options):
    """Fit without moving the parameters."""
    return sgd(dataset, opt_args={"lr": 0.0}, **options)


def parameters(segmentation):
    values = [p.detach().flatten() for p in segmentation.model_.parameters()]
    return torch.cat(values)


def same_weights(first, second):
    ours, theirs = first.model_.state_dict(), second.model_.state_dict()
    return list(ours) == list(theirs) and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )


def timeless(history):
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in history]


def dice(a, b):
    return 2 * np.sum(a & b) / (np.sum(a) + np.sum(b))


class FailsAt:
    """Cross-entropy that breaks down at one call."""

    def __init__(self, step=None):
        self.step, self.calls = step, 0

    def __call__(self, logits, label):
        self.calls += 1
        if self.calls == self.step:
            raise RuntimeError("power cut")
        return F.cross_entropy(logits, label)


class Turncoat:
    """Cross-entropy for some steps, then its opposite."""

    def __init__(self, steps):
        self.steps, self.calls = steps, 0

    def __call__(self, logits, label):
        self.calls += 1
        loss = F.cross_entropy(logits, label)
        return loss if self.calls <= self.steps else -loss


class Recorder:
    """Keeps the first logits and labels that the loss was given."""

    def __call__(self, logits, label):
        if not hasattr(self, "logits"):
            self.logits, self.label = logits.detach().double(), label
        return F.cross_entropy(logits, label)


def one_batch(train):
    """The first logits and labels of a training in one batch an epoch."""
    recorder = Recorder()
    still(train.batch(8), loss=recorder)
    return recorder.logits, recorder.label


def data_loss(train, **options):
    return still(train.batch(8), **options).history_[0]["data_loss"]
