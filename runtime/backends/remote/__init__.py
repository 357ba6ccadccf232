"""Streams whose states live on Triton servers: `load("grpc://host:port/NAME")` gives an engine like any other.

A stream's memory is never only on a server. The client keeps the last snapshot of each sequence and the frames fed
since, so that any server of the same model can go on: it is sent the snapshot, then those frames, then the next one.
"""
