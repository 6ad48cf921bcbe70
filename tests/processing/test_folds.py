"""Folds: each scan is judged by the one member of an ensemble that has not seen it."""

from collections import Counter
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

import nobrainer as nb
from nested_balls import BLOCK, grid, write_ball
from nobrainer.calibration import collect, fit_intervals, fit_scaling
from nobrainer.data.cohort import fold_scans
from nobrainer.data.entries import Scan
from nobrainer.errors import InputError
from nobrainer.metrics.overlap import confusion, dice
from nobrainer.processing import fitting

SMALL = {"base_filters": 2, "levels": 1}
TRAINING = {"epochs": 1, "opt_args": {"lr": 0.02}, "seed": 3, "verbose": False}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Six scans of five people: sub-4 was scanned twice."""
    folder = tmp_path_factory.mktemp("folds")
    found = [write_ball(folder, number) for number in range(6)]
    again = [path.with_name(path.name.replace("5", "4_ses-2")) for path in found[5]]
    for old, new in zip(found[5], again, strict=True):
        old.rename(new)
    return [*found[:5], tuple(again)]


@pytest.fixture(scope="module")
def folded(pairs):
    """An ensemble of two folds; never changed."""
    model = nb.Segmentation("bayesian_vnet", SMALL)
    return model.fit(build(pairs), folds=2, **TRAINING)


def build(files):
    data = nb.Dataset.from_files(files, BLOCK).batch(2).binarize()
    return data.patches(per_volume=2)


def copy_of(model):
    copy = nb.Segmentation("ensemble")
    copy.learned_ = model.learned_
    return copy


def members(model, dataset):
    """By hand: the number of the member that has not seen each scan."""
    folds = model.recipe_.provenance.folds
    return [
        next(n for n, fold in enumerate(folds) if subject in fold.subjects)
        for subject in dataset.subjects
    ]


@pytest.mark.parametrize("n_folds", [2, 3, 5, 7])
def test_people_are_not_divided_and_folds_are_of_one_size(n_folds):
    rng = np.random.default_rng(n_folds)
    people = [f"sub-{rng.integers(7)}" for _ in range(40)] + [
        f"sub-{n}" for n in range(7)
    ]
    scans = tuple(
        Scan(f"{n}.nii", None, f"{n}.nii", f"{n}", person)
        for n, person in enumerate(people)
    )
    for seed in range(5):
        numbers = fold_scans(scans, n_folds, seed)
        of_person = {(p, n) for p, n in zip(people, numbers, strict=True)}
        assert len(of_person) == 7
        sizes = Counter(n for _, n in of_person)
        assert sorted(sizes) == list(range(n_folds))
        assert max(sizes.values()) - min(sizes.values()) <= 1
        assert numbers == fold_scans(scans, n_folds, seed)
    assert len({tuple(fold_scans(scans, n_folds, s)) for s in range(9)}) > 1


def test_a_member_is_what_training_it_on_the_other_folds_gives(folded, pairs):
    made = folded.recipe_.provenance
    assert [len(fold.subjects) for fold in made.folds] == [3, 2]
    assert sum(fold.n_scans for fold in made.folds) == 6
    (whole,) = [fold for fold in made.folds if "sub-4" in fold.subjects]
    assert whole.n_scans == len(whole.subjects) + 1
    dataset = build(pairs)
    own = members(folded, dataset)
    seeds = zip(folded.model_.members, made.member_seeds, strict=True)
    for number, (member, seed) in enumerate(seeds):
        others = [p for p, n in zip(pairs, own, strict=True) if n != number]
        alone = nb.Segmentation("bayesian_vnet", SMALL)
        alone.fit(build(others), **TRAINING | {"seed": seed})
        state = alone.model_.state_dict()
        for name, tensor in member.state_dict().items():
            assert torch.equal(tensor, state[name]), name


def test_the_expected_dice_is_that_of_members_on_scans_new_to_them(folded, pairs):
    dataset = build(pairs)
    scores = []
    for volume, number in zip(dataset.prepare(), members(folded, dataset), strict=True):
        alone = nb.Segmentation("bayesian_vnet", SMALL)
        network = folded.model_.members[number]
        alone.learned_ = replace(folded.learned_, network=network)
        predictor = alone.learned_.predictor(0, 0)
        table = np.zeros((2, 2), np.int64)

        def count(tile, truth=volume.label, table=table):
            table += confusion(truth[tile.where], tile.label, 2)

        predictor(volume.image, volume.background, count)
        scores.append(dice(table)[1])
    made = folded.recipe_.provenance
    assert made.metrics["out_of_fold_dice_foreground"] == pytest.approx(np.mean(scores))
    assert made.expected_dice == made.metrics["out_of_fold_dice"]
    assert folded.recipe_.training.folds == 2
    assert repr(folded).startswith("Segmentation('ensemble', trained for 2 epochs")


def test_calibration_pools_what_each_member_says_of_scans_new_to_it(folded, pairs):
    dataset = build(pairs)
    model = copy_of(folded).calibrate(
        dataset, coverage=0.8, n_samples=3, seed=5, out_of_fold=True, verbose=False
    )
    plain = folded.learned_.predictor(3, 5)
    pooled = []
    for volume, scan, number in zip(
        dataset.prepare(), dataset.data, members(folded, dataset), strict=True
    ):
        network = folded.model_.members[number]
        shown = replace(volume, name=scan.shown)
        pooled += collect([replace(plain, model=network)], [shown])
    by_hand = fit_scaling(
        [one.logits for one in pooled], [one.truth for one in pooled], "temperature"
    )
    fit = model.calibration_
    assert fit.weight == pytest.approx(by_hand.weight, rel=1e-6)
    assert fit.nll_after == pytest.approx(by_hand.nll_after)
    assert (fit.n_subjects, fit.n_scans, fit.out_of_fold) == (5, 6, True)
    # The second scan of one person does not count in intervals.
    intervals = fit_intervals(
        [one.volumes_mm3 for one in pooled[:5]],
        [one.true_mm3 for one in pooled[:5]],
        0.8,
    )
    assert fit.intervals.factors[1] == pytest.approx(intervals.factors[1])
    assert fit.intervals.n_draws == model.n_draws(3) == 3
    assert fit.counted == "6 scans of 5 subjects (out of fold)"


def test_quality_takes_dice_from_members_and_features_from_all(
    folded, pairs, monkeypatch
):
    asked = []
    known = fitting.collect_examples

    def spy(*args, **options):
        asked.append((args, options, known(*args, **options)))
        return asked[-1][-1]

    monkeypatch.setattr(fitting, "collect_examples", spy)
    dataset = build(pairs)
    model = copy_of(folded).fit_quality(
        dataset, 2, out_of_fold=True, severities=[], verbose=False
    )
    (((predictor, *_), options, examples),) = asked
    assert predictor.model is folded.model_
    own = members(folded, dataset)
    for judge, cohort, number in zip(
        options["judges"], options["cohorts"], own, strict=True
    ):
        assert judge.model is folded.model_.members[number]
        others = [p for p, n in zip(pairs, own, strict=True) if n != number]
        assert cohort.n_scans == len(others)
        assert cohort.n_subjects == len(set(build(others).subjects))
    # The Dice is the one that the card expects.
    metrics = folded.recipe_.provenance.metrics
    scores = [one.dice for one in examples]
    assert np.mean(scores) == pytest.approx(metrics["out_of_fold_dice"])
    for example, (image, _) in zip(examples, pairs, strict=True):
        found = folded.predict(image, n_samples=2, seed=0, verbose=False)
        (structure,) = found.structures
        dice_of_draws = example.features["pairwise_dice"]
        assert dice_of_draws == pytest.approx(structure.pairwise_dice)
    assert model.quality_.out_of_fold and model.quality_.n_subjects == 5
    assert model.quality_.n_draws == 2


def test_it_is_loaded_and_used_as_any_other_model(folded, pairs, tmp_path):
    model = copy_of(folded).calibrate(
        build(pairs), n_samples=2, out_of_fold=True, verbose=False
    )
    loaded = nb.Segmentation.load(model.save(tmp_path / "model"))
    assert loaded.recipe_ == folded.recipe_
    assert loaded.calibration_ == model.calibration_
    # Files are known by their content: a table in another order changes nothing else.
    turned = loaded.dataset(pairs[::-1])
    again = loaded.calibrate(turned, n_samples=2, out_of_fold=True, verbose=False)
    assert again.calibration_.weight == pytest.approx(model.calibration_.weight)
    with pytest.raises(InputError, match="has not seen, or out_of_fold=True"):
        loaded.calibrate(turned, verbose=False)
    with pytest.raises(InputError, match="has used it in training"):
        loaded.evaluate(turned, verbose=False)


def test_a_killed_training_goes_on_at_its_member(folded, pairs, tmp_path):
    def fit(data, **how):
        model = nb.Segmentation("bayesian_vnet", SMALL, tmp_path / "state")
        return model.fit(data, **TRAINING | {"folds": 2} | how)

    fit(build(pairs))
    # As if killed when the first member was done and the second had not begun.
    (tmp_path / "state" / "member-1" / "last.safetensors").unlink()
    kept = tmp_path / "state" / "member-0" / "last.safetensors"
    when = kept.stat().st_mtime_ns
    again = fit(build(pairs), resume=True)
    assert kept.stat().st_mtime_ns == when
    for name, tensor in again.model_.state_dict().items():
        assert torch.equal(tensor, folded.model_.state_dict()[name]), name
    with pytest.raises(InputError, match=r"training.folds was 2 and now is 3"):
        fit(build(pairs), resume=True, folds=3)
    named = [
        {"image": image, "label": label, "subject": f"person-{number}"}
        for number, (image, label) in enumerate(pairs)
    ]
    with pytest.raises(InputError, match="subjects of the folds have changed"):
        fit(build(named), resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "folds must be a whole number >= 2, got 1"),
        ({"folds": 6}, "at most the number of subjects, 5, got 6"),
        ({"folds": 101}, "folds must be at most 100, got 101"),
        ({"folds": 2, "patience": 3}, "leave out dataset_validate and patience"),
        ({"folds": 2, "dataset_validate": 0}, "leave out dataset_validate"),
    ],
)
def test_mistakes_are_named_before_training(pairs, options, message):
    if "dataset_validate" in options:
        options = options | {"dataset_validate": build(pairs)}
    with pytest.raises(InputError, match=message):
        nb.Segmentation("bayesian_vnet", SMALL).fit(build(pairs), **options)


def test_folds_take_one_named_model(pairs):
    with pytest.raises(InputError, match="copies of one model by its name"):
        nb.Ensemble("vnet", SMALL).fit(build(pairs), folds=2)
    with pytest.raises(InputError, match="copies of one model by its name"):
        nb.Segmentation(torch.nn.Identity()).fit(build(pairs), folds=2)


def test_one_scan_under_two_names_is_not_on_both_sides(pairs, tmp_path):
    image, label = pairs[0]
    other = tmp_path / "sub-9_T1w.nii.gz"
    other.write_bytes(image.read_bytes())
    for seed in range(3):
        with pytest.raises(InputError, match=r"is the same scan as .*sub-0_T1w"):
            nb.Segmentation("bayesian_vnet", SMALL).fit(
                build([(image, label), (other, label)]), folds=2, seed=seed
            )


def test_every_scan_must_judge_and_lone_classes_are_named(tmp_path):
    rng = np.random.default_rng(0)
    entries = []
    for number, values in enumerate(([1], [1], [1, 2], [1])):
        label = np.zeros((16, 16, 16), np.uint8)
        for value in values:
            label[4 * value : 4 * value + 3, 4:12, 4:12] = value
        image = 50.0 * label + rng.normal(60, 5, label.shape)
        entries.append(
            {
                "image": nib.Nifti1Image(image.astype(np.float32), grid()),
                "label": nib.Nifti1Image(label, grid()),
                "subject": f"sub-{number}",
            }
        )
    how = TRAINING | {"epochs": 1}

    def data():
        dataset = nb.Dataset.from_files(entries, (8, 8, 8), n_classes=3)
        return dataset.patches(per_volume=2).batch(2)

    model = nb.Segmentation("vnet", SMALL)
    with pytest.warns(UserWarning, match=r"class-2: only sub-2.* of fold .* show it"):
        model.fit(data(), folds=4, **how)
    # In memory a scan is known by its subject.
    model.calibrate(data(), out_of_fold=True, verbose=False)
    with pytest.raises(InputError, match="makes 1 pass, but the ensemble 4"):
        model.calibrate(data(), coverage=0.5, out_of_fold=True, verbose=False)
    part = replace(data(), data=data().data[:3])
    with pytest.raises(
        InputError, match="all scans that the model was trained on, got 3 of 4"
    ):
        model.calibrate(part, out_of_fold=True, verbose=False)
    entries[1]["subject"] = "sub-7"
    with pytest.raises(InputError, match=r"files\[1\]: is in no fold"):
        model.calibrate(data(), out_of_fold=True, verbose=False)
    entries[1]["label"] = nib.Nifti1Image(np.zeros((16, 16, 16), np.uint8), grid())
    with pytest.raises(InputError, match="each needs a voxel of a class"):
        model.fit(data(), folds=2, **how)
    alone = nb.Segmentation("vnet", SMALL).fit(data(), **how)
    with pytest.raises(InputError, match="needs an ensemble that was trained with"):
        alone.calibrate(data(), out_of_fold=True, verbose=False)


def test_images_of_a_label_map_are_for_the_member_that_has_not_seen_it(pairs):
    masks = [label for _, label in pairs[:2]]
    data = nb.Dataset.from_label_maps(masks, block_shape=BLOCK).batch(2)
    model = nb.Segmentation("vnet", SMALL)
    model.fit(data.patches(per_volume=2), folds=2, **TRAINING)
    made = model.recipe_.provenance
    assert sorted(fold.n_scans for fold in made.folds) == [1, 1]
    assert "out_of_fold_dice" in made.metrics
    images = model.dataset(label_maps=masks, n_images=3)
    model.calibrate(images, out_of_fold=True, verbose=False)
    counted = "6 scans of 2 subjects (6 made of label maps) (out of fold)"
    assert model.calibration_.counted == counted
    both = nb.Dataset.from_files(pairs[2:4], BLOCK).binarize().mix(data)
    with pytest.raises(InputError, match="scans or label maps, not both"):
        model.fit(both, folds=2, **TRAINING)
