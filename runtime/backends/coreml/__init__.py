"""Core ML on macOS: a package of a bundle, opened by coremltools; its states are Core ML's own."""
