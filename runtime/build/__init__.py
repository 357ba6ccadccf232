"""Builds of machine code, and their shared parts: the origin, the proof; of C the names, glue and a compiler."""
