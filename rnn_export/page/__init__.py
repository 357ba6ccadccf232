"""The report of a bundle as one HTML file: its content, its verification, and the claims not proven."""
