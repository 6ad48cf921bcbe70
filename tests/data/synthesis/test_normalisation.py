"""Figures of heads that follow from counts of label values."""

import math

import pytest
import torch

from nobrainer.data.synthesis.anatomy import Anatomy
from nobrainer.data.synthesis.draws import Draws
from nobrainer.data.synthesis.intensities import draw_look
from nobrainer.data.synthesis.normalisation import count_values, measure_head
from nobrainer.recipe import Synthesis

PLAIN = Synthesis(noise=0, gamma=1, strip=0)
COUNTS = torch.tensor([[600.0, 300.0, 100.0]])


def look_of(means, spread, noise=0.0):
    """What is drawn for a head of three label values, the first without texture."""
    anatomy = Anatomy.of([0, 16, 24], {16: 1})
    look = draw_look(anatomy, PLAIN, Draws([0], torch.device("cpu")))
    return look._replace(
        means=torch.tensor([means]),
        spreads=torch.tensor([[0.0, spread, spread]]),
        noise=torch.full_like(look.noise, noise),
    )


def test_a_head_of_two_normal_distributions():
    mean, spread = measure_head(look_of([0.0, 0.5, 0.8], 0.02), COUNTS, PLAIN)
    assert float(mean) == pytest.approx(0.575, rel=1e-5)
    between = 0.3 * math.sqrt(0.75 * 0.25)
    assert float(spread) == pytest.approx(math.hypot(0.02, between), rel=1e-4)


def test_noise_of_both_parts_adds_its_variance_to_the_squares():
    noisy = Synthesis(noise=0.1, gamma=1, strip=0)
    look = look_of([0.0, 0.5, 0.8], 0.02, 0.04)
    mean, spread = measure_head(look, COUNTS, noisy)
    squares = 0.75 * 0.5**2 + 0.25 * 0.8**2 + 0.02**2 + 2 * 0.04**2
    assert float(mean**2 + spread**2) == pytest.approx(squares, rel=1e-4)


def test_an_empty_head_counts_as_a_whole():
    counts = torch.tensor([[1000.0, 0.0, 0.0]])
    mean, spread = measure_head(look_of([0.3, 0.5, 0.8], 0.02), counts, PLAIN)
    assert (float(mean), float(spread)) == (pytest.approx(0.3), 1)


def test_what_stripping_takes_away_is_background():
    look = look_of([0.0, 0.5, 0.8], 0.0)
    stripped = torch.ones_like(look.is_stripped)
    bare = torch.tensor([[False, True, False]])
    look = look._replace(is_stripped=stripped, is_brain=bare)
    mean, spread = measure_head(look, COUNTS, PLAIN)
    # One intensity is left, which has no spread to divide by.
    assert (float(mean), float(spread)) == (pytest.approx(0.5), 1)


def test_label_values_are_counted_on_a_lattice():
    maps = torch.zeros(2, 130, 128, 128, dtype=torch.uint8)
    maps[1, :65] = 2
    whole = [65 * 64**2, 0, 0, 0], [32 * 64**2, 0, 33 * 64**2, 0]
    assert count_values(maps, 4).tolist() == list(map(list, whole))
