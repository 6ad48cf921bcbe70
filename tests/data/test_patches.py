"""Where patches come from, and that chance is a function of the seed alone."""

import numpy as np
import pytest
import torch

from nobrainer.data.entries import Scan
from nobrainer.data.patches import (
    PatchSampler,
    crop,
    draw_origin,
    extract_patches,
    index_voxels,
)
from nobrainer.data.prepare import prepare_scan
from nobrainer.data.prepared import Preparation, Prepared
from nobrainer.errors import InputError
from nobrainer.recipe import DataConfig, PreprocessConfig

SHAPE = (12, 10, 14)


def config(**changes):
    settings = {
        "n_classes": 3,
        "block_shape": (4, 4, 4),
        "batch_size": 2,
        "patches_per_volume": 6,
        "foreground": 0.5,
        "shuffle": False,
    }
    return DataConfig(**(settings | changes))


def prepared(number=0):
    """Voxel values are their own address, so that a patch shows where it was cut."""
    image = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE) + 1e4 * number
    label = np.zeros(SHAPE, np.uint8)
    label[9:11, 7:9, 10:12] = 1
    label[1, 1, 1] = 2
    return Prepared(
        name=f"scan-{number}",
        image=image,
        label=label,
        affine=np.eye(4),
        background=float(image.min()),
        floor=float(image.min()),
        spread=float(image.std()),
        voxel_mm=(1.0, 1.0, 1.0),
    )


def epoch_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


def test_crop_fills_what_lies_outside():
    array = np.arange(8).reshape(2, 2, 2)
    window = crop(array, np.array([-1, 0, 1]), (4, 2, 2), fill=-5)
    expected = np.full((4, 2, 2), -5)
    expected[1:3, :, 0] = array[:, :, 1]
    assert np.array_equal(window, expected)
    inside = crop(array, np.array([0, 1, 0]), (2, 1, 2), fill=-5)
    assert np.array_equal(inside, array[:, 1:])
    inside[:] = 0
    assert array.sum() == 28


def test_index_holds_every_class_and_at_most_5000_voxels():
    label = np.zeros((30, 30, 30), np.uint8)
    label[:20] = 4
    label[25, 3, 2:6] = 7
    (large, small), shares = index_voxels(label, np.random.default_rng(0))
    assert len(set(large)) == 5000
    assert (label.ravel()[large] == 4).all()
    assert np.array_equal(small, 25 * 900 + 3 * 30 + np.arange(2, 6))
    assert shares.tolist() == [18000 / 18004, 4 / 18004]
    nothing = index_voxels(np.zeros((3, 3, 3), np.uint8), np.random.default_rng(0))
    assert nothing.voxels == []


@pytest.mark.parametrize(
    ("balanced", "expected"),
    # Class 2 is a single voxel, class 1 has eight; binomial, 400 draws: sd 6 to 10.
    [(1.0, 200), (0.0, 400 * 8 / 9), (0.25, 100 * 1 / 2 + 300 * 8 / 9)],
)
def test_centres_are_drawn_by_class_or_by_voxel(balanced, expected):
    label = prepared().label
    centres = index_voxels(label, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    counts = np.zeros(2)
    for _ in range(400):
        origin = draw_origin(SHAPE, (4, 4, 4), centres, 1.0, balanced, rng)
        classes = set(np.unique(crop(label, origin, (4, 4, 4), 0))) - {0}
        assert len(classes) == 1
        counts[int(classes.pop()) - 1] += 1
    assert abs(counts[0] - expected) < 35


def test_uniform_patches_reach_every_place_equally():
    rng = np.random.default_rng(0)
    none = index_voxels(np.zeros((6, 4, 5), np.uint8), rng)
    origins = [
        draw_origin((6, 4, 5), (4, 4, 4), none, 1.0, 1.0, rng) for _ in range(600)
    ]
    places, counts = np.unique(origins, axis=0, return_counts=True)
    assert places.tolist() == [[i, 0, k] for i in range(3) for k in range(2)]
    assert abs(counts - 100).max() < 40


def test_a_patch_is_the_volume_at_one_place():
    volume = prepared()
    for item in PatchSampler([volume], config(), seed=3):
        image, label = item["image"], item["label"]
        assert image.shape == (1, 4, 4, 4)
        assert (image.dtype, label.dtype) == (torch.float32, torch.int64)
        i, j, k = np.unravel_index(int(image[0, 0, 0, 0]), SHAPE)
        place = np.s_[i : i + 4, j : j + 4, k : k + 4]
        assert np.array_equal(image[0], volume.image[place])
        assert np.array_equal(label, volume.label[place])
        assert item["source"] == "scan-0"
        # A patch is a copy.
        image[:], label[:] = -1, 3
    assert volume.image.min() == 0
    assert volume.label.max() == 2


def test_a_volume_smaller_than_the_block_is_padded():
    volume = prepared(1)
    block = (16, 10, 20)
    for item in PatchSampler([volume], config(block_shape=block), seed=0):
        image, label = item["image"][0].numpy(), item["label"].numpy()
        assert image.shape == label.shape == block
        extra = np.prod(block) - np.prod(SHAPE)
        assert (image == volume.floor).sum() == extra + 1
        assert np.array_equal(image[image > volume.floor], volume.image.ravel()[1:])
        assert np.bincount(label.ravel()).tolist() == [np.prod(block) - 9, 8, 1]


@pytest.mark.parametrize("augment", ["none", "standard"])
def test_items_depend_on_seed_epoch_and_index_alone(augment):
    volumes = [prepared(n) for n in range(3)]
    settings = config(shuffle=True, augment=augment)
    sampler = PatchSampler(volumes, settings, seed=5)
    first, second = epoch_of(sampler, 0), epoch_of(sampler, 1)
    other = PatchSampler(volumes, settings, seed=5)
    for index in (17, 0, 9):
        assert torch.equal(other[index]["image"], first[index]["image"])
        assert torch.equal(other[index]["label"], first[index]["label"])
    assert len(first) == 18
    assert not any(
        torch.equal(a["image"], b["image"]) for a, b in zip(first, second, strict=True)
    )
    reseeded = epoch_of(PatchSampler(volumes, settings, seed=6), 0)
    assert any(
        not torch.equal(a["image"], b["image"])
        for a, b in zip(first, reseeded, strict=True)
    )


def test_volumes_take_turns_and_shuffle_reorders_each_round():
    volumes = [prepared(n) for n in range(4)]
    plain = PatchSampler(volumes, config(), seed=0)
    names = [item["source"] for item in plain]
    assert names == [f"scan-{n}" for n in range(4)] * 6
    mixed = PatchSampler(volumes, config(shuffle=True), seed=0)
    rounds = [
        tuple(item["source"] for item in epoch_of(mixed, epoch)[start : start + 4])
        for epoch in range(2)
        for start in range(0, 24, 4)
    ]
    assert all(sorted(names) == sorted(rounds[0]) for names in rounds)
    assert len(set(rounds)) > 4


def test_augmentation_keeps_image_and_label_together():
    label = np.zeros((24, 24, 24), np.uint8)
    label[6:18, 8:16, 4:13] = 1
    image = label.astype(np.float32) * 100
    volume = Prepared("box", image, label, np.eye(4), 0, 0, 50, (1, 1, 1))
    settings = config(block_shape=(8, 8, 8), augment="standard")
    agreement = [
        ((item["image"][0] > 50) == (item["label"] == 1)).float().mean()
        for item in PatchSampler([volume], settings, seed=0)
    ]
    assert np.mean(agreement) > 0.95


def test_prepare_scan_checks_the_pair_and_orients_both():
    data = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    las = np.diag([-1.0, 1, 1, 1])
    labels = (data > 30).astype(np.uint8)
    scan = Scan((data, las), (labels, las), "one")
    result, unknown = prepare_scan(
        scan, Preparation(PreprocessConfig(normalize="none"), config())
    )
    assert np.array_equal(result.image, data[::-1])
    assert np.array_equal(result.label, labels[::-1])
    assert result.geometry.orientation == "RAS"
    assert (result.floor, unknown) == (0, {})
    assert result.spread == pytest.approx(np.sqrt((60**2 - 1) / 12))


@pytest.mark.parametrize(
    ("labels", "shift_mm", "message"),
    [
        (np.zeros((3, 4, 6), np.uint8), 0, r"shape \(3, 4, 6\) differs"),
        (np.zeros((3, 4, 5), np.uint8), 1, "1 mm away"),
        (np.full((3, 4, 5), 3, np.uint8), 0, "label value 3 is not below"),
    ],
)
def test_prepare_scan_refuses_pairs_that_do_not_fit(labels, shift_mm, message):
    data = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    moved = np.eye(4)
    moved[0, 3] = shift_mm
    scan = Scan((data, np.eye(4)), (labels, moved), "one")
    with pytest.raises(InputError, match=message):
        prepare_scan(scan, Preparation(PreprocessConfig(), config()))


def test_affines_may_differ_by_rounding():
    data = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    nearly = np.eye(4) * (1 + 1e-6)
    nearly[3, 3] = 1
    scan = Scan((data, np.eye(4)), (data.astype(np.uint8) % 3, nearly), "one")
    result, _ = prepare_scan(scan, Preparation(PreprocessConfig(), config()))
    assert result.label is not None


def test_sampler_needs_labels():
    bare = Prepared(
        "bare", np.ones(SHAPE, np.float32), None, np.eye(4), 0, 0, 1, (1, 1, 1)
    )
    with pytest.raises(InputError, match="bare: has no labels"):
        PatchSampler([bare], config(), seed=0)


def test_extract_patches():
    volume = np.arange(6 * 7 * 8, dtype=np.int16).reshape(6, 7, 8)
    label = np.zeros(volume.shape, np.int16)
    label[4, 5, 6] = 17
    patches = extract_patches(volume, label, (3, 3, 3), n_patches=40)
    assert len(patches) == 40
    for patch, part in patches:
        i, j, k = np.unravel_index(patch[0, 0, 0], volume.shape)
        place = np.s_[i : i + 3, j : j + 3, k : k + 3]
        assert np.array_equal(patch, volume[place])
        assert np.array_equal(part, label[place])
        assert (patch.dtype, part.dtype) == (np.int16, np.int16)
    # Half are aimed at the one labelled voxel, few others meet it by chance.
    assert 15 <= sum(part.any() for _, part in patches) <= 30
    again = extract_patches(volume, label, (3, 3, 3), n_patches=40)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(patches, again, strict=True))
    binary = extract_patches(volume, label, (3, 3, 3), n_patches=40, binarize=True)
    assert max(part.max() for _, part in binary) == 1
    large = extract_patches(volume + 5, label, (9, 9, 9), n_patches=1)
    assert large[0][0].shape == (9, 9, 9)
    assert (large[0][0] == 5).sum() == 9**3 - volume.size + 1


def test_extract_patches_makes_foreground_of_what_binarize_names():
    label = np.arange(64, dtype=np.int16).reshape(4, 4, 4)

    def foreground(chosen):
        ((_, patch),) = extract_patches(label, label, (4, 4, 4), 1, binarize=chosen)
        assert patch.dtype == (np.int16 if chosen is False else np.uint8)
        return np.flatnonzero(patch).tolist()

    assert foreground({17, 53}) == foreground([53, 17]) == [17, 53]
    assert foreground(lambda values: values >= 60) == [60, 61, 62, 63]
    assert foreground(True) == foreground(False) == list(range(1, 64))
    ((_, kept),) = extract_patches(label, label, (4, 4, 4), 1, binarize=None)
    assert np.array_equal(kept, label)
    for bad in (17, {}, (), {17: 1}, "17", {1.5}):
        with pytest.raises(InputError, match="binarize"):
            foreground(bad)


def test_extract_patches_refuses_what_does_not_fit():
    volume = np.zeros((4, 4, 4))
    for label in (np.zeros((4, 4, 5)), np.zeros((4, 4))):
        with pytest.raises(InputError, match="one shape"):
            extract_patches(volume, label, (2, 2, 2))
    with pytest.raises(InputError, match="n_patches"):
        extract_patches(volume, volume, (2, 2, 2), n_patches=0)
