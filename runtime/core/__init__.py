"""Frames, batches, ends and forks: shared by streams, pools and engines."""
