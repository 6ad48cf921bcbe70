"""What the facade makes of a trained model: structures, calibration, quality, ranks."""

import hashlib
import math
import warnings
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

import nobrainer as nb
from balls import ball, write_ball
from nobrainer.bayes.draws import realise
from nobrainer.errors import InputError, UnusualScanWarning
from nobrainer.naming import stem
from nobrainer.processing.training_scans import TrainingScans
from nobrainer.provenance import checksum

SMALL = {"base_filters": 4, "levels": 2}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trust")
    return [write_ball(folder, number) for number in range(16)]


def build(pairs):
    dataset = nb.Dataset.from_files(pairs, (16, 16, 16)).batch(2).binarize()
    return dataset.patches(per_volume=8)


@pytest.fixture(scope="module")
def fitted(pairs):
    model = nb.Segmentation("bayesian_vnet", SMALL)
    return model.fit(build(pairs[:4]), epochs=6, opt_args={"lr": 0.02})


@pytest.fixture
def copy(fitted, tmp_path):
    """The fitted model, to be changed."""
    return nb.Segmentation.load(fitted.save(tmp_path / "copy"))


def predicted(model, number=6, **how):
    return model.predict((ball(number)[0], np.eye(4)), seed=1, **{"n_samples": 4} | how)


def with_recipe(model, **changes):
    """What a model has learned, with some parts of its recipe changed."""
    return replace(model.learned_, recipe=replace(model.recipe_, **changes))


def values(image):
    return np.asarray(image.dataobj)


# --- structures


def test_structures_are_counted_on_the_labels_of_the_draws(fitted):
    result = predicted(fitted)
    (structure,) = result.structures
    volumes = result.volumes_mm3[:, 1]
    assert structure.name == "foreground"
    assert structure.volume_mm3 == pytest.approx(volumes.mean())
    assert structure.volume_sd_mm3 == pytest.approx(volumes.std(ddof=1))
    inside = values(result.label) == 1
    assert structure.entropy == pytest.approx(
        values(result.entropy)[inside].mean(), rel=1e-5
    )
    assert 0.8 < structure.iou <= structure.pairwise_dice <= 1
    assert math.isnan(structure.conformal_low_mm3)


def test_the_prediction_keeps_its_scan_and_draws_it(fitted, pairs):
    result = fitted.predict(str(pairs[5][0]), n_samples=2, seed=0)
    assert result.name == "sub-5_T1w"
    assert np.array_equal(values(result.scan), ball(5)[0])
    figure = result.plot()
    assert figure.get_suptitle() == "sub-5_T1w"
    assert result.plot(truth=pairs[5][1], title="a ball").get_suptitle() == "a ball"


def test_what_a_notebook_prints_is_one_short_line(fitted, pairs):
    result = fitted.predict(str(pairs[5][0]), n_samples=2, seed=7)
    shape = " x ".join(map(str, result.label.shape))
    assert repr(result) == (
        f"Prediction('sub-5_T1w', 2 draws, seed 7, 2 classes, {shape} voxels)"
    )
    assert repr(fitted) == (
        "Segmentation('bayesian_vnet', trained for 6 epochs, classes foreground)"
    )
    for epochs, told in ((None, "25,804 steps"), (1, "1 epoch")):
        counted = nb.Segmentation("bayesian_vnet")
        training = replace(fitted.recipe_.training, epochs=epochs, max_steps=25804)
        counted.learned_ = replace(
            fitted.learned_,
            recipe=replace(fitted.recipe_, training=training),
            history=({"epoch": 1, "steps": 25804},),
        )
        assert f"trained for {told}, classes" in repr(counted)
    assert repr(nb.Segmentation("vnet")) == "Segmentation('vnet', not trained)"
    own = "callable:torch.nn.modules.linear.Identity"
    assert (
        repr(nb.Segmentation(torch.nn.Identity()))
        == f"Segmentation({own!r}, not trained)"
    )
    assert repr(build(pairs[:4])) == (
        "Dataset(4 scans, 2 classes, batches of 2 patches of 16 x 16 x 16 voxels)"
    )
    held_out = fitted.evaluate(build(pairs[4:6]), n_samples=2, surfaces=False)
    assert repr(held_out) == f"Evaluation(2 scans, {len(held_out)} figures)"


# --- calibration


def test_calibration_reaches_predict_evaluate_and_the_bundle(copy, pairs, tmp_path):
    # Five draws of two classes do not tie, and a temperature changes the label of none.
    held_out = build(pairs[4:10])
    before = nb.summarise(copy.evaluate(held_out, n_samples=5, surfaces=False))
    copy.calibrate(held_out, n_samples=5)
    temperature = 1 / copy.calibration_.weight[0]
    assert temperature != pytest.approx(1, abs=1e-3)
    after = copy.evaluate(held_out, n_samples=5, surfaces=False, allow_seen=True)
    assert "6 of these 6 scans before (6 in calibration)" in after.warning
    after = nb.summarise(after)
    assert after["nll/foreground"] < before["nll/foreground"]
    assert after["dice"] == before["dice"]
    loaded = nb.Segmentation.load(copy.save(tmp_path / "calibrated"))
    assert loaded.calibration_ == copy.calibration_
    assert np.array_equal(
        values(predicted(loaded).entropy), values(predicted(copy).entropy)
    )


def test_a_calibrated_draw_is_the_softmax_of_scaled_logits(copy, pairs):
    copy.calibrate(build(pairs[4:8]), n_samples=3)
    result = predicted(copy, n_samples=0, probabilities=True)
    scan = ball(6)[0]
    scan = (scan - scan.mean()) / scan.std()
    with torch.no_grad():
        logits = realise(copy.model_, None)(torch.tensor(scan)[None, None])
    wanted = torch.softmax(logits * copy.calibration_.weight[0], 1)[0]
    got = values(result.probabilities)
    inner = (slice(8, 16),) * 3
    assert np.abs(got[inner] - wanted.movedim(0, -1).numpy()[inner]).max() < 1e-4


def test_intervals_come_with_a_coverage_and_enough_subjects(copy, pairs):
    with pytest.raises(InputError, match="at least 9 labelled subjects"):
        copy.calibrate(build(pairs[4:8]), coverage=0.9)
    assert copy.calibration_ is None
    copy.calibrate(build(pairs[4:14]), coverage=0.9, n_samples=4)
    (structure,) = predicted(copy).structures
    low, high = structure.conformal_low_mm3, structure.conformal_high_mm3
    assert low < structure.volume_mm3 < high
    rows = copy.evaluate(
        build(pairs[4:14]), n_samples=4, surfaces=False, allow_seen=True
    )
    covered = [row.value for row in rows if row.metric == "conformal_covered"]
    # The factor is the largest of these scans' scores, with draws of their own.
    assert len(covered) == 10
    assert sum(covered) >= 8
    with pytest.warns(UserWarning, match="they hold for 4 draws, got 2"):
        (structure,) = predicted(copy, n_samples=2).structures
    assert math.isnan(structure.conformal_low_mm3)


def test_calibration_wants_scans_that_training_has_not_seen(copy, pairs):
    with pytest.raises(InputError, match=r"sub-3_T1w.nii: the model was trained on it"):
        copy.calibrate(build(pairs[3:8]))


# --- a warm start


@pytest.mark.parametrize("kept", ["float32", "float16"])
def test_a_warm_start_is_written_down(pairs, tmp_path, kept):
    plain = nb.Segmentation("vnet", SMALL).fit(build(pairs[:2]))
    folder = plain.save(tmp_path / "plain", weights=kept)
    warm = nb.Segmentation("bayesian_vnet", SMALL)
    # A learning rate of next to nothing leaves the network where it began.
    warm.fit(
        build(pairs[:2]),
        warm_start=folder,
        opt_args={"lr": 1e-12},
        warm_start_delta=0.1,
    )
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    assert warm.recipe_.training.warm_start == digest
    assert warm.recipe_.training.warm_start_delta == 0.1
    mean = warm.model_.head.weight_posterior.mean
    trained = plain.model_.head.weight.to(getattr(torch, kept)).float()
    assert torch.allclose(mean, trained, atol=1e-6)
    scale = warm.model_.head.weight_posterior.scale
    assert torch.allclose(scale, 0.1 * trained.abs(), rtol=1e-2)


# --- the files as the model learned them


def test_dataset_prepares_files_as_in_training(pairs):
    ids = nb.Dataset.from_files(pairs[:2], (16, 16, 16)).binarize({1})
    ids = ids.normalize("minmax").spacing((1.0, 1.0, 1.5))
    model = nb.Segmentation("vnet", SMALL).fit(ids.patches(per_volume=2))
    dataset = model.dataset(pairs[4:5])
    assert dataset.config.binarize_ids == (1,)
    assert dataset.block_shape == (16, 16, 16)
    assert dataset.preprocess == model.recipe_.preprocess
    older = replace(model.recipe_.preprocess, outliers="kept", bright_air="kept")
    model.learned_ = with_recipe(model, preprocess=older)
    assert model.dataset(pairs[4:5]).preprocess == older
    by_function = nb.Dataset.from_files(pairs[:2], (16, 16, 16)).binarize(np.sign)
    model = nb.Segmentation("vnet", SMALL).fit(by_function.patches(per_volume=2))
    with pytest.raises(InputError, match=r"binarized by sign, which is not kept"):
        model.dataset(pairs[4:5])


def test_the_cohort_of_training_is_written_down(fitted, pairs):
    cohort = fitted.recipe_.provenance.cohort
    sizes = np.log([ball(number)[1].sum() for number in range(4)])
    assert cohort.n_subjects == 4
    assert cohort.log_mean[1] == pytest.approx(sizes.mean())
    assert cohort.log_sd[1] == pytest.approx(sizes.std(ddof=1))


def test_scans_that_a_model_has_used_are_refused_or_marked(copy, pairs, tmp_path):
    validated = replace(
        copy.recipe_.provenance.files[2],
        role="validate-image",
        sha256=checksum(pairs[6][0]),
    )
    story = copy.recipe_.provenance
    story = replace(story, files=(*story.files, validated))
    copy.learned_ = with_recipe(copy, provenance=story)
    copy.calibrate(build(pairs[4:6]), n_samples=2)
    copy.fit_quality(build([*pairs[5:6], *pairs[7:9]]), 2, severities=[1.0])
    assert (copy.quality_.n_scans, copy.calibration_.n_scans) == (3, 2)
    assert copy.calibration_.checksums == tuple(
        sorted(checksum(image) for image, _ in pairs[4:6])
    )
    # The same file by another name, of trained, calibrated, validated, judged and new.
    shown = {0: "training", 4: "calibration", 6: "validation", 7: "quality", 9: ""}
    copies = []
    for number in shown:
        copies.append((tmp_path / f"other-{number}.nii", pairs[number][1]))
        copies[-1][0].write_bytes(pairs[number][0].read_bytes())
    loaded = nb.Segmentation.load(copy.save(tmp_path / "used"))
    how = {"n_samples": 1, "surfaces": False}
    for number, (pair, use) in enumerate(zip(copies, shown.values(), strict=True)):
        if use:
            words = rf"other-\d.nii: the model has used it in {use}, .*allow_seen=True"
            with pytest.raises(InputError, match=words):
                loaded.evaluate(build([copies[-1], pair]), **how)
        else:
            assert number == 4 and loaded.evaluate(build([pair]), **how).warning == ""
    found = loaded.evaluate(build(copies), **how, allow_seen=True)
    uses = {row.subject: row.seen for row in found}
    assert uses == {f"other-{number}": use for number, use in shown.items()}
    assert "used 4 of these 5 scans before" in found.warning
    lines = [line.split("\t") for line in found.to_tsv().splitlines()]
    assert {(line[0], line[-1]) for line in lines[1:]} == {
        (name, use or "n/a") for name, use in uses.items()
    }
    # What is in memory has no file that could be known again.
    image = nib.load(pairs[0][0])
    memory = (np.asarray(image.dataobj), image.affine)
    assert not loaded.evaluate(build([(memory, pairs[0][1])]), **how).warning


def test_people_and_their_scans_are_counted_apart(copy, pairs, tmp_path):
    def whom(numbers):
        return [
            {"image": pairs[n][0], "label": pairs[n][1], "subject": f"P{n // 2}"}
            for n in numbers
        ]

    train = build(whom(range(4))).patches(per_volume=1)
    model = nb.Segmentation("bayesian_vnet", SMALL).fit(train, epochs=1)
    cohort = model.recipe_.provenance.cohort
    assert (cohort.n_scans, cohort.n_subjects) == (4, 2)
    model.calibrate(build(whom(range(4, 10))), coverage=0.7, n_samples=2)
    fitted = model.calibration_
    counts = fitted.n_scans, fitted.n_subjects, fitted.intervals.n_subjects
    assert counts == (6, 3, 3)
    model.fit_quality(build(whom(range(4, 10))), 2, severities=[1.0])
    assert (model.quality_.n_scans, model.quality_.n_subjects) == (6, 3)
    card = (model.save(tmp_path / "model") / "README.md").read_text()
    assert "Trained on 4 scans of 2 subjects" in card
    assert "fitted on 6 scans of 3 subjects: negative log-likelihood" in card
    assert "fitted on 3 scans of 3 subjects with 2 draws" in card
    assert f"{model.quality_.n_cases} cases of 6 scans of 3 subjects" in card
    found = model.evaluate(build(whom(range(10, 14))), 1, surfaces=False)
    assert (found.n_scans, found.n_subjects) == (4, 2)
    unnamed = [
        ((ball(number)[0], np.eye(4)), (ball(number)[1], np.eye(4)))
        for number in range(4, 7)
    ]
    with pytest.warns(UserWarning, match="3 of 3 scans name no subject"):
        model.calibrate(build(unnamed), n_samples=1)


SHEARED = np.diag([2.0, 2.0, 2.0, 1.0])
SHEARED[0, 1] = 1.0
"""Of 8 mm³ a voxel, though the steps along its axes have lengths of 2, √5 and 2 mm."""


def test_a_sheared_voxel_has_one_volume_everywhere(fitted, copy):
    image, label = ball(6)
    steps = replace(copy.recipe_.preprocess, spacing_mm=(2.0, math.sqrt(5), 2.0))
    copy.learned_ = with_recipe(copy, preprocess=steps)
    result = copy.predict((image, SHEARED), n_samples=4, seed=1)
    np.testing.assert_allclose(result.volumes_mm3, 8 * predicted(fitted).volumes_mm3)
    pair = [((image, SHEARED), (label, SHEARED))]
    prepared = nb.Dataset.from_files(pair).binarize().prepare()
    twice = [*prepared] * 2
    counts = np.array([one.count_voxels(2) for one in twice])
    sizes = TrainingScans(twice, (), counts, 1).cohort()
    assert sizes.log_mean[1] == pytest.approx(math.log(8 * label.sum()))


# --- quality


@pytest.fixture(scope="module")
def judged(fitted, pairs, tmp_path_factory):
    """The fitted model with a model of quality."""
    folder = tmp_path_factory.mktemp("judged")
    model = nb.Segmentation.load(fitted.save(folder / "model"))
    return model.fit_quality(build(pairs[4:8]), n_samples=4, severities=(0.5, 1.0))


def test_quality_is_learned_on_scans_and_their_shifts(judged):
    assert judged.quality_.n_subjects == 4
    assert judged.quality_.n_cases == 4 * (1 + 2 * 6)
    assert 0 < judged.quality_.error < 0.3


def test_a_bad_scan_scores_lower_than_a_good_one(judged, tmp_path):
    good = judged.quality(predicted(judged, 12))
    noise = np.random.default_rng(0).normal(0, 90, (24, 24, 24)).astype(np.float32)
    noisy = (ball(12)[0] + noise, np.eye(4))
    prediction = judged.predict(noisy, n_samples=4, seed=0)
    bad = judged.quality(prediction)
    assert good.flags == ()
    assert good.score > 0.95 > 0.8 > bad.score
    assert any("is below 0.80" in reason for reason in bad.flags)
    lenient = judged.quality(prediction, threshold=0.0)
    assert not any("is below" in reason for reason in lenient.flags)
    loaded = nb.Segmentation.load(judged.save(tmp_path / "again"))
    assert loaded.quality(predicted(loaded, 12)) == good


def test_without_learning_the_score_is_the_agreement_of_the_draws(fitted):
    prediction = predicted(fitted)
    case = fitted.quality(prediction)
    assert math.isnan(case.predicted_dice)
    assert case.score == prediction.structures[0].pairwise_dice


def test_quality_wants_scans_that_training_has_not_seen(fitted, pairs):
    with pytest.raises(InputError, match=r"sub-1_T1w.nii, .* trained on it"):
        fitted.fit_quality(build(pairs[1:6]))


def test_a_scan_unlike_training_warns_and_keeps_the_reasons(fitted, tmp_path):
    """Whatever the draws say, and also where the label alone is returned."""
    image, _ = ball(12)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnusualScanWarning)
        assert predicted(fitted, 12).flags == ()
    inverted = image.copy()
    inverted[image > 50] = image.max() - image[image > 50]
    cut = image.copy()
    cut[:, :, 13:] = 0
    for damaged, words in (
        (inverted, "unlike the training scans in"),
        (cut, "cut off at its superior end"),
    ):
        path = tmp_path / "odd.nii"
        nib.save(nib.Nifti1Image(damaged, np.eye(4)), path)
        with pytest.warns(UnusualScanWarning, match=f"^odd: .*{words}"):
            prediction = fitted.predict(path, n_samples=2, seed=0)
        assert any(words in flag for flag in prediction.flags)
        assert set(prediction.flags) <= set(fitted.quality(prediction).flags)
        with pytest.warns(UnusualScanWarning, match=words):
            fitted.predict(path, n_samples=0)


def test_a_model_without_the_record_says_what_it_cannot_check(copy):
    made = copy.recipe_.provenance
    old = replace(made.cohort, appearance=None)
    provenance = replace(made, cohort=old)
    copy.learned_ = with_recipe(copy, provenance=provenance)
    upside = ball(12)[0].max() - ball(12)[0]
    prediction = copy.predict((upside, np.eye(4)), n_samples=2, seed=0)
    assert not any("unlike the training" in flag for flag in prediction.flags)
    assert copy.quality(prediction).unchecked[1:] == (
        "intensities, sharpness and positions against training scans",
        "cut structures and islands against training scans",
        "places within structures against training scans",
    )


def test_synthetic_training_scans_are_counted(fitted, pairs, tmp_path):
    assert fitted.recipe_.provenance.n_synthetic == 0
    assert fitted.recipe_.provenance.caution == ""
    image = nib.load(pairs[0][0])
    image.header["descrip"] = "synthetic: a ball"
    nib.save(image, tmp_path / "sub-0_T1w.nii.gz")
    mixed = [(tmp_path / "sub-0_T1w.nii.gz", pairs[0][1]), pairs[1]]
    model = nb.Segmentation("vnet", SMALL).fit(build(mixed).patches(per_volume=2))
    assert model.recipe_.provenance.n_synthetic == 1
    caution = "Trained on 1 synthetic scan: not for use on real ones."
    folder = model.save(tmp_path / "model")
    assert f"**{caution}**" in (folder / "README.md").read_text()
    loaded = nb.Segmentation.load(folder)
    assert loaded.recipe_.provenance.caution == caution


# --- what to label next


def test_rank_orders_by_the_strategy_and_repeats(fitted, pairs):
    scans = [str(image) for image, _ in pairs[4:9]]
    ranked = fitted.rank(scans, "entropy", n_samples=3)
    entropies = {
        scan: fitted.predict(scan, n_samples=3, seed=0).structures[0].entropy
        for scan in scans
    }
    order = sorted(scans, key=lambda scan: -entropies[scan])
    assert [one.name for one in ranked] == [stem(scan) for scan in order]
    first, again = (fitted.rank(scans, "random", 2, seed=4) for _ in range(2))
    assert first == again
    assert fitted.rank(scans[::-1], "random", 2, seed=4) == first
    orders = {
        tuple(one.name for one in fitted.rank(scans, "random", 2, seed))
        for seed in range(5)
    }
    assert len(orders) > 1


def test_an_unknown_strategy_is_named_before_any_scan_is_read(fitted):
    with pytest.raises(InputError, match="did you mean 'entropy'"):
        fitted.rank(["nowhere.nii"], "entropi")
    with pytest.raises(InputError, match="needs at least 2 draws, got 1"):
        fitted.rank(["nowhere.nii"], "pairwise_dice", n_samples=1)
    with pytest.raises(InputError, match=r"a list of scans, got 'nowhere.nii' alone"):
        fitted.rank("nowhere.nii")


def test_a_bad_scan_does_not_cost_the_ranking(fitted, pairs):
    scans = [str(pairs[4][0]), "nowhere.nii", str(pairs[5][0])]
    with pytest.raises(nb.BatchError, match="nowhere") as caught:
        fitted.rank(scans, n_samples=2)
    assert caught.value.results == fitted.rank(scans[::2], n_samples=2)
    with pytest.raises(InputError, match=r"sub-4_T1w\.nii: given twice"):
        fitted.rank([scans[0], scans[0]])


def test_results_do_not_depend_on_how_paths_are_spelt(copy, pairs, monkeypatch):
    held_out = pairs[4:8]
    monkeypatch.chdir(held_out[0][0].parent)
    relative = [tuple(path.name for path in pair) for pair in held_out]
    found = []
    for files in (held_out, relative):
        scans = [str(image) for image, _ in files]
        found.append(
            (
                copy.calibrate(build(files), n_samples=2).calibration_,
                copy.fit_quality(build(files), 2, severities=(1.0,)).quality_,
                copy.rank(scans, "class_balanced", n_samples=2),
            )
        )
    assert found[0] == found[1]


def test_evaluation_names_no_folder(fitted, pairs):
    rows = fitted.evaluate(build(pairs[4:6]), n_samples=2, surfaces=False)
    assert {row.subject for row in rows} == {"sub-4_T1w", "sub-5_T1w"}


def test_a_foreign_prediction_is_not_judged(fitted, judged, pairs):
    few = (
        "has 2 draws, quality was learned with 4: give n_samples=4, or leave n_samples"
    )
    with pytest.raises(InputError, match=few):
        judged.quality(predicted(judged, n_samples=2))
    label = fitted.predict(str(pairs[4][0]), n_samples=0)
    with pytest.raises(InputError, match="prediction must be what predict"):
        fitted.quality(label)
