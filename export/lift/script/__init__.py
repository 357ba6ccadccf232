"""ScriptModules run in Python, operator by operator, so that torch.export can follow them."""
