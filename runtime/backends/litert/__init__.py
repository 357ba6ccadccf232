"""LiteRT on the CPU: the backend that runs the target `litert`."""
