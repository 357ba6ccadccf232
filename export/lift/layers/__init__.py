"""Recurrent layers as single opaque operators."""
