"""The target `torchscript`: TorchScript modules."""
