"""Figures of generated images, against closed forms."""

import nibabel as nib
import numpy as np
import pytest
import torch

import nobrainer as nb
from balls import ball
from nobrainer.bayes.draws import realise
from nobrainer.data.preprocess import preprocess_image
from nobrainer.errors import InputError
from nobrainer.glossary import OF_GENERATORS
from nobrainer.io import read_image
from nobrainer.realism import (
    Comparison,
    features,
    frechet_distance,
    gaussian_distance,
    measure,
    nearest,
    similarity,
)


def pairs(numbers):
    made = []
    for number in numbers:
        image, label = ball(number)
        # Eight voxels a side, in the middle.
        cubes = (x[::3, ::3, ::3] for x in (image, label))
        made.append(tuple(nib.Nifti1Image(x, np.diag([3, 3, 3, 1.0])) for x in cubes))
    return made


def test_the_distance_of_normal_distributions_in_one_dimension():
    one = (np.array([0.0]), np.array([[4.0]]))
    other = (np.array([3.0]), np.array([[25.0]]))
    assert gaussian_distance(*one, *other) == pytest.approx(9 + (5 - 2) ** 2)


def test_the_distance_of_normal_distributions_with_correlation():
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    a, b = rng.uniform(0.5, 3, (2, 4))
    first, second = (turn @ np.diag(v**2) @ turn.T for v in (a, b))
    mean = rng.normal(size=4)
    # They share axes, along which the roots of the variances differ.
    expected = np.sum(mean**2) + np.sum((a - b) ** 2)
    found = gaussian_distance(np.zeros(4), first, mean, second)
    assert found == pytest.approx(expected)
    # Covariances that do not commute: [[2, 1], [1, 2]] and diag(1, 4).
    c, c2 = np.array([[2.0, 1], [1, 2]]), np.diag([1.0, 4])
    root = np.sqrt(10 + 2 * np.sqrt(np.linalg.det(c) * np.linalg.det(c2)))
    assert gaussian_distance(np.zeros(2), c, np.zeros(2), c2) == pytest.approx(
        4 + 5 - 2 * root
    )


def test_samples_of_one_distribution_are_near_and_a_shift_counts_squared():
    rng = np.random.default_rng(0)
    sample = rng.normal(size=(500, 3))
    assert frechet_distance(sample, sample) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(sample, sample + np.array([2, 0, 0])) == pytest.approx(4)
    assert frechet_distance(sample, rng.normal(size=(500, 3))) < 0.05


def test_the_nearest_image_and_how_far_it_is():
    rng = np.random.default_rng(0)
    others = rng.normal(size=(5, 4, 4, 4))
    images = np.stack([others[3], others[1] + 0.5])
    found = nearest(images, others)
    assert found == pytest.approx([0, 0.5 / others.std()], abs=1e-6)


def test_images_that_are_the_same_have_similarity_one():
    rng = np.random.default_rng(0)
    same = np.repeat(rng.uniform(size=(1, 16, 16, 16)), 3, 0)
    assert similarity(same) == pytest.approx(1, abs=1e-5)
    noise = rng.uniform(size=(3, 16, 16, 16))
    noisy = 0.8 * same + 0.2 * noise
    assert similarity(noise) < 0.3 < similarity(noisy) < 0.99
    with pytest.raises(InputError, match="needs 5 voxels a side"):
        similarity(noise[:, :4, :4, :4])


def test_features_are_means_of_what_the_last_layer_gets():
    torch.manual_seed(0)
    real = pairs([0, 1])
    dataset = nb.Dataset.from_files(real, (8, 8, 8)).batch(2).patches(per_volume=2)
    args = {"base_filters": 3, "levels": 2}
    model = nb.Segmentation("vnet", args).fit(dataset, max_steps=1, verbose=False)
    images = [image for image, _ in real]
    found = features(model, images)
    assert found.shape == (2, 3)
    # The last layer is linear: its mean is its value at the mean of its input.
    network = realise(model.model_, None)
    volume = preprocess_image(read_image(images[1]), model.recipe_.preprocess)
    with torch.inference_mode():
        logits = network(torch.from_numpy(volume.data)[None, None])
        head = [m for m in network.modules() if isinstance(m, torch.nn.Conv3d)][-1]
        expected = head.weight.flatten(1).double() @ torch.from_numpy(found[1])
        expected += head.bias
    assert torch.allclose(logits.double().mean((0, 2, 3, 4)), expected, atol=1e-5)


def test_all_figures_stand_in_the_glossary_and_say_what_is_better():
    real = Comparison(pairs(range(3)), pairs(range(3, 5)))
    args = {"latent_size": 2, "fmap_base": 4, "fmap_max": 4}
    args |= {"resolution_schedule": [8], "steps_per_phase": 1}
    dataset = nb.Dataset.from_files(real.seen).binarize()
    generator = nb.Generation("progressivegan", args).fit(dataset, verbose=False)
    found = measure(generator, real, None, n_generated=2, n_pairs=2, steps=12)
    assert found.keys() | {"frechet", "frechet_real"} == OF_GENERATORS.keys()
    # One step of training gives noise: far from any head, and of no use.
    assert found["nearest_generated"] > 1.5 * found["nearest_real"]
    assert found["dice_real"] > found["dice_generated"]
    generator.state_figures(found)
    with pytest.raises(InputError, match="two images or more"):
        Comparison(real.seen, real.new[:1])
