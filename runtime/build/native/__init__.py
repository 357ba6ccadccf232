"""What turns the C of a bundle into machine code: compilers, the glue for Python, and what is recorded of it."""
