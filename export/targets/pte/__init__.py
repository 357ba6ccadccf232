"""Files of ExecuTorch's, `.pte`: how the target `executorch` comes to them, and the program in C++ that runs one."""
