"""The loop for a network and a loader of one's own, against a loop by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, TensorDataset

from nobrainer import models
from nobrainer.errors import InputError
from nobrainer.training import engine, fit
from nobrainer.training.checkpoint import LAST, read_checkpoint

SIDE = 8


def patches(n: int = 6) -> tuple[Tensor, Tensor]:
    """Images of noise, whose bright voxels are of class 1."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, 1, SIDE, SIDE, SIDE, generator=generator)
    return images, (images[:, 0] > 0.5).long()


def loader(*tensors: Tensor, **how: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*(tensors or patches())), batch_size=2, **how)


def network(name: str = "unet", **args: Any) -> nn.Module:
    small = {"channels": (4, 8), "norm": "none"} if name == "unet" else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.get(name)(**(small | args))


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01)


def by_hand(model: nn.Module, n_epochs: int) -> list[float]:
    """The mean loss of each epoch of a plain loop."""
    optimizer, criterion = adam(model), nn.CrossEntropyLoss()
    means = []
    for _ in range(n_epochs):
        losses = []
        for images, labels in loader():
            loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        means.append(sum(losses) / len(losses))
    return means


def test_it_does_what_a_plain_loop_does() -> None:
    ours, plain = network(), network()
    rows = fit(ours, loader(), nn.CrossEntropyLoss(), adam(ours), max_epochs=3, gpus=0)
    assert [row["loss"] for row in rows] == pytest.approx(by_hand(plain, 3), rel=1e-4)
    assert [(row["epoch"], row["steps"], row["kl"]) for row in rows] == [
        (1, 3, 0.0),
        (2, 3, 0.0),
        (3, 3, 0.0),
    ]
    assert all(row["learning_rate"] == 0.01 for row in rows)
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_labels_may_come_in_every_usual_form() -> None:
    images, labels = patches()

    def cross_entropy(logits: Tensor, given: Tensor) -> Tensor:
        shares = given if given.shape[1] == 2 else one_hot(given[:, 0].long(), 2)
        shares = shares if given.shape[1] == 2 else shares.movedim(-1, 1)
        return nn.functional.cross_entropy(logits, shares.float())

    plain = nn.CrossEntropyLoss()
    forms: list[tuple[Tensor, Any]] = [
        (labels, plain),
        (labels[:, None].float(), cross_entropy),
        (one_hot(labels, 2).movedim(-1, 1).float(), cross_entropy),
    ]
    rows = []
    for given, criterion in forms:
        model = network()
        rows += fit(model, loader(images, given), criterion, adam(model), gpus=0)
    assert [row["dice"] for row in rows] == pytest.approx([rows[0]["dice"]] * 3)
    assert [row["loss"] for row in rows] == pytest.approx([rows[0]["loss"]] * 3)
    assert rows[0]["dice"] > 0.1


def test_a_network_of_one_channel_may_learn_the_foreground() -> None:
    images, labels = patches()
    model = nn.Conv3d(1, 1, 1)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(-0.5)
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    data = loader(images, labels[:, None].float())
    (row,) = fit(model, data, nn.BCEWithLogitsLoss(), still, gpus=0)
    assert row["dice"] == 1.0


def test_a_bayesian_network_minimises_its_divergence_as_well() -> None:
    model = network("bayesian_vnet", base_filters=2, levels=2)
    (row,) = fit(model, loader(), nn.CrossEntropyLoss(), adam(model), gpus=0)
    assert row["kl"] > 100
    assert row["loss"] > row["data_loss"] > 0


def test_batches_may_be_dictionaries_and_files_are_named() -> None:
    images, labels = patches(2)
    images[1] = torch.inf
    batch = [{"image": images[n], "label": labels[n], "source": "a"} for n in (0, 1)]
    model = network()
    with pytest.raises(InputError, match=r"loss is nan in epoch 1, batch 1 \(a, a"):
        fit(model, DataLoader(batch, 2), nn.CrossEntropyLoss(), adam(model), gpus=0)


def test_a_resumed_training_ends_as_one_that_never_stopped(tmp_path) -> None:
    told: list[int] = []

    def train(folder: str, n_epochs: int, **how: Any) -> nn.Module:
        model = network()
        fit(
            *(model, loader(), nn.CrossEntropyLoss(), adam(model), n_epochs, 0),
            checkpoint_dir=tmp_path / folder,
            on_epoch=lambda row: told.append(row["epoch"]),
            **how,
        )
        return model

    train("two", 1)
    resumed, whole = train("two", 3, resume=True), train("one", 3)
    assert told == [1, 2, 3, 1, 2, 3]
    for one, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert one.equal(other)
    kept = read_checkpoint(tmp_path / "two" / LAST).model_weights
    assert kept["net.model.0.conv.weight"].equal(whole.net.model[0].conv.weight)
    with pytest.raises(InputError, match="resume"):
        train("one", 3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lr": 0.1}, r"last.*: cannot resume: lr of .* was 0\.01 and now is 0\.1;"),
        ({"betas": (0.5, 0.9)}, r"betas of .* was \[0\.9, 0\.999\] and now is \[0\.5"),
        ({"foreach": True}, None),
    ],
)
def test_a_resumed_training_has_the_same_optimiser(tmp_path, changed, message) -> None:
    def train(n_epochs: int, **how: Any) -> list[dict[str, Any]]:
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), **({"lr": 0.01} | how))
        given = model, loader(), nn.CrossEntropyLoss(), optimizer, n_epochs, 0, tmp_path
        return fit(*given, resume=True)

    train(1)
    if message is None:
        assert len(train(2, **changed)) == 2
        return
    with pytest.raises(InputError, match=message):
        train(2, **changed)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([torch.zeros(2)], "must give pairs .*got Tensor"),
        ([(torch.zeros(2, 8, 8, 8), torch.zeros(2))], r"float32 \(2, 8, 8, 8\)"),
        ([(torch.zeros(2, 1, 8, 8, 8), [0, 1])], "label of a batch must be a tensor"),
        ([(torch.zeros(2, 1, 7, 8, 8), torch.zeros(2))], r"makes \(1, 2, 8, 8, 8\)"),
        ([], "must give pairs"),
    ],
)
def test_batches_that_cannot_be_used_are_refused(batches: list, message: str) -> None:
    model = network()
    data = DataLoader(batches, batch_size=None)
    with pytest.raises(InputError, match=message):
        fit(model, data, nn.CrossEntropyLoss(), adam(model), gpus=0)


def test_arguments_that_cannot_be_followed_are_refused(monkeypatch) -> None:
    model = network()
    given = (model, loader(), nn.CrossEntropyLoss(), adam(model))
    monkeypatch.setattr(engine, "count_gpus", lambda: 1)
    with pytest.raises(InputError, match="gpus=2 but this machine has 1: gpus=0 takes"):
        fit(*given, gpus=2)
    with pytest.raises(InputError, match="max_epochs must be a whole number >= 1"):
        fit(*given, max_epochs=0)
    with pytest.raises(InputError, match="resume needs checkpoint_dir"):
        fit(*given, resume=True)
