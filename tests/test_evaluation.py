"""Evaluation against figures computed directly from known probabilities."""

import math
import weakref
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nobrainer.data.labels import LabelTable
from nobrainer.data.patches import Prepared
from nobrainer.errors import InputError
from nobrainer.evaluation import Row, evaluate, summarise
from nobrainer.inference.predict import Sampling


class Known(nn.Module):
    """Probability of class 1 is the logistic function of the image's value."""

    stride, halo, width = 1, 0, 1

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x), x], dim=1)


def prepared(image: np.ndarray, label: np.ndarray | None, name: str = "a") -> Prepared:
    return Prepared(
        name,
        image.astype(np.float32),
        label,
        np.eye(4),
        background=-9.0,
        floor=-9.0,
        spread=1.0,
    )


def run(
    volumes: Iterable[Prepared], block_shape: tuple[int, int, int] | None = None
) -> list[Row]:
    return evaluate(
        Known(),
        volumes,
        Sampling(seed=0, n_samples=0, block_shape=block_shape),
        n_classes=2,
        labels=LabelTable(("background", "brain")),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def cube(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A cube of 4³ voxels predicted one voxel too far, with odds 3:1 everywhere."""
    label = np.zeros(shape, np.uint8)
    label[8:12, 8:12, 8:12] = 1
    image = np.full(shape, -math.log(3))
    image[8:12, 8:12, 9:13] = math.log(3)
    return image, label


def test_figures_by_hand() -> None:
    image, label = cube((20, 20, 40))
    figures = {(r.metric, r.region): r.value for r in run([prepared(image, label)])}
    # 48 of 64 + 64 voxels overlap, 32 are wrong.
    assert figures["dice", "volume"] == pytest.approx(0.75)
    # 4 + 2 x 5 voxels a side; all of the wrong ones lie inside.
    for region, n in (("volume", 20 * 20 * 40), ("foreground", 14**3)):
        nll = (32 * math.log(4) + (n - 32) * math.log(4 / 3)) / n
        brier = (32 * 2 * 0.75**2 + (n - 32) * 2 * 0.25**2) / n
        ece = abs(0.75 - (n - 32) / n)
        assert figures["nll", region] == pytest.approx(nll, rel=1e-5)
        assert figures["brier", region] == pytest.approx(brier, rel=1e-5)
        assert figures["ece", region] == pytest.approx(ece, rel=1e-5)
    assert len(figures) == 7


def test_tiles_do_not_matter() -> None:
    volume = prepared(*cube((20, 20, 40)))
    for one, other in zip(run([volume]), run([volume], (7, 16, 9)), strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-6)
        assert (one.metric, one.region) == (other.metric, other.region)


def test_what_is_absent_has_no_row() -> None:
    volume = prepared(np.full((6, 6, 6), -1.0), np.zeros((6, 6, 6), np.uint8))
    assert {(r.metric, r.region) for r in run([volume])} == {
        ("nll", "volume"),
        ("brier", "volume"),
        ("ece", "volume"),
    }


def test_one_volume_is_held_at_a_time() -> None:
    alive: list[weakref.ref[Prepared]] = []

    def volumes() -> Iterator[Prepared]:
        for name in "abc":
            assert sum(ref() is not None for ref in alive) <= 1
            volume = prepared(*cube((20, 20, 20)), name)
            alive.append(weakref.ref(volume))
            yield volume
            del volume

    rows = run(volumes())
    assert [row.subject for row in rows] == ["a"] * 7 + ["b"] * 7 + ["c"] * 7


def test_labels_are_needed() -> None:
    with pytest.raises(InputError, match="scan: has no labels"):
        run([prepared(np.zeros((4, 4, 4)), None, "scan")])


def test_summary_is_the_mean_over_subjects_then_structures() -> None:
    rows = [
        Row("a", "volume", "grey", "dice", 0.8),
        Row("b", "volume", "grey", "dice", 0.6),
        Row("a", "volume", "white", "dice", 0.9),
        Row("a", "volume", "all", "ece", 0.1),
        Row("b", "volume", "all", "ece", 0.3),
        Row("a", "foreground", "all", "ece", 0.5),
    ]
    expected = {
        "dice": 0.8,
        "dice/grey": 0.7,
        "dice/white": 0.9,
        "ece": 0.2,
        "ece/foreground": 0.5,
    }
    assert summarise(rows) == pytest.approx(expected)
    assert summarise([]) == {}
