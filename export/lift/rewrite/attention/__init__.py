"""Attention over a window of frames, written as windows over keys and values."""
