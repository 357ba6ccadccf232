"""An ONNX step graph as a torch module, for targets that convert a torch program."""
