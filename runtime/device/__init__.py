"""What a backend on a GPU computes on: memory, a queue of work, kernels over rows."""
