"""The target `litert`: a file of LiteRT's, `.tflite`, which TensorFlow Lite for Microcontrollers reads too."""
