"""Pairs of networks, real images at their stages, and images of label maps."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from nobrainer.data.synthesis import synthesise
from nobrainer.errors import InputError
from nobrainer.generators import (
    GENERATORS,
    LabelMaps,
    Phase,
    RealImages,
    Stage,
    build,
    sample,
)
from nobrainer.generators.layers import double, halve
from nobrainer.generators.progressive import plan_phases
from nobrainer.recipe import Synthesis

GROWING = {"latent_size": 8, "fmap_base": 8, "fmap_max": 8, "n_classes": 3}
CPU = torch.device("cpu")


def growing(schedule=(4, 8, 16), steps=6):
    torch.manual_seed(0)
    return build(
        "progressivegan", resolution_schedule=schedule, steps_per_phase=steps, **GROWING
    ).eval()


@torch.inference_mode()
def test_a_resolution_that_begins_to_fade_in_changes_nothing():
    gan, latents = growing(), torch.randn(3, 8)
    coarse = gan.make(latents, Stage(8))
    begun = gan.make(latents, Stage(16, 1e-7))
    assert coarse.shape == (3, 4, 8, 8, 8)
    assert_close(begun, double(coarse), atol=1e-5, rtol=0)
    assert not torch.allclose(gan.make(latents, Stage(16)), begun, atol=0.1)
    judged = gan.judge(begun, Stage(16, 1e-7))
    assert_close(judged, gan.judge(coarse, Stage(8)), atol=1e-4, rtol=0)


def test_a_critic_sees_how_much_a_batch_differs():
    gan = growing()
    images = torch.rand(2, 4, 4, 4, 4)
    alone = gan.judge(images[[0, 0]], Stage(4))[0]
    assert not torch.isclose(alone, gan.judge(images, Stage(4))[0], atol=1e-3)


def test_phases_fade_in_over_half_their_steps():
    phases = plan_phases([4, 8], [3, 8])
    assert phases == (Phase(4, 3, 0), Phase(8, 8, 4))
    assert [phases[1].stage(k).fade for k in (0, 1, 3, 4, 7)] == [0.25, 0.5, 1, 1, 1]
    assert phases[0].stage(0) == Stage(4, 1.0)


@pytest.mark.parametrize(
    ("schedule", "steps", "said"),
    [
        ([4, 16], 5, "each is twice"),
        ([], 5, "each is twice"),
        ([2, 4], 5, "resolution_schedule must be"),
        ([4, 8], [5], "has 1 numbers"),
        ([4, 8], 0, "steps_per_phase"),
    ],
)
def test_a_schedule_that_cannot_be_grown_is_refused(schedule, steps, said):
    with pytest.raises(InputError, match=said):
        growing(schedule, steps)


def test_names_and_arguments_have_a_near_miss():
    assert set(GENERATORS) == {"progressivegan", "dcgan", "label_synthesis"}
    with pytest.raises(InputError, match="did you mean 'progressivegan'"):
        build("progresivegan")
    with pytest.raises(InputError, match="did you mean 'latent_size'"):
        build("dcgan", latent_sise=3)


def test_one_network_of_one_resolution_makes_images_and_labels():
    gan = build("dcgan", latent_size=4, n_filters=2, resolution=16, n_classes=2).eval()
    made = sample(gan, Stage(16), [1, 2], CPU)
    assert made.shape == (2, 3, 16, 16, 16)
    assert float(made[:, 0].abs().max()) <= 1
    assert_close(made[:, 1:].sum(1), torch.ones(2, 16, 16, 16))
    assert gan.judge(made, Stage(16)).shape == (2,)
    # The image of a seed does not depend on those beside it.
    assert torch.equal(sample(gan, Stage(16), [2], CPU), made[1:])


def test_real_images_lose_the_details_that_are_not_faded_in():
    image = torch.rand(3, 1, 8, 8, 8)
    label = torch.randint(0, 2, (3, 8, 8, 8), dtype=torch.int16)
    real = RealImages(image, label, 2)
    which = torch.tensor([2, 0])
    fine = real.at(which, Stage(8))
    assert torch.equal(fine[:, 2], label[which].float())
    assert torch.equal(fine[:, 1], 1 - fine[:, 2])
    assert_close(real.at(which, Stage(4)), halve(fine))
    half = real.at(which, Stage(8, 0.25))
    assert_close(half, 0.25 * fine + 0.75 * double(halve(fine)))


def test_images_of_maps_are_those_of_the_synthesis():
    values, classes = (0, 2, 41), (0, 1, 1)
    synthesis = Synthesis(warp_mm=0.0, crop=0.0, strip=0.0, pairs=())
    maps = LabelMaps(vars(synthesis), values, classes, [(8, 8, 8), (8, 9, 10)])
    labels = np.zeros((8, 9, 10), int)
    labels[2:6, 2:6, 2:6] = 41
    positions = torch.from_numpy(maps.anatomy.positions(labels))
    maps.keep(1, positions)
    made = maps.draw(7, (1, 1, 1))
    again = synthesise(
        positions[None].to(torch.int16),
        maps.anatomy,
        synthesis,
        [7],
        spacing_mm=(1, 1, 1),
    )
    assert made.image.shape == (1, 1, 8, 9, 10)
    assert torch.equal(made.image, again.image)
    assert set(made.label.unique().tolist()) == {0, 1}
    # An even seed takes the other map, which is empty.
    assert not maps.draw(8, (1, 1, 1)).label.any()
