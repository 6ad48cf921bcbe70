"""The dataset builder: every option reaches the patches, bad input is named."""

import json
import warnings

import nibabel as nib
import numpy as np
import pytest
import torch

from nobrainer.errors import InputError
from nobrainer.processing.dataset import Dataset
from scans import BLOCK, SHAPE, batches, images, write_scan


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    return [write_scan(folder, f"sub-{n}", offset=n) for n in range(3)]


@pytest.fixture
def dataset(pairs):
    return Dataset.from_files(pairs, BLOCK).batch(2).binarize().patches(per_volume=4)


def labels_of(dataset):
    return torch.cat([batch["label"] for batch in batches(dataset.loader())])


def test_what_the_tutorial_reads(dataset):
    assert len(dataset.data) == len(dataset) == 3
    assert dataset.batch_size == 2
    assert dataset.block_shape == BLOCK
    assert dataset.volume_shape == SHAPE == dataset.prepare()[0].image.shape
    assert dataset.n_classes == 2
    first = next(iter(dataset.dataloader))
    assert first["image"].shape == (2, 1, *BLOCK)
    assert first["image"].dtype == torch.float32
    assert first["label"].shape == (2, *BLOCK)
    assert first["source"] == [str(s.image) for s in dataset.data[:2]]


def test_methods_leave_the_original_alone(dataset):
    config, reading = dataset.config, dataset.reading
    dataset.batch(7).patches(per_volume=1, foreground=0).shuffle().augment()
    dataset.relabel({2: 1}).normalize("none").spacing((2, 2, 2))
    assert (dataset.config, dataset.reading) == (config, reading)


def test_batch_and_patches_set_sizes(dataset):
    def sizes(loader):
        return [len(batch["image"]) for batch in loader]

    assert sizes(dataset.loader()) == [2] * 6
    assert sizes(dataset.batch(5).loader()) == [5, 5, 2]
    assert sizes(dataset.patches(per_volume=1).loader()) == [2, 1]
    assert sizes(Dataset.from_files([dataset.data[0].paths]).binarize().loader()) == (
        [2] * 32
    )


def test_foreground_share_reaches_the_patches(dataset):
    few = dataset.binarize({17}).patches(per_volume=60, foreground=0.0)
    many = few.patches(foreground=1.0)
    assert many.config.patches_per_volume == 60
    assert labels_of(many).flatten(1).any(1).all()
    assert not labels_of(few).flatten(1).any(1).all()
    assert labels_of(many).float().mean() > 1.1 * labels_of(few).float().mean()


def test_shuffle_changes_the_order_only(dataset):
    def order(loader):
        return [name for batch in batches(loader) for name in batch["source"]]

    mixed = dataset.shuffle()
    assert order(dataset.loader()) == [s.name for s in dataset.data] * 4
    assert order(mixed.loader()) != order(dataset.loader())
    assert sorted(order(mixed.loader())) == sorted(order(dataset.loader()))
    assert order(mixed.shuffle(enabled=False).loader()) == order(dataset.loader())


def how(dataset):
    reading = dataset.preprocess
    return reading.normalize, reading.outliers, reading.bright_air


def test_augment_normalize_and_spacing_change_patches(dataset):
    plain = images(dataset.loader())
    assert not torch.equal(images(dataset.augment("standard").loader()), plain)
    scaled = images(dataset.normalize("minmax").loader())
    assert (float(scaled.min()), float(scaled.max())) == (0, 1)
    assert how(dataset.normalize("minmax")) == ("minmax", "clipped", "inverted")
    assert how(dataset.normalize("none")) == ("none", "kept", "kept")
    raw = dataset.normalize("none").prepare()[0].image
    assert np.array_equal(raw, nib.load(dataset.data[0].image).get_fdata()[::-1])
    coarse = dataset.spacing((2, 2, 2))
    assert coarse.preprocess.spacing_mm == (2, 2, 2)
    assert coarse.volume_shape == (9, 8, 10) == coarse.prepare()[0].image.shape


def test_binarize_by_default_ids_and_function(dataset):
    def share(changed):
        return float((changed.prepare()[0].label == 1).mean())

    stripe = 3 * 8 / (18 * 16)
    assert share(dataset) == pytest.approx(5 * stripe)
    assert share(dataset.binarize({3, 17})) == pytest.approx(2 * stripe)
    assert share(dataset.binarize(lambda ids: ids > 40)) == pytest.approx(2 * stripe)
    assert dataset.binarize({17, 3}).config.binarize_ids == (3, 17)
    assert "lambda" in dataset.binarize(lambda ids: ids > 40).config.binarize_name
    assert dataset.binarize(lambda ids: ids > 40).binarize({3}).binarizer is None


def test_relabel_comes_before_binarize_and_warns_once(pairs):
    base = Dataset.from_files(pairs, BLOCK, n_classes=6)
    with pytest.warns(UserWarning) as caught:
        label = base.relabel("6-class").prepare()[0].label
    assert len(caught) == 1
    # One stripe in each of three scans.
    assert f"9999: {3 * 3 * 8 * 20} voxels" in str(caught[0].message)
    assert np.unique(label).tolist() == [0, 1, 2, 4]
    assert base.relabel("6-class").labels.names[2] == "grey-matter"
    two = Dataset.from_files(pairs, BLOCK)
    for both in (
        two.relabel("6-class").binarize({1}),
        two.binarize({1}).relabel("6-class"),
    ):
        with pytest.warns(UserWarning, match="9999"):
            assert both.prepare()[0].label.sum() == 2 * 3 * 8 * 20
        assert both.labels.names == ("background", "foreground")


def test_relabel_from_a_file_or_mapping(pairs, tmp_path):
    table = tmp_path / "map.csv"
    table.write_text("id,class\n2,1\n3,2\n17,0\n41,1\n9999,2\n")
    base = Dataset.from_files(pairs, BLOCK, n_classes=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_file = base.relabel(table).prepare()[0].label
        mapping = {2: 1, 3: 2, 17: 0, 41: 1, 9999: 2}
        by_mapping = base.relabel(mapping).prepare()[0].label
    assert np.array_equal(by_file, by_mapping)
    assert np.bincount(by_file.ravel())[1:].tolist() == [960, 960]
    assert base.relabel(mapping).config.relabel["9999"] == 2


@pytest.mark.parametrize("augment", ["none", "standard"])
def test_workers_give_the_same_patches_in_every_epoch(dataset, augment):
    dataset = dataset.shuffle().augment(augment)
    alone = dataset.loader(seed=3)
    shared = dataset.loader(seed=3, num_workers=2)
    first = images(alone, 0)
    for epoch in (0, 1):
        assert torch.equal(images(shared, epoch), images(alone, epoch))
    assert not torch.equal(images(alone, 1), first)
    assert torch.equal(images(alone, 0), first)
    assert not torch.equal(images(dataset.loader(seed=4)), first)


def test_global_random_state_is_neither_read_nor_moved(dataset):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = images(dataset.augment("strong").loader())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(images(dataset.augment("strong").loader()), first)


def test_iterate_streams_the_same_volumes(dataset):
    for one, kept in zip(dataset.iterate(), dataset.prepare(), strict=True):
        assert one is not kept
        assert np.array_equal(one.image, kept.image)
        assert np.array_equal(one.label, kept.label)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ds: ds.batch(0), "batch size .* got 0"),
        (lambda ds: ds.batch(1.5), "batch size .* got 1.5"),
        (lambda ds: ds.patches(per_volume=0), "per_volume .* got 0"),
        (lambda ds: ds.patches(foreground=1.1), "foreground .* got 1.1"),
        (lambda ds: ds.augment("weak"), "unknown augmentation profile 'weak'"),
        (lambda ds: ds.normalize("zscor"), "did you mean 'zscore'"),
        (lambda ds: ds.spacing((1, 1)), "three positive numbers"),
        (lambda ds: ds.spacing((1, 1, 0)), "three positive numbers"),
        (lambda ds: ds.binarize("all"), "got 'all'"),
        (lambda ds: ds.shuffle(enabled="no"), "enabled must be True or False"),
        (lambda ds: ds.patches(foreground=True), "foreground must be a number"),
        (lambda ds: ds.patches(balanced=-0.1), "balanced .* got -0.1"),
        (lambda ds: ds.relabel("5-class"), "did you mean"),
        (lambda ds: ds.cache(memory_gb=-1), "memory_gb .* got -1"),
        (lambda ds: ds.cache(directory="/nowhere"), "/nowhere: is not a folder"),
        (lambda ds: ds.split(1, by="site"), "got 'site'"),
    ],
)
def test_bad_options_are_refused_at_once(dataset, change, message):
    with pytest.raises(InputError, match=message):
        change(dataset)


def test_bad_shapes_and_classes(pairs):
    for block in ((8, 8), (8, 8, 0), 8, (8, 8, 8.0)):
        with pytest.raises(InputError, match="block_shape must be"):
            Dataset.from_files(pairs, block)
    for n_classes in (1, 2.0, True):
        with pytest.raises(InputError, match="n_classes must be"):
            Dataset.from_files(pairs, n_classes=n_classes)
    with pytest.raises(InputError, match="give n_classes=2"):
        Dataset.from_files(pairs, n_classes=3).binarize()


def test_to_croissant_records_every_file(dataset, pairs):
    path = pairs[0][0].parent / "dataset.json"
    assert dataset.to_croissant(path) == path
    document = json.loads(path.read_text())
    names = {entry["contentUrl"] for entry in document["distribution"]}
    assert names == {file.name for pair in pairs for file in pair}
    in_memory = Dataset.from_files([nib.load(pairs[0][0])])
    with pytest.raises(InputError, match=r"files\[0\]: is not a file"):
        in_memory.to_croissant(path)


def test_streaming_cuts_patches_from_disk(pairs):
    base = Dataset.from_files(pairs, BLOCK).binarize().batch(2)
    dataset = base.streaming(patches_per_volume=5)
    assert len(dataset.dataloader.dataset) == 5 * len(pairs)
    # The name by which programs for nobrainer 2 ask for it.
    assert dataset._patches_per_volume == 5
    for volume in dataset.prepare():
        assert isinstance(volume.image, np.memmap)
        assert isinstance(volume.label, np.memmap)
    patches, expected = (
        images(ds.dataloader) for ds in (dataset, base.patches(per_volume=5))
    )
    assert torch.equal(patches, expected)
    with pytest.raises(InputError, match="per_volume must be an integer >= 1"):
        base.streaming(0)


@pytest.mark.parametrize(
    ("side", "n_patches"), [(64, 64), (32, 64), (24, 202), (16, 1024), (8, 1024)]
)
def test_an_epoch_of_small_patches_takes_more_of_them(pairs, side, n_patches):
    assert Dataset.from_files(pairs, (side,) * 3).config.patches_per_volume == n_patches


def test_what_is_asked_for_comes_before_the_usual_number_of_patches(pairs):
    asked = Dataset.from_files(pairs, (16, 16, 16)).patches(per_volume=5)
    assert asked.batch(3).patches(foreground=1.0).config.patches_per_volume == 5
    maps = Dataset.from_label_maps([label for _, label in pairs], block_shape=[16] * 3)
    assert maps.config.patches_per_volume == 64


def test_names_of_schemes_are_for_relabel(pairs):
    with pytest.raises(InputError, match="'50-class': relabel takes the names of sche"):
        Dataset.from_files(pairs).binarize("50-class")
    usual = Dataset.from_files(pairs)
    assert usual.normalize().reading == usual.reading
