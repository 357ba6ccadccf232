"""The target `coreml`: Core ML packages."""
