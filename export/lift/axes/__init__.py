"""Batch and time axes, found by running the model at several sizes."""
