"""ExecuTorch on the CPU, through its Python runtime: the backend that runs the target `executorch`."""
