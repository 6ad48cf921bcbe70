"""How large a network and its work are, counted against what can be known."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nobrainer import models
from nobrainer.errors import InputError
from nobrainer.inference.predict import Sampling
from nobrainer.inference.predictor import Predictor
from nobrainer.research.journal import Size
from nobrainer.research.size import count_size
from nobrainer.research.space import family_space
from small_models import MONAI, SHAPES

BATCH: dict[str, Any] = {"n_classes": 2, "batch_size": 2, "block_shape": (16, 16, 16)}
NOT_JUDGED: dict[str, Any] = {"judge_shapes": [], "n_draws": 1}


def count(model: str = "bayesian_vnet", /, **args: Any) -> Size:
    """The size of a training that is judged on one scan with two draws."""
    shapes = {"block_shape": (32, 32, 32), "judge_shapes": [(96, 108, 120)]}
    return count_size(model, args, n_classes=2, batch_size=2, n_draws=2, **shapes)


def test_the_count_of_a_small_network_is_that_by_hand() -> None:
    # Two 3³ convolutions of 3 filters, each with batch norm, ReLU and dropout, and
    # a 1³ convolution into 2 classes.
    args = {"base_filters": 3, "dilations": [1, 2]}
    size = count_size("meshnet", args, **BATCH, **NOT_JUDGED)
    voxels = 2 * 16**3
    assert size.parameters == (27 * 3 + 6) + (27 * 3 * 3 + 6) + (3 * 2 + 2)
    assert size.activations == voxels * (2 * 4 * 3 + 2)
    assert size.step_flop == voxels * 2 * (27 * 3 + 27 * 3 * 3 + 3 * 2)
    assert size.judge_flop == 0


def test_a_gaussian_weight_has_two_parameters_and_the_same_operations() -> None:
    args = {"base_filters": 3, "dilations": [1, 2]}
    point = count_size("meshnet", args, **BATCH, **NOT_JUDGED)
    normal = count_size("bayesian_meshnet", args, **BATCH, **NOT_JUDGED)
    n_weights = 27 * 3 + 27 * 3 * 3 + 3 * 2 + 2
    assert normal.parameters == point.parameters + n_weights
    assert normal.activations == point.activations
    assert normal.step_flop == point.step_flop


@pytest.mark.parametrize("model", ["vnet", "unet", "bayesian_meshnet", "kwyk"])
def test_work_grows_with_the_voxels_and_the_batch(model: str) -> None:
    def size(batch_size: int, side: int) -> Size:
        shape = (side, side, 2 * side)
        batch = {"n_classes": 2, "batch_size": batch_size, "block_shape": shape}
        return count_size(model, {"base_filters": 4}, **batch, **NOT_JUDGED)

    small, deep, wide = size(1, 16), size(6, 16), size(1, 32)
    assert small.parameters == deep.parameters == wide.parameters > 0
    for name in ("activations", "step_flop"):
        assert getattr(deep, name) == 6 * getattr(small, name)
        assert getattr(wide, name) == 8 * getattr(small, name)


# It takes seconds to imagine a Swin transformer; `test_space` does.
@pytest.mark.parametrize("model", sorted({*models.available_models()} - {"swin_unetr"}))
def test_every_model_is_counted_and_nothing_is_drawn(model: str) -> None:
    space = family_space(model)
    given = MONAI.get(model) or space.setting(space.defaults()).model_args
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    size = count_size(
        model,
        given,
        n_classes=3,
        batch_size=2,
        block_shape=SHAPES.get(model, (32, 32, 32)),
        judge_shapes=[(48, 48, 48)],
        n_draws=2,
    )
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    network = models.build(model, n_classes=3, **given)
    assert size.parameters == sum(
        p.numel() for p in network.parameters() if p.requires_grad
    )
    assert size.judge_flop > size.step_flop > size.activations > 0


def test_an_ensemble_trains_its_members_in_turn() -> None:
    wide, narrow = {"base_filters": 8, "levels": 2}, {"base_filters": 4, "levels": 2}
    members = {"members": [["vnet", narrow], ["vnet", wide]]}
    how = BATCH | {"judge_shapes": [(32, 32, 32)], "n_draws": 2}
    both = count_size("ensemble", members, **how)
    alone = [count_size("vnet", args, **how) for args in (narrow, wide)]
    assert both.parameters == sum(size.parameters for size in alone)
    assert both.step_flop == alone[1].step_flop
    # Both have the same windows, and each makes one of the two draws.
    assert both.judge_flop == pytest.approx(sum(size.judge_flop for size in alone))


def test_a_deterministic_model_makes_one_pass() -> None:
    def flop(rate: float, n_draws: int) -> float:
        args = {"base_filters": 4, "levels": 2, "dropout_rate": rate}
        shapes = [(32, 32, 32)]
        return count_size(
            "vnet", args, **BATCH, judge_shapes=shapes, n_draws=n_draws
        ).judge_flop

    assert flop(0.0, 5) == flop(0.0, 1)
    assert flop(0.1, 5) == 5 * flop(0.0, 1)


@pytest.mark.parametrize(
    ("model", "args"),
    [
        ("bayesian_vnet", {"base_filters": 4, "levels": 3}),
        ("bayesian_vnet", {"base_filters": 4, "levels": 2}),
        ("unet", {"base_filters": 4, "levels": 2, "norm": "instance"}),
    ],
)
def test_judging_is_counted_as_prediction_does_it(
    monkeypatch: pytest.MonkeyPatch, model: str, args: dict
) -> None:
    # Pairs of voxels would multiply by zeros, which do not count.
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    shape = (100, 40, 36)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    mkldnn = torch.ops.aten.mkldnn_convolution

    def convolution(x: Any, w: Any, *rest: Any, out_shape: Any, **_: Any) -> int:
        return int(2 * math.prod(out_shape) * math.prod(w[1:]))

    counter = FlopCounterMode(display=False, custom_mapping={mkldnn: convolution})
    with counter:
        mean_weights, cpu = Sampling(seed=0, n_draws=0), torch.device("cpu")
        predictor = Predictor(models.build(model, **args), 2, mean_weights, cpu)
        predictor(image, -100.0, lambda tile: None)
    counted = count_size(model, args, **BATCH, judge_shapes=[shape], n_draws=1)
    # Some of it is computed beyond the edges, too, of a scan this small.
    assert counted.judge_flop == pytest.approx(counter.get_total_flops(), rel=0.2)


def test_what_judging_holds_counts_where_it_is_more() -> None:
    args = {"base_filters": 16, "levels": 4}
    training = count_size("vnet", args, **BATCH, **NOT_JUDGED).activations
    small = count_size("vnet", args, **BATCH, judge_shapes=[(8, 8, 8)], n_draws=1)
    large = count_size("vnet", args, **BATCH, judge_shapes=[(96, 96, 96)], n_draws=1)
    assert large.activations > small.activations == training


def test_a_block_that_pooling_does_not_take_is_refused() -> None:
    with pytest.raises(InputError, match="block_shape must be multiples of 8"):
        count_size("vnet", {}, **BATCH | {"block_shape": (16, 16, 12)}, **NOT_JUDGED)
