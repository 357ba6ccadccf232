"""ExecuTorch's `.pte` files: their conversion for the target `executorch`, and a program in C++ that runs one."""
