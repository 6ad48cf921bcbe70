"""Evaluation and calibration agree with prediction, and refuse what does not fit."""

import warnings

import nibabel as nib
import numpy as np
import pytest

from nested_balls import BLOCK, TINY, build, dice, values, write_nested
from nobrainer.errors import InputError
from nobrainer.evaluation import summarise
from nobrainer.naming import stem
from nobrainer.processing.dataset import Dataset
from nobrainer.processing.segmentation import Segmentation


def test_evaluate_agrees_with_predict(fitted, pairs):
    rows = fitted.evaluate(build(pairs[2:]), n_samples=3, seed=4, allow_seen=True)
    scores = []
    for image, mask in pairs[2:]:
        result = fitted.predict(image, n_samples=3, seed=4, probabilities=True)
        truth = values(nib.load(mask))
        scores.append(dice(values(result.label) > 0, truth > 0))
        found = {
            (row.metric, row.region): row.value
            for row in rows
            if row.subject == stem(image)
        }
        assert found["dice", "volume"] == pytest.approx(scores[-1])
        p = np.take_along_axis(values(result.probabilities), truth[..., None], -1)
        nll = -np.log(p.astype(float)).mean()
        assert found["nll", "volume"] == pytest.approx(nll, rel=1e-3)
    summary = summarise(rows)
    assert summary["dice"] == pytest.approx(np.mean(scores))
    assert {row.structure for row in rows} == {"foreground", "all"}


def test_labels_without_what_the_model_segments_are_warned_of(fitted, pairs, tmp_path):
    image, mask = pairs[3]
    grid = nib.load(mask)
    empty = tmp_path / "empty.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(grid.shape, np.uint8), grid.affine), empty)
    few = "the labels lack 1 of the model's 1 structure: check .* training had"
    with pytest.warns(UserWarning, match=few):
        fitted.evaluate(build([(image, empty)]), n_samples=1, surfaces=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.evaluate(build(pairs[3:4]), n_samples=1, surfaces=False)


def test_evaluate_refuses_what_does_not_fit(fitted, pairs):
    three = Dataset.from_files(pairs, BLOCK, n_classes=3)
    with pytest.raises(InputError, match=r"dataset has n_classes=3, the model 2"):
        fitted.evaluate(three)
    bare = Dataset.from_files([pairs[0][0]], BLOCK)
    with pytest.raises(InputError, match=r"sub-0_T1w\.nii\.gz: has no labels"):
        fitted.evaluate(bare)


def test_a_model_saved_in_half_precision_is_the_one_with_its_kernels_rounded(
    fitted, scan, tmp_path
):
    folder = fitted.save(tmp_path / "half", weights="float16")
    assert fitted.recipe_.model.weights == "float32"
    half = Segmentation.load(folder)
    for name, tensor in fitted.model_.state_dict().items():
        kept = tensor.half().float() if tensor.ndim > 1 else tensor
        assert half.model_.state_dict()[name].equal(kept), name
    labels = [
        values(model.predict(scan, n_samples=3, seed=0).label)
        for model in (fitted, half)
    ]
    assert np.mean(labels[0] == labels[1]) > 0.999
    # Without a word it stays in half precision; it can be made single again.
    assert Segmentation.load(half.save(tmp_path / "again")).recipe_ == half.recipe_
    whole = Segmentation.load(half.save(tmp_path / "whole", weights="float32"))
    assert whole.recipe_.model.weights == "float32"
    with pytest.raises(InputError, match=r"format of weights 'half'.*float16"):
        half.save(tmp_path / "none", weights="half")


def test_the_weight_of_the_intensities_holds_for_predictions_and_is_kept(tmp_path):
    pairs = [write_nested(tmp_path, number) for number in range(5)]
    data = Dataset.from_files(pairs[:2], (16, 16, 16), n_classes=3).batch(2)
    data = data.patches(per_volume=64)
    model = Segmentation("bayesian_vnet", TINY["bayesian_vnet"])
    model.fit(data, epochs=2, opt_args={"lr": 0.02})
    plain = model.predict(pairs[4][0], n_samples=3, seed=0).volumes_mm3
    held_out = model.dataset(pairs[2:4])
    model.calibrate(held_out, n_samples=3, intensity_weight=0.6)
    evidence = model.learned_.predictor(3, 0).evidence
    assert (evidence.weight, evidence.shared) == (0.6, (0, 1, 2))
    weighed = model.predict(pairs[4][0], n_samples=3, seed=0).volumes_mm3
    assert not np.array_equal(weighed, plain)
    loaded = Segmentation.load(model.save(tmp_path / "weighed"))
    assert loaded.calibration_.intensity_weight == 0.6
    again = loaded.predict(pairs[4][0], n_samples=3, seed=0).volumes_mm3
    np.testing.assert_array_equal(again, weighed)
    # A new calibration has a weight of its own, and a temperature moves no label.
    model.calibrate(held_out, n_samples=3)
    assert model.learned_.predictor(3, 0).evidence is None
    again = model.predict(pairs[4][0], n_samples=3, seed=0).volumes_mm3
    np.testing.assert_array_equal(again, plain)


def test_a_weight_of_the_intensities_that_cannot_be_used_is_refused(fitted, pairs):
    held_out = fitted.dataset(pairs[3:])
    with pytest.raises(InputError, match="intensity_weight must be a number from 0"):
        fitted.calibrate(held_out, intensity_weight=1.5)
    with pytest.raises(InputError, match="this model knows foreground"):
        fitted.calibrate(held_out, intensity_weight=0.5)
    assert fitted.calibration_ is None
