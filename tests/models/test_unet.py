"""The U-Net, in our own arguments and in MONAI's."""

from typing import Any

import pytest
import torch

from nobrainer import models
from nobrainer.bayes.draws import is_stochastic
from nobrainer.errors import InputError
from nobrainer.models.check import check_reach
from nobrainer.models.unet import UNet
from small_models import noise

FORMS: list[dict[str, Any]] = [
    {"channels": (4, 8), "strides": (2,)},
    {"channels": (2, 3, 4), "strides": (2, 1)},
    {"channels": (2, 3, 4), "strides": (1, 2)},
    {"channels": (2, 4), "strides": (3,)},
    {"channels": (2, 3, 4), "strides": (2, 2), "num_res_units": 2},
    {"channels": (2, 4), "kernel_size": 5, "up_kernel_size": 5},
    {"channels": (2, 4), "norm": None, "act": "ELU", "num_res_units": 1},
]


def unet(**args: Any) -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.build("unet", **args)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_halo_of_every_form_is_exact(form: dict[str, Any]) -> None:
    network = unet(**form)
    assert network.halo % network.stride == 0
    check_reach(network)
    network.halo -= network.stride
    with pytest.raises(InputError, match="correct its halo"):
        check_reach(network)


def test_channels_and_filters_are_two_ways_to_say_the_same() -> None:
    ours = unet(base_filters=4, levels=3)
    monai = unet(channels=[4, 8, 16], strides=(2, 2))
    assert (ours.stride, ours.halo, ours.width) == (4, 8, 8)
    assert (monai.stride, monai.halo, monai.width) == (4, 8, 8)
    assert ours(noise()).equal(monai(noise()))
    assert unet(channels=(4, 8, 16)).stride == 4


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"base_filters": 4}, "leave out base_filters and levels"),
        ({"strides": (2, 2)}, "strides must be 1 numbers, one fewer than channels"),
        ({"channels": (4,)}, "number of channels"),
        ({"channels": 4}, "channels must list whole numbers"),
        ({"channels": (4, 0)}, "each of channels"),
        ({"channels": None, "strides": (2,)}, "strides go with channels"),
        ({"kernel_size": 4}, "kernel_size must be odd"),
        ({"dropout": 0.1, "dropout_rate": 0.1}, "give one"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"norm": ("batches", {})}, "did you mean 'batch'"),
    ],
)
def test_what_contradicts_itself_is_refused(form: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        unet(**({"channels": (4, 8)} | form))


def test_dropout_of_voxels_is_for_training_alone() -> None:
    network = unet(channels=(4, 8), dropout=0.4)
    assert not is_stochastic(network)
    network.train()
    with torch.random.fork_rng():
        assert not network(noise()).equal(network(noise()))
    network.eval()
    assert network(noise()).equal(network(noise()))
    assert network.streams


@pytest.mark.parametrize(
    ("norm", "halo"),
    [("BATCH", 4), ("none", 4), (["group", {"num_groups": 2}], None)],
    ids=str,
)
def test_only_norms_of_single_voxels_leave_the_network_local(
    norm: object, halo: int | None
) -> None:
    network = unet(channels=(4, 8), norm=norm)
    assert (network.halo, network.streams) == (halo, halo is not None)
