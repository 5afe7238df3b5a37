"""Rewrites take a model and give one that computes the same: each has the plain model as its oracle."""
