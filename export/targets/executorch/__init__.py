"""The target `executorch`: ExecuTorch programs."""
