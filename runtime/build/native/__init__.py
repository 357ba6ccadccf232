"""Build machine code from the C of a bundle: compilers, the glue for Python, and the record of the build."""
