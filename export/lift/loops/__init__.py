"""Python loops over time that a trace unrolled, folded into one body."""
