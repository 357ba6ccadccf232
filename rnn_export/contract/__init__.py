"""The contract of a stream, and the tables of targets and precisions that exporter and runtime share."""
