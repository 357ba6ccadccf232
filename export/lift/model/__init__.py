"""The user's call as a function of flat, named tensors, and what its modules, attributes and globals hold."""
