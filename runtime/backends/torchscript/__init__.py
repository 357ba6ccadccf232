"""TorchScript on torch, on the CPU or CUDA."""
