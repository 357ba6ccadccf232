"""The target `coreml`: one step as a package of Core ML's, its state inside."""
