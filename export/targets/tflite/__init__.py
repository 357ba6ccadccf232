"""Files of LiteRT's, `.tflite`: how the target `litert` comes to them."""
