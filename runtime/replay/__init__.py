"""The closed loop that holds an engine to golden vectors, and how far the two are apart."""
