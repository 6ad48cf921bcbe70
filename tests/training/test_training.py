"""Training: what each option does to the numbers, and what survives a failure."""

import errno
import json
import math
import platform
import random
import resource
import subprocess
import sys
import tempfile
from dataclasses import fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pyro
import pytest
import torch
import torch.nn.functional as F

from balls import SHAPE, ball, write_ball
from nobrainer import models
from nobrainer.errors import DivergedError, InputError
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.segmentation import Segmentation
from nobrainer.recipe import FORMAT_VERSION
from nobrainer.training import engine
from nobrainer.training import fit as fit_module
from nobrainer.training.checkpoint import BEST, LAST, read_checkpoint
from nobrainer.training.fit import WARM_UP
from nobrainer.training.options import TrainingOptions

BLOCK = (16, 16, 16)
SMALL = {"base_filters": 2, "levels": 2}
# No norm over the batch, so that two small batches have one large one's gradient.
INSTANCE = {"base_filters": 2, "levels": 2, "norm": "instance"}
CLOCKS = ("seconds", "patches_per_s")
# Two volumes, four patches each, two to a batch.
STEPS = 4


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("balls")
    return [write_ball(folder, number) for number in range(3)]


def build(pairs):
    return Dataset.from_files(pairs, BLOCK).batch(2).binarize().patches(per_volume=4)


@pytest.fixture
def train(pairs):
    return build(pairs[:2])


@pytest.fixture
def validate(pairs):
    return build(pairs[2:])


def fit(dataset, validate=None, *, model="vnet", args=SMALL, folder=None, **given):
    """Train; those of the arguments that are fields of the options are put there."""
    names = {field.name for field in fields(TrainingOptions)} & given.keys()
    options = TrainingOptions(**{name: given.pop(name) for name in names})
    return Segmentation(model, args, folder).fit(
        dataset, validate, options=options, **given
    )


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


# --- a training that goes on as if nothing had happened


@pytest.mark.parametrize(
    ("model", "args"),
    [
        ("vnet", SMALL),
        ("bayesian_vnet", SMALL | {"dropout_rate": 0.2}),
        ("bayesian_meshnet", {"base_filters": 2, "dilations": [1, 2]}),
    ],
)
def test_resumed_training_has_the_same_bits(train, validate, tmp_path, model, args):
    run = partial(
        fit, train.shuffle(), validate, model=model, args=args, epochs=4, accumulate=3
    )
    straight = run(loss=FailsAt())
    with pytest.raises(RuntimeError, match="power cut"):
        run(folder=tmp_path, loss=FailsAt(2 * STEPS + 3))
    assert len(read_checkpoint(tmp_path / LAST).history) == 2
    loss = FailsAt()
    resumed = run(folder=tmp_path, loss=loss, resume=True)
    assert loss.calls == 2 * STEPS
    assert same_weights(resumed, straight)
    assert timeless(resumed.history_) == timeless(straight.history_)
    assert [row["epoch"] for row in resumed.history_] == [1, 2, 3, 4]


def test_workers_do_not_change_the_bits(train):
    data = train.shuffle().augment("strong")
    assert same_weights(fit(data, epochs=2), fit(data, epochs=2, num_workers=2))
    assert not same_weights(fit(data), fit(train))


def test_resume_may_train_for_longer(train, tmp_path):
    sgd(train, epochs=1, folder=tmp_path)
    longer = sgd(train, epochs=3, folder=tmp_path, resume=True)
    assert same_weights(longer, sgd(train, epochs=3))
    done = sgd(train, epochs=3, folder=tmp_path, resume=True)
    assert same_weights(done, longer)
    assert len(done.history_) == 3


def test_resume_from_nothing_starts(train, tmp_path):
    folder = tmp_path / "new" / "folder"
    assert same_weights(fit(train, folder=folder, resume=True), fit(train))


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("training.seed", {"seed": 1}),
        ("training.opt_args", {"opt_args": {"lr": 1e-4}}),
        ("training.optimizer", {"optimizer": torch.optim.SGD}),
        ("training.loss", {"loss": "dice"}),
        ("training.class_weights", {"class_weights": [1, 2]}),
        ("training.schedule", {"schedule": "constant"}),
        ("training.precision", {"precision": "bf16-mixed"}),
        ("training.gradient_clip", {"gradient_clip": 1.0}),
        ("training.accumulate", {"accumulate": 2}),
        ("model.args", {"args": {"base_filters": 3, "levels": 2}}),
        ("model.name", {"model": "bayesian_vnet"}),
    ],
)
def test_resume_refuses_other_settings(train, tmp_path, monkeypatch, field, changed):
    # Also a machine without bfloat16 is to come as far as the comparison.
    monkeypatch.setattr(engine, "has_bfloat16", lambda device: True)
    fit(train, folder=tmp_path)
    before = (tmp_path / LAST).read_bytes()
    with pytest.raises(InputError, match=rf"cannot resume: {field} was .* now is"):
        fit(train, folder=tmp_path, resume=True, **changed)
    assert (tmp_path / LAST).read_bytes() == before


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("data.batch_size", lambda d: d.batch(3)),
        ("data.augment", lambda d: d.augment()),
        ("data.shuffle", lambda d: d.shuffle()),
        ("data.patches_per_volume", lambda d: d.patches(per_volume=5)),
        ("data.binarize", lambda d: d.binarize({1})),
        ("preprocess.normalize", lambda d: d.normalize("minmax")),
        ("preprocess.spacing_mm", lambda d: d.spacing((2, 2, 2))),
    ],
)
def test_resume_refuses_other_data(train, tmp_path, field, change):
    fit(train, folder=tmp_path)
    with pytest.raises(InputError, match=rf"cannot resume: {field} was"):
        fit(change(train), folder=tmp_path, resume=True)


def test_resume_refuses_changed_files(tmp_path):
    pairs = [write_ball(tmp_path, number) for number in range(2)]
    folder = tmp_path / "checkpoints"
    fit(build(pairs), folder=folder)
    image = nib.load(pairs[1][0])
    nib.save(nib.Nifti1Image(image.get_fdata() + 1, np.eye(4)), pairs[1][0])
    with pytest.raises(InputError, match="training files have changed"):
        fit(build(pairs), folder=folder, resume=True)
    with pytest.raises(InputError, match="training files have changed"):
        fit(build(pairs[:1]), folder=folder, resume=True)


# --- checkpoints


def test_checkpoint_is_tensors_and_json_alone(train, tmp_path):
    fit(train, folder=tmp_path)
    raw = (tmp_path / LAST).read_bytes()
    n_header = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + n_header])
    assert set(header.pop("__metadata__")) > {"recipe", "history", "labels"}
    spans = sorted(entry["data_offsets"] for entry in header.values())
    # The tensors fill the rest without a gap: there is no room for a pickle.
    assert spans[0][0] == 0
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    assert spans[-1][1] == len(raw) - 8 - n_header


def test_checkpoint_loads_as_a_model(train, tmp_path):
    fitted = fit(train, folder=tmp_path, model="bayesian_vnet", epochs=2)
    loaded = Segmentation.load(tmp_path / LAST)
    assert same_weights(loaded, fitted)
    assert loaded.history_ == fitted.history_
    assert loaded.labels_ == fitted.labels_
    assert loaded.recipe_.training == fitted.recipe_.training
    scan = ball(9)[0], np.eye(4)
    for ours, theirs in zip(
        fitted.predict(scan, n_samples=2, seed=1),
        loaded.predict(scan, n_samples=2, seed=1),
        strict=True,
    ):
        assert np.array_equal(ours.dataobj, theirs.dataobj)
    # It can be saved as a bundle, which then says the same.
    again = Segmentation.load(loaded.save(tmp_path / "bundle"))
    assert same_weights(again, fitted)


def test_no_checkpoints_unless_asked(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(train)
    assert list(tmp_path.iterdir()) == []
    fit(train, folder="here")
    assert [path.name for path in (tmp_path / "here").iterdir()] == [LAST]


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.01, 0.5, 0.999])
def test_truncated_checkpoint_is_refused(train, tmp_path, share):
    fit(train, folder=tmp_path)
    path = tmp_path / LAST
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(InputError, match=rf"{LAST}: cannot read the checkpoint"):
        Segmentation.load(path)
    with pytest.raises(InputError, match=rf"{LAST}: cannot read the checkpoint"):
        fit(train, folder=tmp_path, resume=True)


def test_files_that_are_no_checkpoint_are_refused(train, tmp_path):
    bundle = fit(train).save(tmp_path / "bundle")
    with pytest.raises(InputError, match=r"weights\.safetensors: is not a checkpoint"):
        Segmentation.load(bundle / "weights.safetensors")
    pickled = tmp_path / "model.pt"
    torch.save({"weight": torch.ones(2)}, pickled)
    with pytest.raises(InputError, match=r"model\.pt: cannot read the checkpoint"):
        Segmentation.load(pickled)
    with pytest.raises(InputError, match=r"nothing\.safetensors"):
        Segmentation.load(tmp_path / "nothing.safetensors")


def test_checkpoint_of_the_future_is_refused(train, tmp_path):
    fit(train, folder=tmp_path)
    path = tmp_path / LAST
    raw = path.read_bytes()
    now, future = (
        rf"\"format_version\": {n}".encode()
        for n in (FORMAT_VERSION, FORMAT_VERSION + 1)
    )
    assert raw.count(now) == 1
    path.write_bytes(raw.replace(now, future))
    with pytest.raises(InputError, match=rf"{LAST}: .*format version .*upgrade"):
        Segmentation.load(path)


def test_changed_checkpoint_is_refused(train, tmp_path):
    fit(train, folder=tmp_path)
    path = tmp_path / LAST
    raw = bytearray(path.read_bytes())
    for place in (len(raw) - 1, len(raw) - 400, raw.index(b"history") + 30):
        changed = raw.copy()
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(InputError, match=LAST):
            Segmentation.load(path)


def test_earlier_checkpoints_are_not_replaced(train, tmp_path):
    fit(train, folder=tmp_path)
    before = (tmp_path / LAST).read_bytes()
    with pytest.raises(InputError, match=r"earlier training: go on with resume=True"):
        fit(train, folder=tmp_path)
    assert (tmp_path / LAST).read_bytes() == before


def test_a_full_disk_keeps_the_old_checkpoint_and_the_training(train, tmp_path):
    fit(train, folder=tmp_path, epochs=1)
    before = (tmp_path / LAST).read_bytes()
    whole = fit(train, epochs=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.warns(UserWarning, match=rf"{LAST}: cannot write the checkpoint"):
            resumed = fit(train, folder=tmp_path, epochs=2, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == [LAST]
    assert (tmp_path / LAST).read_bytes() == before
    assert len(resumed.history_) == len(whole.history_) == 2


def test_a_folder_that_takes_no_checkpoint_is_refused_before_training(
    train, tmp_path, monkeypatch
):
    def fail(_self, _data):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", fail)
    loss = FailsAt()
    with pytest.raises(InputError, match=r"cannot be written \(Read-only file system"):
        fit(train, folder=tmp_path, loss=loss)
    assert loss.calls == 0


def test_what_killed_trainings_leave_is_cleared(train, tmp_path):
    (tmp_path / f".{LAST}.999999").write_text("half a checkpoint")
    fit(train, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LAST]


def test_an_interrupted_training_keeps_its_weights_where_there_is_room(
    train, tmp_path, monkeypatch
):
    class Interrupts(FailsAt):
        def __call__(self, logits, label):
            if self.calls == 1:
                raise KeyboardInterrupt
            return super().__call__(logits, label)

    write = fit_module.write_checkpoint

    def write_elsewhere(checkpoint, path):
        if path.parent.name in full:
            raise InputError(f"{path}: no space")
        write(checkpoint, path)

    monkeypatch.setattr(fit_module, "write_checkpoint", write_elsewhere)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder, full = tmp_path / "checkpoints", {"checkpoints"}
    with pytest.raises(KeyboardInterrupt, match="the weights so far are in") as caught:
        fit(train, folder=folder, loss=Interrupts())
    (kept,) = tmp_path.glob("nobrainer-*/interrupted.safetensors")
    assert str(caught.value).endswith(f"are in {kept}")
    assert Segmentation.load(kept).recipe_.model.name == "vnet"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(KeyboardInterrupt, match="weights so far are lost"):
        fit(train, folder=folder, loss=Interrupts())


def test_unusable_checkpoint_folder_is_refused_before_training(train, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        loss = FailsAt()
        with pytest.raises(InputError, match=r"file.*: cannot be a folder"):
            fit(train, folder=folder, loss=loss)
        assert loss.calls == 0


# --- a loss that is not finite


def test_diverged_training_names_the_files(train, tmp_path):
    with pytest.raises(DivergedError) as caught:
        sgd(train, opt_args={"lr": 1e30}, folder=tmp_path)
    message = str(caught.value)
    assert "epoch 1, batch" in message
    assert all(str(subject.image) in message for subject in train.data)
    assert "\n" not in message
    assert not (tmp_path / LAST).exists()


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_loss_that_is_not_finite_stops(train, tmp_path, value):
    class Infinite(FailsAt):
        def __call__(self, logits, label):
            self.calls += 1
            loss = F.cross_entropy(logits, label)
            return loss * value if self.calls > STEPS + 1 else loss

    loss = Infinite()
    with pytest.raises(DivergedError, match=r"epoch 2, batch 2 \(.*sub-0_T1w\.nii"):
        fit(train, loss=loss, epochs=3, folder=tmp_path)
    assert loss.calls == STEPS + 2
    assert len(read_checkpoint(tmp_path / LAST).history) == 1


def test_weights_that_are_not_finite_replace_no_checkpoint(train, tmp_path):
    class Cliff(FailsAt):
        def __call__(self, logits, label):
            self.calls += 1
            loss = F.cross_entropy(logits, label)
            if self.calls < 2 * STEPS:
                return loss
            # Finite, with an infinite slope, in the last step of an epoch.
            return loss + (logits.mean() - logits.mean().detach()).abs().sqrt()

    with pytest.raises(DivergedError, match="not finite at the end of epoch 2"):
        fit(train, loss=Cliff(), epochs=2, folder=tmp_path)
    checkpoint = read_checkpoint(tmp_path / LAST)
    assert len(checkpoint.history) == 1
    assert all(w.isfinite().all() for w in checkpoint.weights.values())


# --- when training ends, and with which weights


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_counts_epochs_without_a_better_score(train, validate, patience):
    stuck = still(
        train,
        validate=validate,
        model="unet",
        args=INSTANCE,
        epochs=20,
        patience=patience,
    )
    # The first epoch is the best, as nothing ever moves.
    assert len({row["validation_dice"] for row in stuck.history_}) == 1
    assert len(stuck.history_) == 1 + patience


def dice(a, b):
    return 2 * np.sum(a & b) / (np.sum(a) + np.sum(b))


def test_best_weights_are_kept(train, validate, tmp_path):
    fitted = fit(
        train,
        validate,
        loss=Turncoat(4 * STEPS),
        epochs=8,
        schedule="constant",
        opt_args={"lr": 0.02},
        folder=tmp_path,
        model="bayesian_vnet",
    )
    scores = [row["validation_dice"] for row in fitted.history_]
    assert max(scores) > scores[-1] + 0.1
    subject = validate.data[0]
    label = fitted.predict(subject.image, n_samples=0)
    label = np.asarray(label.dataobj) > 0
    truth = np.asarray(nib.load(subject.label).dataobj) > 0
    assert dice(label, truth) == pytest.approx(max(scores), abs=1e-12)
    metrics = fitted.recipe_.provenance.metrics
    assert metrics["validation_dice"] == max(scores)
    assert same_weights(Segmentation.load(tmp_path / BEST), fitted)
    assert not same_weights(Segmentation.load(tmp_path / LAST), fitted)


def test_validation_dice_per_class_on_whole_volumes(pairs):
    half = np.zeros(SHAPE, np.uint8)
    half[12:] = 1

    def three(pair):
        image, label = (nib.load(path) for path in pair)
        classes = np.asarray(label.dataobj) * (1 + half)
        return image, nib.Nifti1Image(classes, np.eye(4))

    train, validate = (
        Dataset.from_files(map(three, part), BLOCK, n_classes=3).patches(per_volume=4)
        for part in (pairs[:1], pairs[1:])
    )
    fitted = fit(train, validate, epochs=2, opt_args={"lr": 0.02})
    scores = {1: [], 2: []}
    for subject in validate.data:
        label = np.asarray(fitted.predict(subject.image).dataobj)
        truth = np.asarray(subject.label.dataobj)
        for value, found in scores.items():
            found.append(dice(label == value, truth == value))
    best = max(fitted.history_, key=lambda row: row["validation_dice"])
    for value, found in scores.items():
        name = fitted.labels_.names[value]
        assert best[f"validation_dice_{name}"] == pytest.approx(np.mean(found))
    assert best["validation_dice"] == pytest.approx(
        np.mean([np.mean(found) for found in scores.values()])
    )


def test_max_minutes_ends_training_with_a_decayed_rate(train):
    fitted = fit(train, epochs=100_000, max_minutes=0.02, opt_args={"lr": 1e-3})
    seconds = sum(row["seconds"] for row in fitted.history_)
    assert 1.2 <= seconds < 4
    assert len(fitted.history_) > 2
    assert fitted.history_[-1]["learning_rate"] < 0.2e-3
    # It falls in all epochs that start after the rise, however fast the machine is.
    starts = np.cumsum([0.0, *(row["seconds"] for row in fitted.history_)])
    rates = [
        row["learning_rate"]
        for row, start in zip(fitted.history_, starts[:-1], strict=True)
        if start >= WARM_UP * 1.2
    ]
    assert len(rates) > 2
    assert rates == sorted(rates, reverse=True)


def test_max_minutes_that_are_over_at_once_make_one_step(train):
    loss = FailsAt()
    fitted = fit(train, epochs=5, max_minutes=1e-9, loss=loss)
    assert loss.calls == 1
    (row,) = fitted.history_
    assert row["loss"] > 0.1


# --- what a step does


def test_a_step_of_the_default_optimiser_is_that_of_plain_adam(train):
    # One step, after which rounding has not grown yet.
    few = train.patches(per_volume=1).batch(len(train.data))
    runs = [
        fit(few, epochs=1, schedule="constant", opt_args={"lr": 0.01, **how})
        for how in ({}, {"fused": False})
    ]
    ours, plain = (parameters(run) for run in runs)
    start = parameters(still(few))
    # Adam's first step is the learning rate, either way, for every weight.
    assert float((plain - start).abs().median()) == pytest.approx(0.01, rel=1e-3)
    assert float((ours - plain).abs().max()) < 1e-5


def by_hand(dataset, start, optimizer, args, epochs):
    """The same training in plain PyTorch."""
    model = models.build("unet", **INSTANCE)
    torch.nn.utils.vector_to_parameters(start.clone(), model.parameters())
    # Rounding grows with the steps, so the order in memory is to be the same.
    model.to(memory_format=torch.channels_last_3d)
    optimiser = optimizer(model.parameters(), **{"fused": True, **args})
    loader = dataset.loader(seed=0)
    for epoch in range(epochs):
        loader.dataset.set_epoch(epoch)
        for batch in loader:
            optimiser.zero_grad()
            image = batch["image"].contiguous(memory_format=torch.channels_last_3d)
            F.cross_entropy(model(image), batch["label"]).backward()
            optimiser.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    ("optimizer", "args"),
    [
        (torch.optim.SGD, {"lr": 0.1}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
        (torch.optim.Adam, {"lr": 0.01, "fused": False}),
        (torch.optim.Adam, {"lr": 0.01, "foreach": True, "fused": False}),
        (torch.optim.Adam, {"lr": 0.01, "betas": (0.5, 0.6), "amsgrad": True}),
        (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 1.0}),
    ],
)
def test_training_equals_a_plain_loop(train, optimizer, args):
    unet = {"model": "unet", "args": INSTANCE, "schedule": "constant"}
    start = parameters(still(train, model="unet", args=INSTANCE))
    fitted = fit(train, epochs=2, optimizer=optimizer, opt_args=args, **unet)
    expected = by_hand(train, start, optimizer, args, 2)
    moved = float((expected - start).norm())
    assert moved > 0.05
    assert float((parameters(fitted) - expected).norm()) < 1e-4 * moved


@pytest.mark.parametrize("per_volume", [4, 3])
def test_accumulated_batches_equal_a_large_one(train, per_volume):
    # With 3 patches of 2 volumes the last group has one batch in place of two.
    run = partial(sgd, model="unet", args=INSTANCE, opt_args={"lr": 0.5})
    data = train.patches(per_volume=per_volume)
    small = parameters(run(data.batch(2), accumulate=2))
    large = parameters(run(data.batch(4)))
    moved = large - parameters(still(data, model="unet", args=INSTANCE))
    assert float(moved.norm()) > 0.01
    assert float((small - large).norm()) < 1e-4 * float(moved.norm())
    every = parameters(run(data.batch(2)))
    assert float((every - large).norm()) > 1e-2 * float(moved.norm())


def test_gradient_clip_bounds_the_step(train):
    data = train.batch(8)  # one step an epoch
    start = parameters(still(data))

    def step(clip):
        fitted = sgd(data, opt_args={"lr": 1.0}, gradient_clip=clip)
        return parameters(fitted) - start

    free = step(None)
    norm = float(free.norm())
    assert norm > 0.05
    clipped = step(norm / 4)
    assert float(clipped.norm()) == pytest.approx(norm / 4, rel=1e-3)
    assert torch.cosine_similarity(clipped, free, dim=0) > 0.9999
    assert torch.equal(step(10 * norm), free)


def rates(train, schedule):
    seen = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            seen.append(self.param_groups[0]["lr"])
            return super().step(closure)

    fitted = fit(
        train.batch(4),
        epochs=20,
        optimizer=Watched,
        opt_args={"lr": 0.2},
        schedule=schedule,
    )
    assert [row["learning_rate"] for row in fitted.history_] == seen[1::2]
    return seen


def test_cosine_schedule(train):
    seen = rates(train, "cosine")
    # 40 steps, of which the first 5 % are 2: the rate rises by halves, then decays.
    expected = [0.1 * (1 + math.cos(math.pi * k / 40)) for k in range(40)]
    expected[0] = 0.1
    assert seen == pytest.approx(expected, rel=1e-9)
    assert seen[20] == pytest.approx(0.1)
    assert seen[39] < 0.002 * 0.2


def test_constant_schedule(train):
    assert rates(train, "constant") == [0.2] * 40


@pytest.mark.parametrize(("epochs", "expected"), [(1, 4), (9, 30), (30, 40)])
def test_batch_norm_settles(train, epochs, expected):
    # After a third of the steps, four an epoch, but not before the thirtieth.
    state = still(train, epochs=epochs).model_.state_dict()
    counts = [n for name, n in state.items() if name.endswith("num_batches_tracked")]
    assert set(map(int, counts)) == {expected}


# --- losses


def one_batch(train):
    """The first logits and labels of a training in one batch an epoch."""
    recorder = Recorder()
    still(train.batch(8), loss=recorder)
    return recorder.logits, recorder.label


def data_loss(train, **options):
    return still(train.batch(8), **options).history_[0]["data_loss"]


def soft_dice_loss(logits, label, weight=(1, 1)):
    p = logits.softmax(1)
    y = F.one_hot(label, 2).movedim(-1, 1).double()
    both, sizes = (p * y).sum((2, 3, 4)), (p + y).sum((2, 3, 4))
    terms = 1 - (2 * both + 1e-5) / (sizes + 1e-5)
    return float((terms * torch.tensor(weight).double()).mean())


def weighted_cross_entropy(logits, label, weight):
    log_p = logits.log_softmax(1).movedim(1, -1)
    nll = -log_p.gather(-1, label[..., None])[..., 0]
    w = torch.tensor(weight).double()[label]
    return float((w * nll).sum() / w.sum())


def test_named_losses(train):
    logits, label = one_batch(train)
    plain = weighted_cross_entropy(logits, label, (1, 1))
    overlap = soft_dice_loss(logits, label)
    for options, expected in (
        ({}, plain),
        ({"loss": "cross_entropy"}, plain),
        ({"loss": "dice"}, overlap),
        ({"loss": "dice_ce"}, plain + overlap),
    ):
        assert data_loss(train, **options) == pytest.approx(expected, rel=1e-4)


def test_class_weights_change_the_loss(train):
    logits, label = one_batch(train)
    weights = 1.0, 5.0
    expected = weighted_cross_entropy(logits, label, weights)
    assert data_loss(train, class_weights=weights) == pytest.approx(expected, rel=1e-4)
    assert abs(expected - data_loss(train)) > 0.01
    expected = soft_dice_loss(logits, label, weights)
    found = data_loss(train, loss="dice", class_weights=weights)
    assert found == pytest.approx(expected, rel=1e-4)


def test_automatic_class_weights_are_inverse_frequencies(train):
    inside = np.mean([volume.label.mean() for volume in train.prepare()])
    inverse = np.array([1 / (1 - inside), 1 / inside])
    expected = tuple(2 * inverse / inverse.sum())
    fitted = still(train.batch(8), class_weights="auto")
    assert fitted.recipe_.training.class_weights == pytest.approx(expected, rel=1e-6)
    loss = weighted_cross_entropy(*one_batch(train), expected)
    assert fitted.history_[0]["data_loss"] == pytest.approx(loss, rel=1e-4)


def test_own_loss_is_minimised(train):
    def distance(logits, label):
        return (logits.softmax(1)[:, 1] - label).square().mean()

    logits, label = one_batch(train)
    expected = float((logits.softmax(1)[:, 1] - label).square().mean())
    assert data_loss(train, loss=distance) == pytest.approx(expected, rel=1e-4)
    fitted = fit(train, loss=distance, epochs=5, opt_args={"lr": 0.02})
    assert fitted.history_[-1]["loss"] < 0.5 * fitted.history_[0]["loss"]
    assert fitted.recipe_.training.loss.endswith("distance")


@pytest.mark.parametrize("weight", [0.0, 0.5, "elbo"])
def test_bayesian_loss_adds_the_weighted_divergence(train, weight):
    args = SMALL | {"kl_weight": weight}
    fitted = still(train, model="bayesian_vnet", args=args)
    (row,) = fitted.history_
    kl, n_weights = 0.0, 0
    for module in fitted.model_.modules():
        if hasattr(module, "posteriors"):
            for q in module.posteriors().values():
                mean, scale = q.mean.double(), q.scale.double()
                # KL(N(m, s²) ‖ N(0, 1))
                terms = (scale**2 + mean**2 - 1) / 2 - scale.log()
                kl += float(terms.detach().sum())
                n_weights += mean.numel()
    assert row["kl"] == pytest.approx(kl, rel=1e-5)
    voxels = 2 * math.prod(SHAPE)
    factor = 1 / voxels if weight == "elbo" else weight / n_weights
    added = row["loss"] - row["data_loss"]
    assert added == pytest.approx(factor * kl, rel=1e-3, abs=1e-7)


def test_large_divergence_weight_takes_the_posterior_to_the_prior(train):
    fitted = fit(
        train,
        model="bayesian_vnet",
        args={
            "base_filters": 2,
            "levels": 1,
            "kl_weight": 1e6,
            "prior_args": {"scale": 0.5},
        },
        epochs=60,
        opt_args={"lr": 0.1},
    )
    for module in fitted.model_.modules():
        if hasattr(module, "posteriors"):
            for q in module.posteriors().values():
                assert float(q.mean.detach().abs().max()) < 0.02
                assert torch.allclose(q.scale, torch.tensor(0.5), rtol=0.02)


def test_training_dice_is_that_of_the_patches(train):
    logits, label = one_batch(train)
    found = still(train.batch(8)).history_[0]["dice"]
    expected = dice(logits.argmax(1).numpy() == 1, label.numpy() == 1)
    assert found == pytest.approx(expected)


def test_training_learns(train, validate):
    args = {"base_filters": 4, "levels": 2}
    data = train.patches(per_volume=8)
    fitted = fit(data, validate, args=args, epochs=8, opt_args={"lr": 0.02})
    assert fitted.recipe_.provenance.metrics["validation_dice"] > 0.9


@pytest.mark.parametrize(("generation", "auto"), [(7, "32-true"), (8, "bf16-mixed")])
def test_auto_takes_bfloat16_where_a_gpu_computes_it(monkeypatch, generation, auto):
    # PyTorch also says that it supports bfloat16 where it converts every number.
    gpu = SimpleNamespace(major=generation)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    assert engine.resolve_precision("auto") == auto
    assert engine.resolve_precision("16-mixed") == "16-mixed"
    if auto == "32-true":
        with pytest.raises(InputError, match=r"this GPU has no .*: use .*'16-mixed'"):
            engine.resolve_precision("bf16-mixed")


@pytest.mark.usefixtures("bfloat16")
def test_half_precision_trains_close_to_full(train):
    half = fit(train, precision="bf16-mixed", epochs=2)
    full = fit(train, precision="32-true", epochs=2)
    assert half.recipe_.training.precision == "bf16-mixed"
    assert all(p.dtype == torch.float32 for p in half.model_.parameters())
    losses = [s.history_[-1]["loss"] for s in (half, full)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


# --- randomness


def test_seed_decides_everything(train):
    run = partial(fit, train, model="bayesian_vnet", args=SMALL | {"dropout_rate": 0.1})
    torch.manual_seed(1)
    first = run(seed=3)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert same_weights(run(seed=3), first)
    assert not same_weights(run(seed=4), first)
    assert not torch.equal(
        parameters(still(train, seed=3)), parameters(still(train, seed=4))
    )


def test_global_state_is_left_alone(train, validate):
    torch.manual_seed(5)
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    fitted = fit(train.augment().shuffle(), validate, model="bayesian_vnet")
    fitted.predict((ball(9)[0], np.eye(4)), n_samples=2)
    assert torch.equal(torch.get_rng_state(), states[0])
    after = np.random.get_state()  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(after, states[1], strict=True))
    assert random.getstate() == states[2]
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)
    assert torch.is_grad_enabled()
    assert len(pyro.get_param_store()) == 0


# --- what it says


def test_a_line_an_epoch_where_there_is_no_terminal(train, validate, capfd, recwarn):
    fit(train, validate, epochs=2)
    out, err = capfd.readouterr()
    assert out == ""
    starts = [line.partition(": loss")[0] for line in err.splitlines()]
    assert starts == ["epoch 1", "epoch 2"]
    fit(train, validate, verbose=False)
    assert capfd.readouterr() == ("", "")
    assert [str(w.message) for w in recwarn] == []


def test_progress_on_a_terminal(train, validate, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    fitted = fit(train, validate, epochs=2)
    out, err = capfd.readouterr()
    assert out == ""
    row = fitted.history_[1]
    assert "patches/s" in err
    plain = "".join(part.split("m", 1)[-1] for part in err.split("\x1b["))
    for figure in (
        f"loss {row['loss']:.4f}",
        f"Dice {row['dice']:.3f}",
        f"validation Dice {row['validation_dice']:.3f}",
    ):
        assert figure in plain
    fit(train, validate, verbose=False)
    assert capfd.readouterr() == ("", "")


# --- arguments that cannot be used


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "precision must be one of auto, 32-true.*'fp8'"),
        ({"precision": "bf16-mixed"}, "processor has no .*bfloat16: use .*'32-true'"),
        ({"precision": "16-mixed"}, "'16-mixed' needs a GPU .*: use '32-true'"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin': did you mean 'cosine'"),
        ({"loss": "dise"}, "unknown loss 'dise': did you mean 'dice'"),
        ({"opt_args": {"weight_decai": 1}}, "Adam 'weight_decai'.*'weight_decay'"),
        ({"class_weights": "automatic"}, "'automatic': did you mean 'auto'"),
        ({"class_weights": [1, 2, 3]}, "class_weights must be 2 numbers, one a class"),
        ({"class_weights": [1, -1]}, "class_weights must be finite numbers >= 0"),
        ({"class_weights": [1, math.nan]}, "class_weights must be finite numbers"),
        ({"class_weights": [0, 0]}, "not all of them 0, got .0.0, 0.0."),
        ({"class_weights": ["a", 1]}, "class_weights must be numbers, got"),
        ({"opt_args": {"lr": -1}}, "Adam cannot be made .*Invalid learning rate: -1"),
        ({"opt_args": {"lr": math.nan}}, r"opt_args\.lr must be finite, got nan"),
        ({"opt_args": {"lr": "fast"}}, "Adam cannot be made with opt_args=.*'fast'"),
        ({"opt_args": {"betas": [0.9]}}, "Adam cannot be made with opt_args"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS needs a closure for every step"),
        (
            {"max_minutes": math.inf},
            "max_minutes must be a number > 0 and finite",
        ),
        ({"seed": 2**63}, "seed must be at most 9223372036854775807"),
        ({"class_weights": [1, 2], "loss": FailsAt()}, "put them into your own loss"),
        ({"epochs": 0}, "epochs must be a whole number >= 1, got 0"),
        ({"epochs": 1.5}, "epochs must be a whole number >= 1, got 1.5"),
        ({"accumulate": 0}, "accumulate must be a whole number >= 1"),
        ({"devices": 0}, "devices must be a whole number >= 1"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
        ({"seed": None}, "seed must be a whole number >= 0"),
        ({"num_workers": -1}, "num_workers must be a whole number >= 0"),
        ({"num_workers": 9999}, "num_workers must be at most the .* cores .*9999"),
        ({"devices": 9999}, "devices must be at most the .* cores .*9999"),
        ({"gradient_clip": 0}, "gradient_clip must be a number > 0 and finite, got 0"),
        (
            {"gradient_clip": math.nan},
            "gradient_clip must be a number > 0 .* nan",
        ),
        ({"max_minutes": 0}, "max_minutes must be a number > 0 and finite, got 0"),
        ({"patience": 2}, "patience needs dataset_validate"),
        ({"resume": True}, "resume=True needs checkpoints.*checkpoint_filepath"),
    ],
)
def test_bad_arguments_are_named_before_a_file_is_read(
    train, monkeypatch, options, message
):
    monkeypatch.setattr(Dataset, "prepare", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(engine, "has_bfloat16", lambda device: False)
    with pytest.raises(InputError, match=message) as caught:
        fit(train, **{"opt_args": {"lr": 0.01}, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "args", "block", "batch", "message"),
    [
        (
            *("vnet", SMALL | {"levels": 4}, (30, 32, 15), 2),
            "must be multiples of 8, .* got 30x32x15: give 24x32x8 or 32x32x16",
        ),
        ("unet", SMALL | {"levels": 3}, (30, 30, 30), 2, "28x28x28 or 32x32x32"),
        ("vnet", SMALL | {"levels": 8}, (32, 32, 32), 2, "multiples of 128"),
        ("vnet", SMALL | {"levels": 4}, (8, 8, 8), 1, "a batch of 1 patches .*8x8x8"),
        # Of eight patches one is left.
        ("vnet", SMALL | {"levels": 4}, (8, 8, 8), 7, "a batch of 1 .*cannot be train"),
        ("unet", INSTANCE, (2, 2, 2), 2, "Expected more than 1 spatial element"),
        ("bayesian_vnet", {"prior_args": [1]}, BLOCK, 2, "must be a mapping of argum"),
        ("bayesian_vnet", {"posterior_scale": 1e999}, BLOCK, 2, "number > 0"),
        ("vnet", {"levels": 10**30}, BLOCK, 2, "levels must be at most 12"),
        ("vnet", {"base_filters": 10**6}, BLOCK, 2, "base_filters must be at most"),
        ("vnet", {"base_filters": 65536}, BLOCK, 2, "more than 2000000000 weights"),
        ("meshnet", {"dilations": [1] * 101}, BLOCK, 2, "number of dilations must be"),
        ("kwyk", {"base_filters": 65536}, BLOCK, 2, "more than 2000000000 weights"),
        (
            *("ensemble", {"members": [["vnet", SMALL]] * 2 + [["vnet", {}]]}),
            *((16, 16, 15), 2, "block_shape must be multiples of 2"),
        ),
    ],
)
def test_what_a_network_cannot_take_is_named_before_a_file_is_read(
    pairs, monkeypatch, model, args, block, batch, message
):
    monkeypatch.setattr(Dataset, "prepare", None)
    dataset = Dataset.from_files(pairs[:2], block).batch(batch).binarize()
    with pytest.raises(InputError, match=message) as caught:
        fit(dataset.patches(per_volume=4), model=model, args=args)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"accumulate": 1000}, {"class_weights": [0.0, 1.0]}],
    ids=["more than there are batches", "a batch without any weight"],
)
def test_odd_arguments_that_can_be_used(pairs, options):
    dataset = Dataset.from_files(pairs[:2], BLOCK).batch(100).binarize()
    dataset = dataset.patches(per_volume=2, foreground=0.0)
    assert math.isfinite(fit(dataset, **options).history_[0]["loss"])


def test_bad_validation_is_refused_before_the_first_step(train, pairs):
    other = Dataset.from_files(pairs, BLOCK, n_classes=3)
    bare = Dataset.from_files([image for image, _ in pairs], BLOCK)
    loss = FailsAt()
    for dataset, message in (
        (other, "dataset_validate has n_classes=3, dataset_train 2"),
        (bare, r"sub-0_T1w\.nii: has no labels"),
    ):
        with pytest.raises(InputError, match=message):
            fit(train, dataset, loss=loss)
    with pytest.raises(InputError, match="patience must be a whole number >= 1"):
        fit(train, build(pairs[2:]), loss=loss, patience=0)
    assert loss.calls == 0


def test_unlabelled_training_scans_are_named(pairs):
    bare = Dataset.from_files([pairs[0], pairs[1][0]], BLOCK).binarize()
    with pytest.raises(InputError, match=r"sub-1_T1w\.nii: has no labels"):
        fit(bare)


# --- memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_memory_is_kept_while_training_and_given_back_after_it():
    # A process of its own, whose allocator no other test has used.
    script = """
import resource, psutil, torch
from nobrainer.training.memory import kept_memory

def show():
    torch.ones(25_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    # A little smaller, for what is allocated in between.
    torch.ones(24_000_000)
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    print(pages, held())

def held():
    return psutil.Process().memory_info().rss // 10**6

show()
try:
    with kept_memory():
        show()
        raise KeyboardInterrupt
except KeyboardInterrupt:
    print(0, held())
"""
    run = [sys.executable, "-c", script]
    shown = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    before, inside, after = (map(int, line.split()) for line in shown.splitlines())
    (asked, usual), (kept, held), (_, left) = before, inside, after
    # 96 MB are that many pages of 4 KiB, or of 2 MiB.
    assert asked > 40 > 10 > kept
    assert held > usual + 90
    assert left < usual + 10
