"""Operators that compute elementwise, move, reduce or order values, written in C."""
