"""LiteRT's `.tflite` files: their conversion for the target `litert`."""
