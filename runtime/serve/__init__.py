"""Serving many callers from one pool: the batcher and its metrics."""
