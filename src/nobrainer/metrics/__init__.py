"""Metrics of segmentations and of their uncertainty."""
