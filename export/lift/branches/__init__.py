"""Data-dependent control flow: decisions by values and counters, resolved, assumed or refused."""
