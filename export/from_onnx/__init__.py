"""Convert an ONNX file that is already a step to a step of this package, without torch."""
