"""The target `c`: one step in C99, with no dependency."""
