"""Augmentation changes patches as told, repeatably, and keeps labels whole."""

import numpy as np
import pytest
import torch
from monai.data.meta_obj import get_track_meta, set_track_meta

from nobrainer.data.augment import Augmentation, Profile
from nobrainer.data.transforms import compose
from nobrainer.errors import InputError

BLOCK = (16, 12, 20)


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
    still = Profile(
        rotation_deg=20, scale=0.2, bias=0, gamma=1, noise=0, blur=0, probability=0
    )
    augmentation = Augmentation(compose(still, BLOCK), (4, 3, 5))
    image, label = patch(augmentation)
    for seed in range(5):
        moved, turned = augmentation.apply(image, label, floor=50, spread=90, seed=seed)
        # Half way between 50 and 350: the image's own idea of where the ball is.
        agreement = ((moved[0] > 200) == (turned == 3)).float().mean()
        assert agreement > 0.99
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


def test_none_is_nothing_and_unknown_is_refused():
    assert Augmentation.build("none", BLOCK) is None
    with pytest.raises(InputError, match="did you mean 'standard'"):
        Augmentation.build("standart", BLOCK)


def test_other_users_of_monai_keep_their_records():
    from_profile = Augmentation.build("standard", BLOCK)
    for tracked in (True, False):
        set_track_meta(tracked)
        try:
            from_profile.apply(*patch(from_profile), floor=0, spread=1, seed=0)
            assert get_track_meta() is tracked
        finally:
            set_track_meta(True)
