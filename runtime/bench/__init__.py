"""Step timing: every backend and precision of a bundle side by side, in one run on one core."""
