"""The engine of a bundle's step, built on the machine that will run it."""
