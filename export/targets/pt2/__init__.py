"""The target `pt2`: torch.export programs (`.pt2`)."""
