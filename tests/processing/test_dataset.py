"""The dataset builder: every option reaches the patches, bad input is named."""

import json
import os
import warnings

import nibabel as nib
import numpy as np
import pytest
import torch

from nobrainer.data.patches import extract_patches
from nobrainer.errors import InputError, list_problems
from nobrainer.processing.dataset import Dataset
from nobrainer.recipe import PreprocessConfig

SHAPE = (18, 16, 20)
BLOCK = (8, 8, 8)
IDS = (0, 2, 3, 17, 41, 9999)


def write_scan(folder, name, *, spacing=1.0, offset=0):
    """A scan of stripes with FreeSurfer ids, and its label map."""
    labels = np.zeros(SHAPE, np.int16)
    for number, value in enumerate(IDS):
        labels[3 * number : 3 * number + 3, 4:12] = value
    noise = np.random.default_rng(len(name) + offset).normal(0, 3, SHAPE)
    image = (60 + 40 * (labels > 0) + noise).astype(np.float32)
    affine = np.diag([-spacing, spacing, spacing, 1])
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{name}_T1w.nii.gz", folder / f"{name}_dseg.nii.gz"
    for data, path in zip((image, labels), paths, strict=True):
        nib.save(nib.Nifti1Image(data, affine), path)
    return paths


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    return [write_scan(folder, f"sub-{n}", offset=n) for n in range(3)]


@pytest.fixture
def dataset(pairs):
    return Dataset.from_files(pairs, BLOCK).batch(2).binarize().patches(per_volume=4)


def batches(loader, epoch=0):
    loader.dataset.set_epoch(epoch)
    return list(loader)


def images(loader, epoch=0):
    return torch.cat([batch["image"] for batch in batches(loader, epoch)])


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


def test_entries_may_be_pairs_dicts_or_objects(pairs):
    (image, label), *_ = pairs
    loaded, labels = nib.load(image), nib.load(label)
    arrays = (loaded.get_fdata(), loaded.affine), (labels.get_fdata(), labels.affine)
    expected = images(Dataset.from_files([pairs[0]]).binarize().loader())
    for entry in (
        {"image": image, "label": label},
        [str(image), str(label)],
        (loaded, labels),
        arrays,
    ):
        result = images(Dataset.from_files([entry]).binarize().loader())
        assert torch.equal(result, expected)
    bare = Dataset.from_files([image])
    assert bare.prepare()[0].label is None
    with pytest.raises(InputError, match=r"sub-0_T1w\.nii\.gz: has no labels"):
        bare.loader()


def test_methods_leave_the_original_alone(dataset):
    config, spacing = dataset.config, dataset.spacing_mm
    dataset.batch(7).patches(per_volume=1, foreground=0).shuffle().augment()
    dataset.relabel({2: 1}).normalize("none").spacing((2, 2, 2))
    assert (dataset.config, dataset.spacing_mm) == (config, spacing)


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
    return dataset.preprocess.normalize, dataset.preprocess.outliers


def test_augment_normalize_and_spacing_change_patches(dataset):
    plain = images(dataset.loader())
    assert not torch.equal(images(dataset.augment("standard").loader()), plain)
    scaled = images(dataset.normalize("minmax").loader())
    assert (float(scaled.min()), float(scaled.max())) == (0, 1)
    assert how(dataset.normalize("minmax")) == ("minmax", "clipped")
    assert how(dataset.normalize("none")) == ("none", "kept")
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


def test_spacing_is_the_median_of_the_scans(tmp_path):
    pairs = [
        write_scan(tmp_path, f"sub-{n}", spacing=mm) for n, mm in enumerate((1, 1, 2))
    ]
    dataset = Dataset.from_files(pairs, BLOCK).binarize()
    assert dataset.preprocess.spacing_mm == (1, 1, 1)
    shapes = [prepared.image.shape for prepared in dataset.prepare()]
    assert shapes == [SHAPE, SHAPE, tuple(2 * n for n in SHAPE)]


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


def test_volumes_are_read_once(dataset):
    done = []
    first = dataset.prepare(progress=lambda *state: done.append(state))
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert dataset.prepare() is first
    assert dataset.loader().dataset.volumes[0] is first[0]
    assert dataset.prepare(PreprocessConfig(normalize="none")) is not first


def test_scans_of_a_wrong_unit_are_all_named(dataset, tmp_path):
    pairs = [(subject.image, subject.label) for subject in dataset.data]
    for unit in ("micron", "meter"):
        for name in ("image", "label"):
            image = nib.load(pairs[0][name == "label"])
            image.header.set_xyzt_units(unit)
            nib.save(image, tmp_path / f"{unit}-{name}.nii")
        pairs.append((tmp_path / f"{unit}-image.nii", tmp_path / f"{unit}-label.nii"))
    mixed = Dataset.from_files(pairs).binarize().spacing((1.0, 1.0, 1.0))
    with pytest.raises(InputError) as caught:
        mixed.prepare()
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "micron-label.nii: is" in lines[0] and "micrometre" in lines[0]
    assert "meter-label.nii: is" in lines[1] and "metre" in lines[1]


def test_beyond_the_budget_volumes_are_mapped_from_disk(dataset, tmp_path):
    expected = images(dataset.loader())
    voxels = np.prod(SHAPE)
    # Room for the first scan: 4 bytes of image and 1 of label per voxel.
    small = dataset.cache(memory_gb=5 * voxels / 1e9, directory=tmp_path)
    kept = small.prepare()
    assert [isinstance(p.image, np.memmap) for p in kept] == [False, True, True]
    assert len(list(tmp_path.rglob("*.npy"))) == 4
    assert torch.equal(images(small.loader()), expected)
    assert torch.equal(images(small.loader(num_workers=1)), expected)
    del small
    assert list(tmp_path.iterdir()) == []


def test_iterate_streams_the_same_volumes(dataset):
    for one, kept in zip(dataset.iterate(), dataset.prepare(), strict=True):
        assert one is not kept
        assert np.array_equal(one.image, kept.image)
        assert np.array_equal(one.label, kept.label)


@pytest.mark.parametrize(("eval_size", "n_eval"), [(0.25, 1), (0.5, 2), (3, 3)])
def test_split_keeps_subjects_together(tmp_path, eval_size, n_eval):
    pairs = [
        write_scan(tmp_path / f"sub-{subject}" / f"ses-{session}", f"scan-{session}")
        for subject in range(4)
        for session in range(2)
    ]
    dataset = Dataset.from_files(pairs).batch(5)
    train, held_out = dataset.split(eval_size, seed=1)

    def subjects(part):
        return {scan.name.split("sub-")[1][0] for scan in part.data}

    assert (len(train), len(held_out)) == (2 * (4 - n_eval), 2 * n_eval)
    assert not subjects(train) & subjects(held_out)
    assert train.batch_size == held_out.batch_size == 5
    again, _ = dataset.split(eval_size, seed=1)
    assert again.data == train.data
    chosen = {frozenset(subjects(dataset.split(1, seed=s)[1])) for s in range(20)}
    assert len(chosen) == 4


def test_split_by_scan_and_without_subject_names(pairs, tmp_path):
    train, held_out = Dataset.from_files(pairs).split(1, by="scan")
    assert (len(train), len(held_out)) == (2, 1)
    unnamed = [write_scan(tmp_path / f"{n}", "t1", offset=n) for n in range(3)]
    with pytest.warns(UserWarning, match=r"3 of 3 scans name no subject"):
        train, held_out = Dataset.from_files(unnamed).split(1)
    assert (len(train), len(held_out)) == (2, 1)


def test_a_scan_of_nobody_leaves_the_subjects_of_the_others(tmp_path):
    pairs = [
        write_scan(tmp_path, f"sub-con-{subject}_ses-{session}")
        for subject in range(4)
        for session in range(2)
    ]
    pairs.append(write_scan(tmp_path, "pilot"))
    dataset = Dataset.from_files(pairs)
    assert len({*dataset.subjects}) == 5
    for seed in range(10):
        expected = r"1 of 9 scans name no subject \(such as pilot_T1w\)"
        with pytest.warns(UserWarning, match=expected) as caught:
            parts = dataset.split(3, seed=seed)
        assert len(caught) == 1 and caught[0].filename == __file__
        train, held_out = ({*part.subjects} for part in parts)
        assert not train & held_out and len(held_out) == 3


def test_one_label_of_two_sites_is_two_people_and_a_warning_says_so(tmp_path):
    pairs = [write_scan(tmp_path / site / "sub-1", "a") for site in ("A", "B")]
    pairs.append(write_scan(tmp_path / "B" / "derivatives" / "fs" / "sub-1", "b"))
    dataset = Dataset.from_files(pairs)
    assert dataset.subjects == ["A_sub-1", "B_sub-1", "B_sub-1"]
    with pytest.warns(UserWarning, match=r"such as sub-1: A_sub-1, B_sub-1"):
        train, held_out = dataset.split(1)
    # Of a part, as of the whole.
    assert sorted({*train.subjects, *held_out.subjects}) == ["A_sub-1", "B_sub-1"]


def test_what_is_given_of_subjects_wins(tmp_path):
    pairs = [write_scan(tmp_path / site / "sub-1", "a") for site in ("A", "B", "C")]
    given = ("one", "one", None)
    entries = [
        {"image": image, "label": label, "subject": subject, "session": None}
        for (image, label), subject in zip(pairs, given, strict=True)
    ]
    dataset = Dataset.from_files(entries)
    assert dataset.subjects == ["one", "one", "C_sub-1"]
    assert [scan.shown for scan in dataset.data] == [
        *("A_one_sub-1_a_T1w", "B_one_sub-1_a_T1w", "C_sub-1_a_T1w")
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset.split(1)
    with pytest.raises(InputError, match=r"files\[0\]: subject must be text, got 1"):
        Dataset.from_files([entries[0] | {"subject": 1}])


@pytest.mark.parametrize("eval_size", [0, 1.0, -1, 3, 0.9, True, "half"])
def test_split_refuses_sizes_that_leave_a_part_empty(pairs, eval_size):
    with pytest.raises(InputError, match=r"eval_size"):
        Dataset.from_files(pairs).split(eval_size)


def test_bad_lists_of_files(pairs, tmp_path):
    image, label = pairs[0]
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "lost.nii.gz").symlink_to("../.git/annex/objects/lost")
    for files, message in (
        ([], "files is empty"),
        (str(image), "must be a list"),
        ([(image, label, label)], r"files\[0\] must be \(image, label\)"),
        ([{"img": image}], r"files\[0\] must have the keys"),
        ([pairs[0], pairs[1], pairs[0]], "sub-0_T1w.nii.gz: given twice"),
        (
            [pairs[0], (image.parent / "." / image.name, label)],
            "sub-0_T1w.nii.gz: given twice",
        ),
        ([(image, tmp_path / "absent.nii")], "absent.nii: no such file"),
        ([(image, tmp_path / "pipe.nii.gz")], "pipe.nii.gz: is a named pipe"),
        ([(image, tmp_path / "lost.nii.gz")], "is a link to .* `git annex get`"),
    ):
        with pytest.raises(InputError, match=message):
            Dataset.from_files(files)


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
        (lambda ds: ds.patches(foreground=True), "foreground must be between 0"),
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


def test_every_bad_file_is_named_in_one_error(pairs, tmp_path):
    image = np.random.default_rng(0).random((6, 6, 6)).astype(np.float32)
    zeros = np.zeros((6, 6, 6), np.uint8)
    holed = image.copy()
    holed[2, 2, 2] = np.nan
    shifted = np.eye(4)
    shifted[1, 3] = 5

    def save(name, data, affine=None):
        path = tmp_path / name
        nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
        return path

    def raw(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    whole = save("whole.nii.gz", image).read_bytes()
    labels = save("zeros.nii", zeros)
    bad = {
        "empty.nii.gz": (raw("empty.nii.gz", b""), labels),
        "cut.nii.gz": (raw("cut.nii.gz", whole[: len(whole) // 2]), labels),
        "text.nii": (raw("text.nii", b"hello"), labels),
        "4d.nii": (save("4d.nii", np.stack([image] * 2, -1)), labels),
        "nan.nii": (save("nan.nii", holed), labels),
        "flat.nii": (save("flat.nii", zeros), labels),
        "high.nii": (save("a.nii", image), save("high.nii", zeros + 2)),
        "minus.nii": (save("b.nii", image), save("minus.nii", zeros - np.int16(1))),
        "half.nii": (save("c.nii", image), save("half.nii", zeros + np.float32(0.5))),
        "wide.nii": (save("d.nii", image), save("wide.nii", np.pad(zeros, 1))),
        "moved.nii": (save("e.nii", image), save("moved.nii", zeros, shifted)),
    }
    dataset = Dataset.from_files([pairs[0], *bad.values(), pairs[1]])
    with pytest.raises(InputError) as caught:
        dataset.loader()
    lines = str(caught.value).splitlines()
    # The two good pairs hold label 9999 and are not binarized.
    assert len(lines) == len(bad) + 1
    for name, line in zip(bad, lines[1:], strict=True):
        assert str(tmp_path / name) in line
    assert lines[0] == (
        f"{pairs[0][1]}: label value 9999 is not below n_classes=2: give "
        "n_classes=10000 or more, or binarize or relabel (and 1 other: "
        f"{pairs[1][1]})"
    )


def test_a_problem_that_many_files_have_is_said_once():
    problems = [(name, "no labels") for name in "abcdef"]
    problems.insert(2, ("x", "cut short"))
    assert list_problems(problems).splitlines() == [
        "a: no labels (and 5 others: b, c, d and 2 more)",
        "x: cut short",
    ]
    scans = [(np.arange(8.0).reshape(2, 2, 2), np.eye(4))] * 8
    values = np.full((2, 2, 2), 45)
    dataset = Dataset.from_files([(scan, (values, np.eye(4))) for scan in scans])
    with pytest.raises(InputError) as caught:
        dataset.prepare()
    (line,) = str(caught.value).splitlines()
    assert line.startswith("files[0]: array: label value 45 is not below n_classes=2")
    assert line.endswith("(and 7 others: files[1], files[2], files[3] and 4 more)")


def test_bad_arrays_are_named_by_their_place():
    good = np.arange(27.0).reshape(3, 3, 3), np.eye(4)
    flat = np.zeros((3, 3, 3)), np.eye(4)
    with pytest.raises(InputError, match=r"^files\[1\]: array: constant"):
        Dataset.from_files([{"image": good}, {"image": flat}]).prepare()


def test_to_croissant_records_every_file(dataset, pairs):
    path = pairs[0][0].parent / "dataset.json"
    assert dataset.to_croissant(path) == path
    document = json.loads(path.read_text())
    names = {entry["contentUrl"] for entry in document["distribution"]}
    assert names == {file.name for pair in pairs for file in pair}
    in_memory = Dataset.from_files([nib.load(pairs[0][0])])
    with pytest.raises(InputError, match=r"files\[0\]: is not a file"):
        in_memory.to_croissant(path)


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
    for bad in (17, {}, (), {17: 1}, "17", None, {1.5}):
        with pytest.raises(InputError, match="binarize"):
            foreground(bad)


def test_extract_patches_refuses_what_does_not_fit():
    volume = np.zeros((4, 4, 4))
    for label in (np.zeros((4, 4, 5)), np.zeros((4, 4))):
        with pytest.raises(InputError, match="one shape"):
            extract_patches(volume, label, (2, 2, 2))
    with pytest.raises(InputError, match="n_patches"):
        extract_patches(volume, volume, (2, 2, 2), n_patches=0)
