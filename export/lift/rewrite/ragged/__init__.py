"""Axes whose length depends on a value, stored at their maximum length with a count of valid entries."""
