"""The closed loop that holds an engine to golden vectors, and the drift between the two."""
