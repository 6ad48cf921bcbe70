"""Arguments of a training that cannot be used."""

import math

import pytest
import torch

from nobrainer.errors import InputError
from nobrainer.processing.dataset import Dataset
from nobrainer.training import engine
from trainings import BLOCK, INSTANCE, SMALL, FailsAt, build, fit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "precision must be one of auto, 32-true, tf32.*'fp8'"),
        ({"precision": "bf16-mixed"}, "processor has no .*bfloat16: use .*'32-true'"),
        ({"precision": "tf32"}, "'tf32' needs a GPU .*: use precision='32-true'"),
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
        ({"opt_args": {"lr": -1}}, "^lr must be a number > 0 and finite, got -1"),
        ({"opt_args": {"lr": math.nan}}, r"opt_args\.lr must be finite, got nan"),
        (
            {"opt_args": {"lr": "fast"}},
            "lr must be a number > 0 and finite, got 'fast'",
        ),
        ({"opt_args": {"betas": [0.9]}}, "Adam cannot be made with opt_args"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS needs a closure for every step"),
        (
            {"max_minutes": math.inf},
            "max_minutes must be a number > 0 and finite",
        ),
        ({"seed": 2**63}, "seed must be at most 9223372036854775807"),
        ({"class_weights": [1, 2], "loss": FailsAt()}, "put them into your own loss"),
        ({"loss": torch.nn.CrossEntropyLoss}, "got <class .*: of a class give an ins"),
        ({"loss": 3}, "loss must be a name or a function of logits and labels, got 3"),
        ({"epochs": 0}, "epochs must be a whole number >= 1, got 0"),
        ({"epochs": 1.5}, "epochs must be a whole number >= 1, got 1.5"),
        ({"max_steps": 0}, "max_steps must be a whole number >= 1, got 0"),
        ({"averaging": 1.0}, "averaging must be at least 0 and below 1, got 1.0"),
        ({"averaging": math.nan}, "averaging must be at least 0 and below 1, got nan"),
        ({"epochs": None}, "nothing ends the training: give epochs, max_steps or max"),
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
        ({"warm_start": True}, "warm_start must be a trained model .*True: resume"),
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


def test_a_warning_says_how_many_validation_scans_are_trained_on(pairs):
    with pytest.warns(UserWarning, match=r"^1 of the scans of .*sub-1_T1w\.nii\)"):
        fit(build(pairs[:2]), build(pairs[1:3]))


def test_unlabelled_training_scans_are_named(pairs):
    bare = Dataset.from_files([pairs[0], pairs[1][0]], BLOCK).binarize()
    with pytest.raises(InputError, match=r"sub-1_T1w\.nii: has no labels"):
        fit(bare)
