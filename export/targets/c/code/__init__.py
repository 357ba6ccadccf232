"""A step as statements of C: tensors, memory, constants and parallel regions."""
