"""Integers of the user's code: their provenance, constants, and tensors that serve as indices."""
