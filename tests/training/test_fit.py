"""The training loop: what a step does, which weights are kept, and what it says."""

import math
import random
from functools import partial

import nibabel as nib
import numpy as np
import pyro
import pytest
import torch
import torch.nn.functional as F

from balls import SHAPE, ball
from nobrainer import models
from nobrainer.errors import DivergedError
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.segmentation import Segmentation
from nobrainer.training.checkpoint import BEST, LAST, read_checkpoint
from trainings import (
    BLOCK,
    INSTANCE,
    SMALL,
    STEPS,
    FailsAt,
    Turncoat,
    dice,
    fit,
    one_batch,
    parameters,
    same_weights,
    sgd,
    still,
)


def test_workers_do_not_change_the_bits(train):
    data = train.shuffle().augment("strong")
    assert same_weights(fit(data, epochs=2), fit(data, epochs=2, num_workers=2))
    assert not same_weights(fit(data), fit(train))


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


@pytest.mark.parametrize("clip", [None, 1.0])
def test_weights_that_are_not_finite_replace_no_checkpoint(train, tmp_path, clip):
    class Cliff(FailsAt):
        def __call__(self, logits, label):
            self.calls += 1
            loss = F.cross_entropy(logits, label)
            if self.calls < 2 * STEPS:
                return loss
            # Finite, with an infinite slope, in the last step of an epoch.
            return loss + (logits.mean() - logits.mean().detach()).abs().sqrt()

    with pytest.raises(DivergedError, match="not finite at the end of epoch 2"):
        fit(train, loss=Cliff(), epochs=2, folder=tmp_path, gradient_clip=clip)
    checkpoint = read_checkpoint(tmp_path / LAST)
    assert len(checkpoint.history) == 1
    assert all(w.isfinite().all() for w in checkpoint.weights.values())


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
