"""torch.export of a model with symbolic sizes, functionalized, and refusals in the user's words."""
