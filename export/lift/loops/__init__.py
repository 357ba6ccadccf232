"""A Python loop over time that export unrolled, found and rolled up again."""
