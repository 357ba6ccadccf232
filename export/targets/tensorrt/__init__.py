"""The targets that TensorRT builds an engine for: graph and recipe are written here, the engine where it runs."""
