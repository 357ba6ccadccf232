"""The graphs of a stream as ONNX: step and sequence, and the passes over them."""
