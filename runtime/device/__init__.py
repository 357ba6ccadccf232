"""A GPU as backends use it: memory, a queue of work, kernels over rows."""
