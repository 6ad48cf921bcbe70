"""Evaluation agrees with prediction, and refuses what does not fit."""

import nibabel as nib
import numpy as np
import pytest

from nested_balls import BLOCK, build, dice, values
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
