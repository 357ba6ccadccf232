"""Memory of a model between calls: found in buffers, attributes, caches and arguments, and its initial values."""
