"""Verification against the user's own module, before anything is written."""
