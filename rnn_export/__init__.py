"""Recurrent networks from PyTorch to the edge: one pure step, its states named, exported, verified and streamed."""

__version__ = "0.1.0"
