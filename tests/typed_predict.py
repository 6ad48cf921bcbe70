"""What a type checker knows of `predict`; `mypy` reads this, nothing runs it."""

from typing import assert_type

import nibabel as nib

import nobrainer as nb
from nobrainer.processing.prediction import Prediction

Image = nib.Nifti1Image


def check_one(model: nb.Segmentation, scan: str, n_samples: int) -> None:
    assert_type(model.predict(scan), Image | Prediction)
    assert_type(model.predict(scan, block_shape=(32, 32, 32)), Image | Prediction)
    assert_type(model.predict(scan, n_samples=0), Image)
    assert_type(model.predict(scan, 1, None, 0, class_numbers=True), Image)
    assert_type(model.predict(scan, n_samples=3), Prediction)
    assert_type(model.predict(scan, n_samples=n_samples), Prediction)
    assert_type(model.predict(scan, probabilities=True), Prediction)
    assert_type(model.predict(scan, n_samples=0, probabilities=True), Prediction)
    label, variance, entropy = model.predict(scan, n_samples=3)
    assert_type((label, variance, entropy), tuple[Image, Image, Image])


def check_many(model: nb.Segmentation, scans: list[str]) -> None:
    assert_type(model.predict(scans), list[Image | Prediction])
    assert_type(model.predict(scans, n_samples=0), list[Image])
    assert_type(model.predict(scans, n_samples=3), list[Prediction])
    assert_type(model.predict(scans, probabilities=True), list[Prediction])
