"""The loop of a generator and its critic."""

import math

import pytest
import torch
from torch.testing import assert_close

from nobrainer.errors import DivergedError, InputError
from nobrainer.generators import Phase, RealImages, build
from nobrainer.recipe import (
    AdversarialConfig,
    GeneratorRecipe,
    ImagesConfig,
    ModelConfig,
    Provenance,
)
from nobrainer.training.adversarial import (
    Adversarial,
    AdversarialJob,
    lack_of_variety,
    squared_gradient,
)
from nobrainer.training.phases import PhasePlan

ARGS = {
    "latent_size": 4,
    "fmap_base": 4,
    "fmap_max": 4,
    "resolution_schedule": [4, 8],
    "steps_per_phase": 6,
    "n_classes": 2,
}
CPU = torch.device("cpu")


class Silent:
    def __init__(self):
        self.lines = []

    def begin(self, what, total):
        self.lines.append((what, total))

    def advance(self, done, total):
        self.last = done, total

    def note(self, text):
        self.lines.append(text)


def config(epochs=None, **given):
    usual = {
        "batch_size": 2,
        "learning_rate": 1e-3,
        "penalty": 1.0,
        "penalty_every": 2,
        "averaging": 0.9,
        "seed": 3,
    }
    return AdversarialConfig(epochs, **(usual | given))


def prepare(folder=None, epochs=None, on_phase=None, **given):
    torch.manual_seed(0)
    gan = build("progressivegan", **ARGS)
    numbers = torch.Generator().manual_seed(1)
    image = torch.rand(5, 1, 8, 8, 8, generator=numbers) * 2 - 1
    images = RealImages(image, (image[:, 0] > 0).to(torch.uint8), 2)
    recipe = GeneratorRecipe(
        ModelConfig("progressivegan", ARGS),
        ImagesConfig((8, 8, 8), (1.0, 1.0, 1.0), 0.0, 1.0, 2, 5, None),
        config(epochs, **given),
        Provenance("", "", {}, (), {}),
    )
    job = AdversarialJob(gan, images, recipe, CPU, folder, on_phase)
    return Adversarial(job, Silent())


def timeless(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_a_training_that_is_killed_and_resumed_ends_with_the_same_bits(tmp_path):
    whole = prepare()
    history = whole.run()

    class PowerCut(Exception):
        pass

    def cut(training, number):
        if number == 1:
            raise PowerCut

    with pytest.raises(PowerCut):
        prepare(tmp_path, on_phase=cut).run()
    resumed = prepare(tmp_path)
    resumed.resume(tmp_path)
    assert resumed.step == 6
    assert timeless(resumed.run()) == timeless(history)
    ours, theirs = whole.gan.state_dict(), resumed.gan.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    # Phases of 6 steps of two images each: five images are through after 3, 5, 8, ...
    assert [row["step"] for row in history] == [3, 5, 8, 10]
    assert [row["resolution"] for row in history] == [4, 4, 8, 8]
    assert whole.progress.lines[0] == ("phase 1 of 2: 4 x 4 x 4", 6)
    with pytest.raises(InputError, match=r"training.seed was 3 and now is 4"):
        prepare(tmp_path, seed=4).resume(tmp_path)


def test_every_image_comes_once_in_a_pass():
    training = prepare()
    seen = []
    for training.step in range(5):
        seen += training._next_images().tolist()
    assert sorted(seen[:5]) == sorted(seen[5:]) == [0, 1, 2, 3, 4]
    assert seen[:5] != seen[5:]


def test_the_generator_keeps_the_average_of_its_weights():
    training = prepare(averaging=0.5)
    weights = []
    move = training._move

    def record(stage):
        move(stage)
        weights.append(training.gan.generator.dense.weight.detach().clone())

    training._move = record
    training.run()
    shares = 0.5 ** torch.arange(11, -1, -1.0)
    expected = sum(s * w for s, w in zip(shares / shares.sum(), weights, strict=True))
    assert_close(training.gan.generator.dense.weight.detach(), expected)


def test_a_loss_that_is_not_finite_ends_the_training():
    training = prepare()
    with torch.no_grad():
        training.gan.critic.score.weight.fill_(math.nan)
    with pytest.raises(DivergedError, match="is nan in step 1, at 4 voxels a side"):
        training.run()


def test_variety_is_that_of_shapes_beside_real_ones():
    flat = torch.tensor([0.0, 1.0])[:, None, None, None, None].expand(2, 1, 16, 16, 16)
    # Half as different, equally different or more, and not at all.
    for factor, lacking in ((0.5, 0.5), (1.0, 0.0), (-3.0, 0.0), (0.0, 1.0)):
        assert_close(lack_of_variety(factor * flat, flat), torch.tensor(lacking))
    # Noise that is gone at eight voxels a side is none.
    noise = torch.ones(2, 1, 16, 16, 16)
    noise[..., ::2] = noise[1:] = -1
    noise[1:, ..., ::2] = 1
    assert_close(lack_of_variety(noise, flat), torch.tensor(1.0))
    assert lack_of_variety(flat[:1], flat[:1]) == 0


def test_the_squared_gradient_of_a_known_score():
    x = torch.randn(3, 1, 2, 2, 2, requires_grad=True)
    scores = 0.5 * (x**2).flatten(1).sum(1)
    assert_close(squared_gradient(scores, x), (x**2).flatten(1).sum(1).mean())


PHASES = (Phase(4, 10, 0), Phase(8, 10, 5), Phase(16, 10, 5))


def test_epochs_cut_phases_off_or_prolong_the_last_one():
    plan = PhasePlan.of(PHASES, 10, 4, config(6))
    assert (plan.steps, len(plan.phases)) == (15, 2)
    assert plan.phase_of(9) == (0, 0, 10)
    assert plan.phase_of(10) == (1, 10, 15)
    assert [plan.epoch_end(epoch) for epoch in range(3)] == [3, 5, 8]
    long = PhasePlan.of(PHASES, 10, 4, config(100))
    assert long.phase_of(200) == (2, 20, 250)
    assert PhasePlan.of(PHASES, 10, 4, config()).steps == 30
