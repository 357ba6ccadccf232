"""Flat calls of the user's model with named tensors, and access to its modules, attributes and globals."""
