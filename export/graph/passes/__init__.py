"""Passes over one ONNX graph; each takes a model and gives another."""
