"""TensorRT and TensorRT-RTX. Not run on hardware."""
