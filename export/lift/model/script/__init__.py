"""TorchScript modules and functions, run node by node in Python."""
