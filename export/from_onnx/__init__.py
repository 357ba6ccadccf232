"""From an ONNX file that others made, a step already, to a step of ours: no torch here."""
