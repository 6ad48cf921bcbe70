"""Distributions over weights: priors, posteriors, layers, their KL and their draws."""
