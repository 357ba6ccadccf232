"""Traces of a model at several lengths, and its own loop over time folded from them."""
