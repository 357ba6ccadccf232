"""ONNX files, read and inspected without the onnx package."""
