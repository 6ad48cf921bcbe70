"""Networks of one's own: measured before training, trained, saved and loaded."""

import numpy as np
import pytest
import torch
from torch import nn

from balls import ball, write_ball
from nobrainer import models
from nobrainer.errors import InputError
from nobrainer.models.check import check_reach, load_weights
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.ensemble import Ensemble
from nobrainer.processing.segmentation import Segmentation

BLOCK = (16, 16, 16)


class Net(nn.Module):
    """Two convolutions that look as far as the dilation, which says what it is told."""

    def __init__(self, n_classes: int = 2, dilation: int = 3, **said: object) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 4, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv3d(4, n_classes, 1)
        for name, value in said.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


class Pooled(Net):
    """It sees blocks of 4 voxels, of which it says nothing true."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.max_pool3d(x, 4)
        return super().forward(nn.functional.interpolate(pooled, scale_factor=4.0))


class Whole(Net):
    """It looks at everything."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - x.mean((2, 3, 4), keepdim=True))


class Placed(Net):
    """It knows where in its window it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + torch.arange(x.shape[-1]))


class Asking(Net):
    """It asks for numbers, which a network without any cannot tell."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if float(x.max()) >= 0 else -x)


class Narrow(Net):
    """Its output is smaller than its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[..., 1:]


def with_channels(width: int) -> nn.Module:
    """Build a network by a function."""
    return nn.Sequential(
        nn.Conv3d(1, width, 3, padding=1), nn.ReLU(), nn.Conv3d(width, 2, 1)
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    pairs = [write_ball(folder, number) for number in range(2)]
    dataset = Dataset.from_files(pairs, BLOCK).batch(2).binarize()
    return dataset.patches(per_volume=2)


def labels(model, **how):
    image, _ = ball(5)
    return np.asarray(model.predict((image, np.eye(4)), **how).dataobj)


def state(model):
    return model.model_.state_dict()


SAID = {"stride": 1, "width": 4}


@pytest.mark.parametrize(
    ("given", "args", "name"),
    [
        (Net, {"halo": 3, **SAID}, "Net"),
        (Net, {}, "Net"),
        (with_channels, {"width": 3}, "with_channels"),
        (Net(halo=3, **SAID), {}, "Net"),
        (Pooled(halo=14, stride=4), {}, "Pooled"),
        (Asking, {"halo": 3}, "Asking"),
        (Whole, {}, "Whole"),
    ],
    ids=["class", "says nothing", "function", "network", "pools", "asks", "global"],
)
def test_a_network_goes_the_whole_way(data, tmp_path, given, args, name):
    model = Segmentation(given, args).fit(data, epochs=1)
    assert model.recipe_.model.name == f"callable:{__name__}.{name}"
    if model.model_.halo is not None:
        small = labels(model, block_shape=(8, 8, 8))
        assert np.array_equal(small, labels(model, block_shape=(64, 64, 64)))
    folder = model.save(tmp_path / "model")
    with pytest.raises(InputError, match=rf"network of your own, callable:.*{name}"):
        Segmentation.load(folder)
    loaded = Segmentation.load(folder, base_model=given)
    assert np.array_equal(labels(loaded), labels(model))


def test_a_network_that_is_given_is_copied(data):
    network = Net(halo=3, **SAID)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    model = Segmentation(network)
    first = state(model.fit(data, opt_args={"lr": 0.01}))
    again = state(model.fit(data, opt_args={"lr": 0.01}))
    for name, tensor in network.state_dict().items():
        assert tensor.equal(before[name])
        assert first[name].equal(again[name]) and not first[name].equal(tensor)


def test_a_network_of_the_registry_by_its_class_is_the_same(data):
    args = {"base_filters": 2, "levels": 1}
    named, own = Segmentation("vnet", args), Segmentation(models.get("vnet"), args)
    first, second = state(named.fit(data)), state(own.fit(data))
    assert all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize(
    ("given", "args", "message"),
    [
        (Net, {"halo": 1}, "says halo=1, and it looks at 3 voxels beyond its core"),
        (Net, {"halo": 2, "dilation": 64}, "says halo=2, and it looks at 64 voxels"),
        (Whole, {"halo": 3}, "says halo=3, and it looks at the whole window"),
        (Pooled, {"halo": 14}, "says stride=1, and "),
        (Placed, {"halo": 3}, "says stride=1, and what it makes of a window changes"),
        (
            Narrow,
            {"halo": 3},
            r"makes \(2, 2, 16, 16, 15\) of .*should make",
        ),
        (
            nn.Sequential(nn.Conv3d(1, 3, 1)),
            {},
            r"makes \(2, 3, 16, 16, 16\) of .*each class",
        ),
        (Net, {"halo": "far"}, "halo of model .* must be a whole number >= 0"),
        (Net, {"stride": 0}, "stride of model .* must be a whole number >= 1"),
        (Net, {"dilation": "a"}, "cannot be built with n_classes=2, dilation='a': "),
        (lambda: 3, {}, "must be a torch.nn.Module, got int"),
        (
            lambda: nn.Sequential(nn.Conv3d(1, 2, 17)),
            {},
            "cannot be trained on: .*[Kk]ernel size",
        ),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(16**3, 2)),
            *({}, r"makes \(2, 2\) of a batch"),
        ),
        (
            lambda: nn.Sequential(
                nn.Flatten(),
                nn.Linear(16**3, 2),
                nn.Unflatten(1, (2, 1, 1, 1)),
                nn.Upsample(16),
            ),
            *({}, "windows of 96x96x96 voxels, which this one does not take"),
        ),
    ],
)
def test_what_does_not_hold_is_refused_before_a_file_is_read(
    data, monkeypatch, given, args, message
):
    monkeypatch.setattr(Dataset, "prepare", None)
    with pytest.raises(InputError, match=message) as caught:
        Segmentation(given, args).fit(data)
    assert "\n" not in str(caught.value)


def test_what_is_no_network_is_refused():
    with pytest.raises(InputError, match="base_model must be the name of a model"):
        Segmentation(3)
    with pytest.raises(InputError, match="what builds one, got <class 'int'>"):
        Segmentation(int)
    with pytest.raises(InputError, match="with_channels' 'widht': did you mean"):
        Segmentation(with_channels, {"widht": 3})
    with pytest.raises(InputError, match="members must be names of models, got"):
        Ensemble([Net, Net])


def test_a_registered_network_is_measured_too(data, monkeypatch):
    monkeypatch.setattr(models.MODELS, "_entries", dict(models.MODELS._entries))
    models.MODELS.register("mine")(Net)
    with pytest.raises(InputError, match="says halo=1, and it looks at 3 voxels"):
        Segmentation("mine", {"halo": 1}).fit(data)
    assert Segmentation("mine").fit(data).model_.halo is None


def test_dead_units_and_weights_of_zero_hide_nothing():
    network = Net(dilation=5, halo=4, **SAID)
    network.requires_grad_(False)
    network.first.weight.zero_()
    network.first.bias.fill_(-100)
    with pytest.raises(InputError, match="halo=4, and it looks at 5 voxels"):
        check_reach(network)
    network.halo = 5
    check_reach(network)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("first.bias"), "'first.bias' is missing from the weights"),
        (lambda w: w.update(more=torch.ones(1)), "'more' is among the weights, but no"),
        (
            lambda w: w.update({"first.bias": torch.ones(3)}),
            r"'first.bias' is float32 \(3,\) in the weights, float32 \(4,\) in the n",
        ),
        (
            lambda w: w.update({"first.bias": w["first.bias"].double()}),
            r"'first.bias' is float64 \(4,\) in the weights, float32 \(4,\)",
        ),
        (lambda w: w["first.bias"].fill_(torch.inf), "'first.bias' holds NaN or inf"),
        (lambda w: w["norm.running_var"].fill_(-1), "holds variances below 0"),
        (lambda w: w.pop("norm.running_mean"), "'norm.running_mean' is missing"),
    ],
)
def test_weights_that_are_not_the_networks_are_refused(change, message):
    network = Net()
    network.norm = nn.BatchNorm3d(2)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    load_weights(network, weights)
    change(weights)
    with pytest.raises(InputError, match=message):
        load_weights(network, weights)
