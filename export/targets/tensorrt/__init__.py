"""The targets that TensorRT builds an engine for."""
