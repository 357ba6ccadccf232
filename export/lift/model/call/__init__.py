"""Arguments and results of a call: nested containers, dataclasses, caches and lengths, as flat tensors."""
