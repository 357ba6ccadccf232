"""The target `onnx`: ONNX graphs of step and sequence."""
