"""A training that goes on as if nothing had happened."""

from functools import partial

import nibabel as nib
import numpy as np
import pytest
import torch

from balls import write_ball
from nobrainer.errors import InputError
from nobrainer.training import engine, loop
from nobrainer.training.checkpoint import BEST, LAST, read_checkpoint
from trainings import (
    SMALL,
    STEPS,
    FailsAt,
    build,
    fit,
    same_weights,
    sgd,
    timeless,
)


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


@pytest.mark.parametrize(("accumulate", "kept"), [(1, 3), (3, 3), (2, 2)])
def test_a_training_killed_in_an_epoch_has_the_same_bits(
    train, validate, tmp_path, monkeypatch, accumulate, kept
):
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0.0)
    args = SMALL | {"dropout_rate": 0.2}
    run = partial(
        *(fit, train.shuffle(), validate),
        model="bayesian_vnet",
        args=args,
        epochs=3,
        accumulate=accumulate,
    )
    straight = run(loss=FailsAt())
    with pytest.raises(RuntimeError, match="power cut"):
        run(folder=tmp_path, loss=FailsAt(2 * STEPS))
    checkpoint = read_checkpoint(tmp_path / LAST)
    assert len(checkpoint.history) == 1
    assert checkpoint.tally.steps == kept
    loss = FailsAt()
    resumed = run(folder=tmp_path, loss=loss, resume=True)
    assert loss.calls == 2 * STEPS - kept
    assert same_weights(resumed, straight)
    assert timeless(resumed.history_) == timeless(straight.history_)


def test_resume_may_train_for_longer(train, tmp_path):
    sgd(train, epochs=1, folder=tmp_path)
    longer = sgd(train, epochs=3, folder=tmp_path, resume=True)
    assert same_weights(longer, sgd(train, epochs=3))
    done = sgd(train, epochs=3, folder=tmp_path, resume=True)
    assert same_weights(done, longer)
    assert len(done.history_) == 3


@pytest.mark.parametrize(("epochs", "short", "long"), [(None, 6, 11), (2, 5, None)])
def test_an_epoch_that_a_limit_cut_short_is_gone_on_with(
    train, tmp_path, epochs, short, long
):
    run = partial(sgd, train, epochs=epochs)
    cut = run(folder=tmp_path, max_steps=short)
    assert [row["steps"] for row in cut.history_] == [STEPS, short - STEPS]
    again = run(folder=tmp_path, max_steps=short, resume=True)
    assert again.history_ == cut.history_
    longer = run(folder=tmp_path, max_steps=long, resume=True)
    straight = run(max_steps=long)
    n_steps = long or 2 * STEPS
    assert sum(row["steps"] for row in longer.history_) == n_steps
    assert same_weights(longer, straight)
    assert timeless(longer.history_) == timeless(straight.history_)


def test_batches_are_accumulated_from_where_an_epoch_was_cut_short(train, tmp_path):
    run = partial(sgd, train, accumulate=3, averaging=0.5, folder=tmp_path)
    run(max_steps=1)
    run(resume=True)
    # One step of the optimiser from the first batch, one from the other three.
    assert read_checkpoint(tmp_path / LAST).n_averaged == 2


def test_figures_are_those_of_the_kept_weights_where_an_epoch_was_gone_on_with(
    train, validate, tmp_path
):
    run = partial(sgd, train, validate, epochs=2, folder=tmp_path)
    cut = run(max_steps=STEPS + 1)
    longer = run(resume=True)
    best = read_checkpoint(tmp_path / BEST).best
    # Here the weights at the cut remain the best.
    assert best == (cut.history_[-1]["validation_dice"], 2)
    assert longer.history_[-1]["validation_dice"] < best[0]
    assert longer.recipe_.provenance.metrics["validation_dice"] == best[0]


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
