"""A step graph of ONNX's as a module of torch's: for targets that a program of torch's is converted to."""
