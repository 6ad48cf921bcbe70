"""Training on label maps: patches, mixing with scans, what is written down of it."""

import csv
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import nobrainer as nb
from nobrainer.appearance import measure
from nobrainer.cli import main
from nobrainer.data.prepare import read_scan
from nobrainer.data.preprocess import is_head
from nobrainer.data.shifts import SHIFTS
from nobrainer.errors import InputError
from nobrainer.oddities import Place
from nobrainer.processing import training_scans
from nobrainer.processing.progress import ProgressBar
from nobrainer.processing.training_scans import TrainingScans
from nobrainer.provenance import checksum
from nobrainer.quality.examples import degraded_scans
from nobrainer.recipe import Recipe, Synthesis

BLOCK = (8, 8, 8)
CLASSES = {2: 1, 41: 2, 3: 3, 42: 4}
SIZE = 24


def head():
    """White matter in cortex in skin, in RAS; the left ball is the smaller one."""
    place = np.indices((SIZE,) * 3) - (SIZE - 1) / 2
    radius = np.sqrt((place**2).sum(0)) / SIZE
    left = place[0] < 0
    labels = np.where(radius < 0.45, 511, 0).astype(np.int16)
    labels[radius < 0.38] = np.where(left, 3, 42)[radius < 0.38]
    inner = radius < np.where(left, 0.2, 0.3)
    labels[inner] = np.where(left, 2, 41)[inner]
    return labels


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    """Two maps, stored with the left on the high side, and a table of them."""
    folder = tmp_path_factory.mktemp("maps")
    rows = [["labels", "subject"]]
    for number in range(2):
        name = f"head-{number}.nii.gz"
        labels = np.roll(head(), number, axis=2)[::-1]
        nib.save(nib.Nifti1Image(labels, np.diag([-1, 1, 1, 1])), folder / name)
        rows.append([name, f"person {number}"])
    with (folder / "maps.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


@pytest.fixture(scope="module")
def scans(maps):
    """Two scans with the same labels; their white matter is dark."""
    pairs = []
    for number in range(2):
        labels = head()
        rng = np.random.default_rng(number)
        image = 100 + 50 * (labels % 39 == 3) + rng.normal(0, 5, labels.shape)
        image = np.where(labels > 0, image, 0).astype(np.float32)
        paths = [maps / f"sub-{number}_{kind}.nii.gz" for kind in ("T1w", "dseg")]
        for data, path in zip((image, labels), paths, strict=True):
            nib.save(nib.Nifti1Image(data, np.eye(4)), path)
        pairs.append(tuple(paths))
    return pairs


def dataset(maps, synthesis=None, classes=CLASSES):
    files = [maps / f"head-{number}.nii.gz" for number in range(2)]
    return nb.Dataset.from_label_maps(files, synthesis, classes, BLOCK).patches(
        per_volume=6
    )


def batches(loader, epoch=0):
    loader.dataset.set_epoch(epoch)
    return list(loader)


def images(loader, epoch=0):
    return torch.cat([batch["image"] for batch in batches(loader, epoch)])


def test_patches_are_the_same_for_any_number_of_workers(maps):
    data = dataset(maps).patches(balanced=0.5)
    loader = data.loader(seed=3)
    first = images(loader)
    assert first.shape == (12, 1, *BLOCK)
    assert torch.equal(first, images(data.loader(seed=3, num_workers=2)))
    assert not torch.equal(first, images(loader, epoch=1))
    assert not torch.equal(first, images(data.loader(seed=4)))
    labels = torch.cat([batch["label"] for batch in batches(loader)])
    assert set(labels.unique().tolist()) <= {0, 1, 2, 3, 4}
    assert labels.dtype == torch.int64


def test_what_is_prepared_is_one_image_of_the_head_in_working_orientation(maps):
    still = Synthesis(
        rotation_deg=0, scale=0, shear=0, translation_mm=0, warp_mm=0, flip=0, crop=0
    )
    clean = replace(still, strip=0, imperfect=0)
    first, second = dataset(maps, clean).prepare()
    lookup = np.zeros(512, np.uint8)
    lookup[list(CLASSES)] = list(CLASSES.values())
    assert np.array_equal(first.label, lookup[head()])
    assert np.array_equal(first.head.classes, first.label)
    assert first.label.dtype == np.uint8
    again = dataset(maps, clean).prepare()[0]
    assert np.array_equal(first.image, again.image)
    # Each has a look of its own, and is normalised as a scan is.
    assert np.abs(first.image - second.image).mean() > 0.1
    inside = first.image[is_head(first.image)]
    assert float(inside.mean()) == pytest.approx(0, abs=0.05)
    assert float(inside.std()) == pytest.approx(1, abs=0.05)


def test_patches_are_where_the_classes_are(maps):
    near = dataset(maps, Synthesis(strip=0, crop=0)).patches(
        per_volume=20, foreground=1.0
    )
    labels = torch.cat([batch["label"] for batch in batches(near.loader())])
    assert float((labels > 0).flatten(1).any(1).float().mean()) > 0.9
    shares = labels.flatten().bincount(minlength=5)[1:] / labels.numel()
    # Of the maps the left white matter is 1.6 %.
    assert float(shares.min()) > 0.05


def test_labels_of_no_class_are_drawn_and_not_warned_of(maps, recwarn):
    dataset(maps).prepare()
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"41 \(FreeSurfer Right-.*: \d+ voxels"):
        dataset(maps, classes={2: 1, 3: 2, 42: 2}).prepare()
    data = dataset(maps, classes=None)
    assert data.n_classes == 2 and data.config.binarize == "nonzero"
    assert data.prepare()[0].label.max() == 1


def test_mixing_draws_the_share_that_was_asked_for(maps, scans):
    real = nb.Dataset.from_files(scans, BLOCK).relabel(CLASSES)
    mixed = dataset(maps).mix(real, 0.25).patches(per_volume=50)
    assert len(mixed) == 4
    assert mixed.config.map_share == 0.75
    with pytest.warns(UserWarning, match="became background: 511: "):
        loader = mixed.batch(20).loader(seed=1)
    sources = [name for batch in batches(loader) for name in batch["source"]]
    share = np.mean(["T1w" in name for name in sources])
    assert share == pytest.approx(0.25, abs=0.09)
    assert {len({*sources})} == {4}
    # The other way round it is the same, but for what is not about the scans.
    other = real.mix(dataset(maps), 0.75)
    assert other.config.map_share == 0.75
    assert other.config.synthesis == Synthesis()
    # A part of one kind takes its volumes in turn.
    left = replace(mixed, data=mixed.data[:2]).patches(per_volume=1)
    assert len({*batches(left.loader())[0]["source"]}) == 2


def test_what_cannot_be_mixed_is_refused(maps, scans):
    real = nb.Dataset.from_files(scans, BLOCK)
    with pytest.raises(InputError, match="must have the same classes, but differ in n"):
        dataset(maps).mix(real, 0.5)
    with pytest.raises(InputError, match="mix takes label maps and scans"):
        dataset(maps).mix(dataset(maps), 0.5)
    with pytest.raises(InputError, match=r"share must be between 0 and 1, got 1\.5"):
        dataset(maps).mix(real.relabel(CLASSES), 1.5)


def test_what_label_maps_cannot_do_is_refused(maps, tmp_path):
    with pytest.raises(
        InputError, match=r"head-0.*normalised by zscore, not by minmax"
    ):
        dataset(maps).normalize("minmax").prepare()
    with pytest.raises(InputError, match="no image, got"):
        nb.Dataset.from_label_maps([{"image": "a.nii", "label": "b.nii"}])
    with pytest.raises(InputError, match=r"maps must be a list .* got 'a\.nii'"):
        nb.Dataset.from_label_maps("a.nii")
    labels = head()
    labels[labels == 2] = 900
    path = tmp_path / "odd.nii.gz"
    nib.save(nib.Nifti1Image(labels, np.eye(4)), path)
    classes = {900: 1, 3: 2, 42: 3, 41: 0}

    def odd(synthesis):
        return nb.Dataset.from_label_maps([path], synthesis, classes, BLOCK)

    with pytest.raises(
        InputError, match=r"odd.*label value 900 has no name that tells"
    ):
        odd(None).prepare()
    assert odd(Synthesis(flip=0)).prepare()
    assert odd(Synthesis(pairs=((900, 900),))).prepare()


def test_scans_and_label_maps_are_validated_apart_and_scans_decide(maps, scans):
    data = dataset(maps).patches(per_volume=4)
    real = nb.Dataset.from_files(scans, BLOCK).relabel(CLASSES)
    small = {"base_filters": 2, "levels": 1}
    alone, synthetic, both = (
        nb.Segmentation("vnet", small).fit(data, held_out, epochs=3, verbose=False)
        for held_out in (real, dataset(maps), dataset(maps).mix(real, 0.5))
    )
    for row, of_scans, of_maps in zip(
        both.history_, alone.history_, synthetic.history_, strict=True
    ):
        assert of_maps["validation_dice"] != of_scans["validation_dice"]
        for name, value in of_maps.items():
            if name.startswith("validation_dice"):
                assert row[name] == of_scans[name]
                assert row[f"synthetic_{name}"] == value
    best = max(both.history_, key=lambda row: row["validation_dice"])
    kept = both.recipe_.provenance.metrics
    assert kept["validation_dice"] == best["validation_dice"]
    assert kept["synthetic_validation_dice"] == best["synthetic_validation_dice"]


def test_training_says_what_it_was_trained_on(maps, tmp_path):
    data = dataset(maps, Synthesis(noise=0.05)).batch(2).patches(per_volume=2)
    small = {"base_filters": 2, "levels": 1}
    model = nb.Segmentation("vnet", small).fit(data, dataset(maps), verbose=False)
    made = model.recipe_.provenance
    assert (made.n_maps, made.n_synthetic, made.caution) == (2, 0, "")
    assert [record.role for record in made.files] == ["train-image"] * 2 + [
        "validate-image"
    ] * 2
    assert model.recipe_.data.synthesis == Synthesis(noise=0.05)
    assert Recipe.from_json(model.recipe_.to_json()) == model.recipe_
    assert "validation_dice" in made.metrics
    card = (model.save(tmp_path / "model") / "README.md").read_text()
    assert "Of these, 2 are label maps of heads without a scan" in card
    assert "not for use on real ones" not in card


def test_the_shell_trains_on_label_maps(maps, scans, tmp_path):
    relabel = tmp_path / "classes.csv"
    rows = "".join(f"{value},{new}\n" for value, new in CLASSES.items())
    relabel.write_text(f"original,new\n{rows}")

    def train(*args):
        options = ["--relabel", relabel, "--model", "vnet", "--epochs", 1]
        options += ["--model-arg", "base_filters=2", "--model-arg", "levels=1"]
        options += ["--patches-per-volume", 2, "--block-shape", *BLOCK]
        words = ["train", "--output-dir", tmp_path / "model", *options, *args]
        return CliRunner().invoke(main, [str(word) for word in words])

    table = maps / "maps.csv"
    found = train("--label-maps", table, "--synthesis-arg", "noise=0", "--validate", 1)
    assert found.exit_code == 0, found.stderr
    recipe = nb.Segmentation.load(tmp_path / "model").recipe_
    assert recipe.data.synthesis == Synthesis(noise=0)
    assert recipe.provenance.n_maps == 1
    held_out = maps / "held-out.csv"
    held_out.write_text("features,labels\n{},{}\n".format(*scans[0]))
    found = train(
        *("--overwrite", "--label-maps", table, "--validate", 1),
        *("--validate-data", held_out),
    )
    assert found.exit_code == 0, found.stderr
    assert "(images of label maps 0." in found.stderr
    (row,) = nb.Segmentation.load(tmp_path / "model").history_
    figures = [name for name in row if "validation_dice" in name]
    assert figures == [
        f"{title}{of}"
        for title in ("validation_dice", "synthetic_validation_dice")
        for of in ("_class-1", "_class-2", "_class-3", "_class-4", "")
    ]
    for args, message in (
        (
            ("--label-maps", table, "--validate", 1, "--validate-maps", table),
            "--validate takes a share of what",
        ),
        ((), "nothing to train on: give --data, --label-maps or both"),
        (("--data", table), "without the column features"),
        (("--data", table, "--synthesis-arg", "noise=0"), "is for --label-maps"),
        (("--label-maps", table, "--synthesis-arg", "nois=0"), "did you mean 'noise'"),
        (("--label-maps", table, "--synthesis-arg", "flip=yes"), "must be float"),
        (("--label-maps", table, "--n-classes", 3), "--n-classes is 3, but there are "),
    ):
        found = train("--overwrite", *args)
        assert found.exit_code == 2 and message in found.stderr, found.stderr


def test_volumes_are_those_of_the_maps_and_the_sizes_in_which_they_are_seen(maps):
    """Both maps hold the same head: all that differs is the size that is drawn."""
    data = dataset(maps, Synthesis(scale=0.2, crop=1))
    scans = TrainingScans.read(data, None, ProgressBar(verbose=False))
    cohort = scans.cohort()
    labels = head()
    for value, index in CLASSES.items():
        voxels = np.count_nonzero(labels == value)
        assert scans.counts[:, index].tolist() == [voxels] * 2
        assert cohort.log_mean[index] == pytest.approx(np.log(voxels))
        assert cohort.log_sd[index] == pytest.approx(0.2)
    # The logarithm of the product of three sides, each drawn from 0.8 to 1.2.
    sides = np.random.default_rng(0).uniform(0.8, 1.2, (100_000, 3))
    assert np.log(sides).sum(1).std() == pytest.approx(0.2, rel=0.03)
    still = replace(scans, synthesis=Synthesis(scale=0)).cohort()
    assert still.log_sd[1] == 0


def test_places_that_stand_out_are_on_record_of_scans_alone(maps, scans, monkeypatch):
    def measured(*given):
        misfit = Place(1, 5.0, 1.0, (0, 0, 0))
        return replace(measure(*given), misfits=(misfit,))

    monkeypatch.setattr(training_scans, "measure", measured)
    real = nb.Dataset.from_files(scans, BLOCK).relabel(CLASSES)
    for data, expected in ((dataset(maps), 0.0), (real, 5.0)):
        found = TrainingScans.read(data, None, ProgressBar(verbose=False))
        assert found.cohort().appearance.misfit == expected


def test_a_map_has_as_many_images_as_are_asked_for(maps):
    files = [maps / f"head-{number}.nii.gz" for number in range(2)]
    several = nb.Dataset.from_label_maps(files, None, CLASSES, n_images=3)
    assert len(several) == 6
    names = [
        f"head-{number}_image-{image}" for number in range(2) for image in (1, 2, 3)
    ]
    assert list(several.shown_subjects) == names
    # A split keeps all images of a map on one side.
    assert [*several.shown_subjects.values()] == ["head-0"] * 3 + ["head-1"] * 3
    train, held_out = several.split(1)
    assert {*train.subjects}.isdisjoint(held_out.subjects)
    images = [volume.image for volume in several.iterate(shown=True)]
    (usual, _) = dataset(maps).prepare()
    assert np.array_equal(images[0], usual.image)
    gaps = [np.abs(one - images[0]).mean() for one in images[1:]]
    assert min(gaps) > 0.1
    again = [volume.image for volume in several.prepare()]
    assert all(map(np.array_equal, images, again))
    with pytest.raises(InputError, match="n_images must be a whole number >= 1, got 0"):
        nb.Dataset.from_label_maps(files, None, CLASSES, n_images=0)


def test_an_image_of_a_map_has_the_voxel_size_of_the_scan_that_it_imitates(maps):
    files = [maps / f"head-{number}.nii.gz" for number in range(2)]

    def sizes(**options):
        made = nb.Dataset.from_label_maps(
            files, Synthesis(slice_mm=7, **options), CLASSES, n_images=6
        )
        return np.array([volume.voxel_mm for volume in made.iterate()])

    assert (sizes(coarse=0) == 1).all()
    coarse = sizes(coarse=1, resolution_mm=3)
    assert coarse.min() == 1 and 3 < coarse.max() <= 7
    # Either one axis differs, or all are alike.
    ordered = np.sort(coarse, 1)
    thick = ordered[:, 1] == 1
    assert 0 < thick.sum() < 12
    assert (ordered[~thick, 0] == ordered[~thick, 2]).all()


def test_shifts_change_an_image_of_a_map_and_its_classes(maps):
    data = dataset(maps, Synthesis(crop=0, strip=0))
    preparation = data.preparation()
    raw = read_scan(data.data[0], preparation)
    assert set(np.unique(raw.label.data)) == {0, 1, 2, 3, 4}
    (_, _, first), *shifted = degraded_scans([raw], [1.0], seed=0)
    plain = first.prepare(preparation.preprocess)
    assert np.array_equal(plain.image, data.prepare()[0].image)
    assert np.array_equal(plain.label, data.prepare()[0].label)
    found = dict(zip(SHIFTS, shifted, strict=True))
    for name, (number, is_shifted, scan) in found.items():
        assert (number, is_shifted) == (0, True)
        changed = not np.array_equal(scan.label.data, raw.label.data)
        assert changed == (name in ("rotation", "cropped"))
        assert not np.array_equal(scan.image.data, raw.image.data)
        assert set(np.unique(scan.label.data)) <= {0, 1, 2, 3, 4}


@pytest.fixture(scope="module")
def of_maps(maps, tmp_path_factory):
    """A model of the two maps, and a table of three others."""
    folder = tmp_path_factory.mktemp("held-out")
    rows = ["labels,subject"]
    for number in range(3):
        labels = np.roll(head(), number + 2, axis=1)
        path = folder / f"other-{number}.nii.gz"
        nib.save(nib.Nifti1Image(labels, np.eye(4)), path)
        rows.append(f"{path.name},other person {number}")
    (folder / "maps.csv").write_text("\n".join(rows))
    small = {"base_filters": 2, "levels": 1}
    model = nb.Segmentation("bayesian_vnet", small)
    model.fit(dataset(maps).batch(2), verbose=False)
    model.save(folder / "model")
    return folder


def test_label_maps_calibrate_a_model_like_scans(maps, scans, of_maps, tmp_path):
    model = nb.Segmentation.load(of_maps / "model")
    with pytest.raises(InputError, match=r"head-0.*the model was trained on it"):
        model.calibrate(model.dataset(label_maps=[maps / "head-0.nii.gz"]))
    words = ["calibrate", "--label-maps", of_maps / "maps.csv", "--n-images", 3]
    words += ["--model", of_maps / "model", "--output-dir", tmp_path / "calibrated"]
    words += ["--coverage", 0.9, "--n-samples", 2]
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.stderr
    fitted = nb.Segmentation.load(tmp_path / "calibrated").calibration_
    told = "9 scans of 3 subjects (9 made of label maps)"
    assert fitted.counted == fitted.intervals.counted == told
    assert f"fitted on {told}" in done.stdout
    assert told in (tmp_path / "calibrated" / "README.md").read_text()
    # As many subjects without their images would be too few.
    held_out = model.dataset(label_maps=sorted(of_maps.glob("other-*.nii.gz")))
    with pytest.raises(InputError, match="at least 9 labelled subjects, 3 are here"):
        model.calibrate(held_out, coverage=0.9)
    # Beside them a real scan, of whose person only one scan counts.
    real = [
        {"image": image, "label": label, "subject": "one"} for image, label in scans
    ]
    both = model.dataset(real, sorted(of_maps.glob("other-*.nii.gz")), n_images=2)
    with pytest.warns(UserWarning, match="became background: 511: "):
        model.calibrate(both, coverage=0.8, n_samples=2, verbose=False)
    assert model.calibration_.counted == "8 scans of 4 subjects (6 made of label maps)"
    assert model.calibration_.intervals.n_scans == 7
    bare = ["calibrate", *words[5:], "--overwrite"]
    none = CliRunner().invoke(main, [str(word) for word in bare])
    assert none.exit_code == 2
    assert "give --data, --label-maps or both" in none.stderr


def test_label_maps_teach_what_quality_is(of_maps):
    model = nb.Segmentation.load(of_maps / "model")
    held_out = model.dataset(label_maps=sorted(of_maps.glob("other-*.nii.gz")))
    model.fit_quality(held_out, 2, severities=[1.0], verbose=False)
    quality = model.quality_
    assert (quality.n_subjects, quality.n_scans, quality.n_images) == (3, 3, 3)
    # A shift can push all that is labelled out of the field of view.
    assert 3 * len(SHIFTS) <= quality.n_cases <= 3 * (1 + len(SHIFTS))
    assert quality.checksums == tuple(
        sorted(map(checksum, of_maps.glob("other-*.nii.gz")))
    )
    with pytest.raises(InputError, match="has used it in quality"):
        model.evaluate(held_out, n_samples=2)


def test_a_model_of_scans_knows_no_way_to_make_images(maps, scans):
    small = {"base_filters": 2, "levels": 1}
    data = nb.Dataset.from_files(scans, BLOCK).binarize().patches(per_volume=2)
    model = nb.Segmentation("vnet", small).fit(data, verbose=False)
    with pytest.raises(InputError, match="has not learned from label maps"):
        model.dataset(label_maps=[maps / "head-0.nii.gz"])
