"""Prediction of whole volumes: tiles, draws and running statistics."""
