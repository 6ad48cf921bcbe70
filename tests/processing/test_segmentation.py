"""The estimator: every model goes the whole way, lists of scans, what is refused."""

import math
import warnings
from dataclasses import fields

import nibabel as nib
import numpy as np
import pytest

from nested_balls import (
    BLOCK,
    BLOCKS,
    MAPS,
    SHAPE,
    STOCHASTIC,
    TINY,
    build,
    same,
    values,
    write_ball,
)
from nobrainer import memory, models
from nobrainer.errors import InputError, UnusualScanWarning
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.ensemble import Ensemble
from nobrainer.processing.prediction import BatchError
from nobrainer.processing.segmentation import Segmentation
from nobrainer.training.options import TrainingArguments, TrainingOptions

# --- every model


@pytest.mark.parametrize("name", models.available_models())
@pytest.mark.filterwarnings("ignore:.*has no stochastic layer")
def test_every_model_goes_the_whole_way(name, pairs, scan, tmp_path):
    block = BLOCKS.get(name, BLOCK)
    # These networks take their time.
    is_slow = name in BLOCKS
    train = build(pairs[:2], block, per_volume=1 if is_slow else 8)
    validate = None if is_slow else build(pairs[2:3])
    fitted = Segmentation(name, TINY[name]).fit(train, validate)
    assert (fitted.base_model, fitted.recipe_.model.name) == (name, name)
    loaded = Segmentation.load(fitted.save(tmp_path / "model"))
    ask = {"n_samples": 2, "seed": 5, "probabilities": True, "block_shape": block}
    before, after = (model.predict(scan, **ask) for model in (fitted, loaded))
    assert same(before, after, (*MAPS, "probabilities"))
    assert np.array_equal(before.volumes_mm3, after.volumes_mm3)
    one, again = (
        model.predict(scan, block_shape=block, n_samples=0)
        for model in (fitted, loaded)
    )
    assert isinstance(one, nib.Nifti1Image)
    assert np.array_equal(values(one), values(again))
    held_out = build(pairs[3:])
    rows, again = (
        model.evaluate(held_out, 2, block_shape=block, allow_seen=True)
        for model in (fitted, loaded)
    )
    assert rows.to_tsv() == again.to_tsv()
    assert {"dice", "nll", "brier", "ece"} < {row.metric for row in rows}
    assert loaded.recipe_ == fitted.recipe_
    assert loaded.history_ == fitted.history_
    assert not loaded.model_.training
    assert (values(before.variance).max() > 0) == (name in STOCHASTIC)


def test_dropout_alone_is_stochastic_too(pairs, scan, recwarn):
    args = TINY["vnet"] | {"dropout_rate": 0.3}
    fitted = Segmentation("vnet", args).fit(build(pairs[:1]))
    assert values(fitted.predict(scan, n_samples=3).variance).max() > 1e-6
    # One epoch may leave a model that finds little.
    others = [w for w in recwarn if w.category is not UnusualScanWarning]
    assert [str(w.message) for w in others] == []


def test_deterministic_model_says_that_it_makes_one_pass(pairs, scan):
    fitted = Segmentation("vnet", TINY["vnet"]).fit(build(pairs[:1]))
    with pytest.warns(
        UserWarning, match="vnet has no stochastic layer: one pass"
    ) as caught:
        result = fitted.predict(scan, n_samples=3)
    assert caught[0].filename == __file__
    assert values(result.variance).max() == 0
    assert values(result.mutual_information).max() < 1e-6
    # Not asked for draws it gives the label alone, and says nothing.
    with warnings.catch_warnings(action="error"):
        warnings.simplefilter("ignore", UnusualScanWarning)
        label = fitted.predict(scan)
    assert isinstance(label, nib.Nifti1Image)
    assert np.array_equal(values(result.label), values(label))
    assert result.volumes_mm3.shape == (1, 2)
    assert math.isnan(result.structures[0].pairwise_dice)


def test_voxels_without_a_value_are_background_and_warned_of_once(
    fitted, scan, tmp_path
):
    image = nib.load(scan)
    rimmed = values(image).astype(np.float32)
    rimmed[:, :, [0, 1, -2, -1]] = np.nan
    path = tmp_path / "sub-3_T1w.nii.gz"
    nib.save(nib.Nifti1Image(rimmed, image.affine), path)
    with pytest.warns(
        UserWarning, match=r"2496 of 17472 voxels \(14\.29%\) are NaN"
    ) as caught:
        result = fitted.predict(path, n_samples=2, seed=1)
    assert sum("NaN" in str(warned.message) for warned in caught) == 1
    assert np.isfinite(values(result.scan)).all()
    expected = fitted.predict(scan, n_samples=2, seed=1)
    missing = np.isnan(rimmed)
    found = values(result.label)
    assert np.array_equal(result.label.affine, image.affine)
    assert not found[missing].any() and found.any()
    assert (found == values(expected.label)).mean() > 0.999
    np.testing.assert_allclose(result.volumes_mm3, expected.volumes_mm3, rtol=0.02)


# --- several inputs


def test_list_gives_a_list(fitted, pairs):
    scans = [image for image, _ in pairs[:2]]
    both = fitted.predict(scans, n_samples=2, seed=1)
    assert isinstance(both, list)
    for scan, result in zip(scans, both, strict=True):
        assert same(result, fitted.predict(scan, n_samples=2, seed=1))
    assert [type(r) for r in fitted.predict(scans, n_samples=0)] == [
        nib.Nifti1Image
    ] * 2
    assert fitted.predict([]) == []


def test_bad_input_in_a_list_stops_nothing(fitted, pairs, tmp_path):
    bad = tmp_path / "sub-bad_T1w.nii.gz"
    bad.write_bytes(b"not an image")
    constant = np.ones(SHAPE), np.eye(4)
    missing = tmp_path / "missing.nii.gz"
    scans = [pairs[0][0], bad, missing, pairs[1][0], constant]
    with pytest.raises(BatchError) as caught:
        fitted.predict(scans, n_samples=2, seed=1)
    error = caught.value
    assert [r is None for r in error.results] == [False, True, True, False, True]
    assert same(error.results[3], fitted.predict(scans[3], n_samples=2, seed=1))
    assert len(error.problems) == 3
    assert error.problems[0].startswith(f"{bad}: not an image")
    assert error.problems[1].startswith(f"{missing}: no such file")
    assert "constant" in error.problems[2]
    assert str(error) == "\n".join(error.problems)
    assert isinstance(error, InputError)


def test_predictions_of_a_list_have_names_of_their_own(fitted, pairs, tmp_path):
    scans = [tmp_path / f"p{n}" / "T1.nii.gz" for n in range(2)]
    for scan in scans:
        scan.parent.mkdir()
        nib.save(nib.load(pairs[0][0]), scan)
    array = np.asarray(nib.load(pairs[0][0]).dataobj), np.eye(4)
    results = fitted.predict([*scans, array, array], n_samples=1, seed=1)
    names = [result.name for result in results]
    assert names == ["p0_T1", "p1_T1", "array_1", "array_2"]
    assert fitted.predict(scans[0], n_samples=1).name == "T1"


def test_a_scan_too_large_for_the_memory_stops_no_other(fitted, monkeypatch):
    small = np.random.default_rng(0).random((20, 20, 20), np.float32)
    large = np.random.default_rng(0).random((20, 20, 21), np.float32)
    # Four maps of four bytes, on the working grid and on that of the scan.
    monkeypatch.setattr(memory, "memory_limit_bytes", lambda: 32 * small.size)
    with pytest.raises(BatchError) as caught:
        fitted.predict([(large, np.eye(4)), (small, np.eye(4))], n_samples=0)
    assert [result is None for result in caught.value.results] == [True, False]
    (problem,) = caught.value.problems
    assert problem.startswith("array: needs 0.000269 GB of memory to predict it, and ")


# --- what fit takes from the data


def test_fit_returns_self_and_may_be_repeated(pairs, scan):
    segmentation = Segmentation("vnet", TINY["vnet"])
    assert segmentation.fit(build(pairs[:1])) is segmentation
    first = values(segmentation.predict(scan))
    assert len(segmentation.fit(build(pairs[:1]), epochs=2).history_) == 2
    segmentation.fit(build(pairs[:1]))
    assert np.array_equal(values(segmentation.predict(scan)), first)
    assert segmentation.model_args == TINY["vnet"]


def test_default_model_takes_classes_from_the_data(pairs):
    classes = [(image, nib.load(mask)) for image, mask in pairs[:1]]
    data = Dataset.from_files(classes, BLOCK, n_classes=3).patches(per_volume=2)
    with pytest.warns(UserWarning, match=r"no training scan has a voxel of class-2: "):
        fitted = Segmentation("vnet", TINY["vnet"]).fit(data)
    assert fitted.recipe_.provenance.cohort.n_having == (1, 1, 0)
    result = fitted.predict(pairs[3][0], probabilities=True)
    assert values(result.probabilities).shape == (*SHAPE, 3)
    assert result.volumes_mm3.shape == (1, 3)
    assert values(result.entropy).max() <= math.log(3) * (1 + 1e-6)
    assert fitted.labels_.names == ("background", "class-1", "class-2")
    known, unknown = result.structures
    assert (known.status == "found") == (known.volume_mm3 > 0)
    assert (unknown.status, unknown.class_number) == ("not in training", 2)
    assert math.isnan(unknown.volume_mm3) and result.volumes_mm3[0, 2] >= 0
    nothing = data.relabel({1: 0, 2: 1, 3: 2})
    with pytest.raises(InputError, match="dataset_train has no voxel of a class but"):
        Segmentation("vnet", TINY["vnet"]).fit(nothing)


def test_weights_by_class_are_a_list(pairs):
    for weights in ({0: 1.0, 1: 5.0}, [1.0], [1.0, -1.0]):
        with pytest.raises(InputError, match="class_weights must be"):
            Segmentation("vnet", TINY["vnet"]).fit(
                build(pairs[:1]), class_weights=weights
            )


# --- what is refused


def test_bad_file_among_good_ones_stops_fit_before_the_first_step(pairs, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    image, mask = write_ball(folder, 7)
    other, shifted = write_ball(folder, 8)
    nib.save(nib.Nifti1Image(values(nib.load(shifted)), np.eye(4)), shifted)
    broken, _ = write_ball(folder, 9)
    broken.write_bytes(broken.read_bytes()[:5000])
    data = Dataset.from_files(
        [pairs[0], (broken, mask), (other, shifted), (image, mask)], BLOCK
    )
    calls = []

    def loss(logits, label):
        calls.append(1)
        return logits.mean()

    segmentation = Segmentation("vnet", TINY["vnet"], tmp_path / "checkpoints")
    for train, validate in (
        (data.binarize(), None),
        (build(pairs[:1]), data.binarize()),
    ):
        with pytest.raises(InputError) as caught:
            segmentation.fit(train, validate, loss=loss)
        lines = str(caught.value).splitlines()
        assert len(lines) == 2
        assert lines[0].startswith(f"{broken}: not an image")
        assert lines[1].startswith(f"{shifted}: its affine puts voxels")
    assert calls == []
    assert list((tmp_path / "checkpoints").glob("*")) == []
    assert not hasattr(segmentation, "model_")


def test_labels_beyond_the_classes_are_named(pairs, tmp_path):
    labels = values(nib.load(pairs[0][1])) * 5
    path = tmp_path / "seg.nii.gz"
    nib.save(nib.Nifti1Image(labels, nib.load(pairs[0][1]).affine), path)
    data = Dataset.from_files([(pairs[0][0], path)], BLOCK, n_classes=3)
    with pytest.raises(InputError, match=r"seg\.nii\.gz: .*5"):
        Segmentation("vnet", TINY["vnet"]).fit(data)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("bayesian_vent", {}, "unknown model 'bayesian_vent'.*'bayesian_vnet'"),
        ("dcgan", {}, "model 'dcgan' makes images: Generation..dcgan.. trains it"),
        ("vnet", {"base_filter": 4}, "'vnet' 'base_filter': did you.*'base_filters'"),
        ("vnet", {"kl_weight": 1}, "unknown argument of model 'vnet' 'kl_weight'"),
        ("bayesian_vnet", {"prior_arg": 1}, "'prior_arg': did you mean 'prior_args'"),
    ],
)
def test_unknown_names_are_refused_by_the_constructor(name, args, message):
    with pytest.raises(InputError, match=message):
        Segmentation(name, args)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("vnet", {"n_classes": 3}, "model has n_classes=3, the dataset 2"),
        ("vnet", {"in_channels": 2}, "in_channels=2, but scans have 1 channel"),
        ("vnet", {"levels": 0}, "levels must be a whole number >= 1"),
        ("vnet", {"base_filters": "4"}, "base_filters must be a whole number"),
        ("bayesian_vnet", {"prior_type": "laplas"}, "'laplas': did you mean 'laplace'"),
        ("bayesian_vnet", {"prior_args": {"scal": 1}}, "did you mean 'scale'"),
        ("bayesian_vnet", {"kl_weight": "ELBO"}, "kl_weight must be 'elbo' or"),
    ],
)
def test_model_arguments_that_cannot_work(pairs, name, args, message):
    with pytest.raises(InputError, match=message) as caught:
        Segmentation(name, args).fit(build(pairs[:1]))
    assert "\n" not in str(caught.value)


def test_nothing_works_before_fit(pairs, tmp_path):
    segmentation = Segmentation("vnet")
    for use in (
        lambda: segmentation.predict(pairs[0][0]),
        lambda: segmentation.evaluate(build(pairs[:1])),
        lambda: segmentation.save(tmp_path / "model"),
    ):
        with pytest.raises(InputError, match=r"not fitted: call fit or load first"):
            use()
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"n_samples": -1}, "n_samples must be a whole number from 0 to 32767, got -1"),
        ({"n_samples": 2.0}, "must be a whole number from 0 to 32767, got 2.0"),
        ({"block_shape": (8, 8)}, "block_shape must be three positive integers"),
        ({"block_shape": 32}, "block_shape must be three positive integers"),
        ({"memory_gb": 0}, "memory_gb must be a number > 0 and finite, got 0"),
        ({"block_shape": (8, 0, 8)}, "block_shape must be three positive integers"),
    ],
)
def test_predict_refuses(fitted, scan, options, message):
    with pytest.raises(InputError, match=message):
        fitted.predict(scan, **options)


def test_bad_scans_are_named(fitted, tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(6, 6, 6)).astype(np.float32)
    four = rng.normal(size=(6, 6, 6, 2)).astype(np.float32)
    cases = {"nan": np.nan * noise, "constant": 0 * noise, "4-D": four}
    for word, data in cases.items():
        path = tmp_path / f"{word}.nii"
        nib.save(nib.Nifti1Image(data, np.eye(4)), path)
        with pytest.raises(InputError, match="(?i)" + word) as caught:
            fitted.predict(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="singular"):
        fitted.predict((noise, np.diag([1.0, 1, 0, 1])))
    with pytest.raises(InputError, match="cannot read a Dataset"):
        fitted.predict(Dataset.from_files([(noise, np.eye(4))]))


def test_what_is_no_dataset_is_refused(fitted, pairs):
    train = build(pairs[:1])
    for use, name in (
        (lambda given: fitted.fit(given), "dataset_train"),
        (lambda given: fitted.fit(train, given), "dataset_validate"),
        (lambda given: fitted.evaluate(given), "dataset"),
        (lambda given: fitted.calibrate(given), "dataset"),
    ):
        with pytest.raises(InputError, match=f"^{name} must be a Dataset, got list: m"):
            use(pairs[:1])
        with pytest.raises(InputError, match=r"Loader: nobrainer\.training\.fit"):
            use(train.dataloader)


def test_fit_takes_every_training_option_by_name(pairs):
    names = {field.name for field in fields(TrainingOptions)}
    assert names == TrainingArguments.__annotations__.keys()
    model = Segmentation("vnet", TINY["vnet"])
    with pytest.raises(InputError, match=r"argument of fit 'presicion'.*precision"):
        model.fit(build(pairs[:1]), presicion="32-true")


def test_each_epoch_is_told_with_its_row(pairs):
    rows = []
    lone = Segmentation("vnet", TINY["vnet"])
    lone.fit(build(pairs[:1]), epochs=3, on_epoch=rows.append)
    assert rows == list(lone.history_)
    # 8 patches of one volume in batches of 2.
    assert [(row["epoch"], row["steps"]) for row in rows] == [(1, 4), (2, 4), (3, 4)]
    rows.clear()
    members = Ensemble("vnet", TINY["vnet"], 2)
    members.fit(build(pairs[:1]), epochs=2, on_epoch=rows.append)
    assert rows == list(members.history_)
    assert [row["member"] for row in rows] == [0, 0, 1, 1]


def test_load_names_what_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such directory"):
        Segmentation.load(tmp_path / "nowhere")


# --- names and arguments of earlier versions


def test_what_was_trained_is_known_after_load(pairs, tmp_path):
    args = {"in_channels": 1, "channels": (4, 8), "strides": (2,)}
    fitted = Segmentation("unet", args).fit(build(pairs[:2]))
    loaded = Segmentation.load(fitted.save(tmp_path / "model"))
    assert loaded.base_model == "unet"
    assert loaded.model_args == {
        "in_channels": 1,
        "channels": [4, 8],
        "strides": [2],
        "n_classes": 2,
    }
    for model in (fitted, loaded):
        assert (model.n_classes_, model.block_shape_) == (2, BLOCK)


def test_all_gpus_are_what_there_is(pairs, monkeypatch):
    asked = []

    def refuse(devices):
        asked.append(devices)
        raise InputError("so many")

    monkeypatch.setattr("nobrainer.training.options.check_devices", refuse)
    for multi_gpu, n_gpus in ((False, 4), (True, 4), (True, 1), (True, 0)):
        monkeypatch.setattr(
            "nobrainer.processing.segmentation.count_gpus", lambda n=n_gpus: n
        )
        model = Segmentation("vnet", TINY["vnet"], multi_gpu=multi_gpu)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(InputError, match="so many"):
                model.fit(build(pairs[:1]))
        said = [str(one.message) for one in caught]
        assert bool(said) == (multi_gpu and n_gpus < 2)
        assert all(f"has {n_gpus or 'no'} GPU: training on one" in one for one in said)
    assert asked == [1, 4, 1, 1]
    with warnings.catch_warnings(action="error"), pytest.raises(InputError):
        Segmentation("vnet", multi_gpu=True).fit(build(pairs[:1]), devices=3)
    assert asked[-1] == 3
