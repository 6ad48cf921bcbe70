"""Augmentation changes patches as told, repeatably, and keeps labels whole."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from nobrainer.data.augment import Augmentation, Profile, _turn, rotation
from nobrainer.errors import InputError

BLOCK = (16, 12, 20)
NOTHING = Profile(
    rotation_deg=0, scale=0, bias=0, gamma=1, noise=0, blur=0, probability=1
)


def ball(shape, radius):
    axes = [np.arange(n) - (n - 1) / 2 for n in shape]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    return torch.from_numpy((grid**2).sum(0) < radius**2)


def patch(augmentation):
    shape = [n + 2 * m for n, m in zip(BLOCK, augmentation.margin, strict=True)]
    label = ball(shape, 5).long() * 3
    image = label[None].float() * 100 + 50
    return image, label


@pytest.mark.parametrize("profile", ["standard", "strong"])
def test_same_seed_same_patch(profile):
    augmentation = Augmentation.build(profile, BLOCK)
    image, label = patch(augmentation)
    kept = image.clone()

    def run(seed):
        return augmentation.apply(image, label, floor=50, spread=90, seed=seed)

    first, first_label = run(4)
    run(5)
    again, again_label = run(4)
    assert first.shape == (1, *BLOCK)
    assert first_label.shape == BLOCK
    assert type(first) is torch.Tensor
    assert first_label.dtype == torch.int64
    assert torch.equal(first, again)
    assert torch.equal(first_label, again_label)
    assert not torch.equal(first, run(5)[0])
    assert torch.equal(image, kept)


def test_labels_stay_labels_and_keep_their_volume():
    augmentation = Augmentation.build("standard", BLOCK)
    image, label = patch(augmentation)
    sizes = []
    for seed in range(20):
        _, turned = augmentation.apply(image, label, floor=50, spread=90, seed=seed)
        assert set(turned.unique().tolist()) == {0, 3}
        sizes.append(int((turned == 3).sum()))
    # Each axis is scaled by at most 10 %.
    assert 0.9**3 < np.mean(sizes) / int((label == 3).sum()) < 1.1**3
    assert np.std(sizes) > 0


def test_image_and_label_turn_together():
    moving = replace(NOTHING, rotation_deg=20, scale=0.2)
    augmentation = Augmentation(moving, BLOCK)
    image, label = patch(augmentation)
    for seed in range(5):
        moved, turned = augmentation.apply(image, label, floor=50, spread=90, seed=seed)
        # Half way between 50 and 350: the image's own idea of where the ball is.
        agreement = ((moved[0] > 200) == (turned == 3)).float().mean()
        # A voxel apart it is 0.973 at most.
        assert agreement > 0.98
        assert 49.9 < float(moved.min()) < 50.1
        assert 349.9 < float(moved.max()) < 350.1


def test_unit_of_intensity_does_not_matter():
    augmentation = Augmentation.build("strong", BLOCK)
    image, label = patch(augmentation)
    for seed in range(4):
        one, _ = augmentation.apply(image, label, floor=50, spread=90, seed=seed)
        other, _ = augmentation.apply(
            image / 10 - 7, label, floor=-2, spread=9, seed=seed
        )
        torch.testing.assert_close(other, one / 10 - 7, atol=1e-3, rtol=1e-4)


def test_tissue_up_to_the_edge_stays_up_to_the_edge():
    augmentation = Augmentation.build("strong", BLOCK)
    _, label = patch(augmentation)
    full = torch.ones_like(label)
    for seed in range(10):
        _, turned = augmentation.apply(
            full[None].float(), full, floor=0, spread=1, seed=seed
        )
        assert (turned == 1).all()


def test_a_flat_block_has_room_to_turn():
    """Of ramps along its short axis, none ends within the block."""
    block = (4, 32, 32)
    augmentation = Augmentation.build("standard", block)
    sizes = [n + 2 * m for n, m in zip(block, augmentation.margin, strict=True)]
    ramp = torch.arange(sizes[0], dtype=torch.float32)[:, None, None].expand(sizes)
    moving = Augmentation(replace(NOTHING, rotation_deg=10, scale=0.1), block)
    for seed in range(20):
        label = torch.zeros(sizes, dtype=torch.uint8)
        moved, _ = moving.apply(ramp[None], label, floor=0, spread=1, seed=seed)
        for axis in (2, 3):
            assert moved.diff(n=2, dim=axis).abs().max() < 1e-3


def test_none_is_nothing_and_unknown_is_refused():
    assert Augmentation.build("none", BLOCK) is None
    with pytest.raises(InputError, match="did you mean 'standard'"):
        Augmentation.build("standart", BLOCK)


def changed(image, seed=0, *, floor=0.0, spread=1.0, **changes):
    """The block (i, j, k) that a profile of some changes makes of a window."""
    augmentation = Augmentation(replace(NOTHING, **changes), BLOCK)
    label = torch.zeros(image.shape, dtype=torch.uint8)
    block, _ = augmentation.apply(
        image[None], label, floor=floor, spread=spread, seed=seed
    )
    return block[0]


def window(seed=0):
    """Noise from 0 to 1, the block with its margin, and its central block."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(26, 22, 30, generator=generator)
    return noise, noise[5:-5, 5:-5, 5:-5]


def test_a_profile_of_no_change_cuts_out_the_central_block():
    image, block = window()
    torch.testing.assert_close(changed(image), block, rtol=0, atol=1e-5)
    label = torch.randint(0, 50, image.shape, generator=torch.manual_seed(0))
    for kind in (torch.uint8, torch.uint16, torch.int64):
        _, turned = Augmentation(NOTHING, BLOCK).apply(
            image[None], label.to(kind), floor=0, spread=1, seed=0
        )
        assert turned.dtype == torch.int64
        assert torch.equal(turned, label[5:-5, 5:-5, 5:-5])


def test_voxels_move_by_a_rotation_and_a_scaling_within_the_profile():
    """Of three ramps along the axes, the change of coordinates can be read off."""
    axes = [torch.arange(n) - (n - 1) / 2 for n in (26, 22, 30)]
    largest_rad, scales, vectors = math.radians(10), [], []
    for seed in range(40):
        gradients = []
        for ramp in torch.meshgrid(*axes, indexing="ij"):
            moved = changed(ramp, seed, rotation_deg=10, scale=0.1)
            inner = moved[4:-4, 4:-4, 4:-4]
            gradients.append([inner.diff(dim=axis).mean() for axis in range(3)])
            # The block's centre stays in its place.
            assert moved.mean().abs() < 1e-3
        matrix = torch.tensor(gradients, dtype=torch.float64)
        square = matrix.t() @ matrix
        scales.append(square.diag().sqrt())
        torch.testing.assert_close(square, torch.diag(square.diag()), rtol=0, atol=1e-4)
        turn = matrix / scales[-1]
        assert torch.det(turn) == pytest.approx(1, abs=1e-4)
        angle = math.acos((float(turn.trace()) - 1) / 2)
        skew = (turn - turn.t()) / 2 * (angle / math.sin(angle))
        vectors.append(torch.stack([skew[2, 1], skew[0, 2], skew[1, 0]]))
    scales, vectors = torch.stack(scales), torch.stack(vectors)
    assert 0.9 < scales.min() < 0.92
    assert 1.08 < scales.max() < 1.1
    assert 0.9 * largest_rad < vectors.abs().max() < largest_rad
    # Uniform: the standard deviation of 120 is within a fifth of it.
    for found, largest in ((scales, 0.1), (vectors, largest_rad)):
        assert found.std() == pytest.approx(largest / math.sqrt(3), rel=0.2)


def test_the_bias_field_is_smooth_and_as_strong_as_the_profile_says():
    image, block = window()
    fields = []
    for seed in range(40):
        field = (changed(image + 1, seed, bias=0.1) / (block + 1)).log()
        fields.append(field)
        # Polynomials of third degree: their fourth differences vanish.
        for axis in range(3):
            assert field.diff(n=4, dim=axis).abs().max() < 1e-4 < field.std()
    # In a corner all 20 polynomials are 1 or -1, each with a coefficient from -0.1 to
    # 0.1: neither dark nor bright on average, and spread as their sum.
    for i, j, k in np.ndindex(2, 2, 2):
        corners = np.array([float(field[-i, -j, -k]) for field in fields])
        spread = 0.1 * math.sqrt(20 / 3)
        assert abs(corners.mean()) < 4 * spread / math.sqrt(len(corners))
        assert corners.std() == pytest.approx(spread, rel=0.35)


def test_gamma_bends_between_the_least_and_the_largest():
    image, block = window()
    low, high = block.min(), block.max()
    exponents = []
    for seed in range(40):
        bent = changed(image, seed, gamma=1.5)
        assert bent.min() == pytest.approx(float(low), abs=1e-5)
        assert bent.max() == pytest.approx(float(high), abs=1e-5)
        share = (block - low) / (high - low)
        middle = (share > 0.1) & (share < 0.9)
        exponent = ((bent - low) / (high - low))[middle].log() / share[middle].log()
        assert exponent.std() < 1e-3
        exponents.append(float(exponent.mean()))
    assert 1 / 1.5 <= min(exponents) < 0.75
    assert 1.4 < max(exponents) <= 1.501
    flat = torch.full_like(image, 0.3)
    assert torch.equal(changed(flat, gamma=1.5), changed(flat))


def test_blur_is_a_gaussian_mean_along_each_axis():
    image, block = window()
    ones = torch.ones_like(image)
    impulse = torch.zeros_like(image)
    impulse[13, 11, 15] = 1
    for seed in range(10):
        assert (changed(ones, seed, blur=1.5) - 1).abs().max() < 1e-5
        spot = changed(impulse, seed, blur=1.5)
        assert spot.sum() == pytest.approx(1, abs=5e-3)
        widths = []
        for axis, place in enumerate((8, 6, 10)):
            profile = spot.sum([a for a in range(3) if a != axis])
            assert profile[place - 1] == pytest.approx(
                float(profile[place + 1]), abs=1e-3
            )
            # Of a sampled Gaussian: exp(-1 / 2σ²) from the centre to its neighbour.
            ratio = float(profile[place + 1] / profile[place])
            widths.append(1 / math.sqrt(-2 * math.log(ratio)) if ratio else 0.0)
        assert max(widths) <= 1.5
        wanted = gaussian_filter(block.numpy(), widths, mode="nearest", truncate=8)
        got = changed(image, seed, blur=1.5)[5:-5, 5:-5, 5:-5]
        wanted = torch.from_numpy(wanted)[5:-5, 5:-5, 5:-5]
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-3)


def test_noise_is_white_and_in_the_unit_of_the_volume():
    image, block = window()
    strengths = []
    for seed in range(40):
        noise = changed(image * 7 + 3, seed, floor=3, spread=7, noise=0.2) - block * 7
        noise = (noise - 3) / 7
        strengths.append(float(noise.std()))
        few = 4 * strengths[-1] / math.sqrt(noise.numel())
        assert abs(float(noise.mean())) < few
        # White: neighbours know nothing of each other.
        for axis in range(3):
            pairs = noise * noise.roll(1, axis)
            assert abs(float(pairs.mean())) < few * strengths[-1]
    assert 0.17 < max(strengths) < 0.21
    assert min(strengths) < 0.03


def test_each_change_of_intensity_happens_as_often_as_the_profile_says():
    image, block = window()
    happened = []
    for seed in range(200):
        noisy = changed(image, seed, noise=0.5, probability=0.3)
        happened.append(float((noisy - block).abs().max()) > 1e-3)
    # Four standard errors.
    assert abs(np.mean(happened) - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 200)


@pytest.mark.parametrize("block", [(6, 8, 4), (52, 32, 30)])
@pytest.mark.parametrize("scale", [1.0, 0.5, 2.5])
def test_a_turned_block_is_that_of_grid_sample(block, scale):
    generator = torch.Generator().manual_seed(0)
    shape = tuple(n + 6 for n in block)
    image = torch.rand(shape, generator=generator)
    label = torch.randint(0, 200, shape, generator=generator, dtype=torch.uint8)
    # Places within and far beyond the window; halves lie on borders between voxels.
    matrix = scale * (
        torch.eye(3) if scale == 0.5 else rotation(torch.tensor([0.3, -0.2, 0.5]))
    )
    steps = 2 * matrix / torch.tensor(shape)[:, None]
    axes = [torch.arange(n) - (n - 1) / 2 for n in block]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) @ steps.t()
    moved, turned = _turn(image.numpy(), label.numpy(), matrix.numpy(), block)

    def expected(volume, mode):
        return torch.nn.functional.grid_sample(
            volume[None, None].float(),
            places.flip(-1)[None],
            mode=mode,
            padding_mode="border",
            align_corners=False,
        )[0, 0]

    torch.testing.assert_close(moved, expected(image, "bilinear"), rtol=0, atol=2e-5)
    # A place half way between two voxels can be rounded to either.
    assert (turned != expected(label, "nearest")).float().mean() < 1e-4


def test_halves_are_rounded_to_even_voxels_of_the_window():
    label = np.broadcast_to(np.arange(11)[:, None, None], (11, 11, 11))
    image = label.astype(np.float32)
    moved, turned = _turn(image, label, np.eye(3, dtype=np.float32), (4, 4, 4))
    assert moved[:, 0, 0].tolist() == [3.5, 4.5, 5.5, 6.5]
    assert turned[:, 0, 0].tolist() == [4, 4, 6, 6]
