"""The target `litert`: LiteRT models."""
