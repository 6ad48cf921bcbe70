"""Predict one scan as a user writes it: predict_nobrainer.py IMAGE MODEL."""

import sys

import nobrainer as nb

image, model = sys.argv[1:]
label, variance, entropy = nb.Segmentation.load(model).predict(image, n_samples=2)
