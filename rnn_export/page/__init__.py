"""The report of a bundle as one HTML file: what it is, how it was verified, and what is not proven of it."""
