"""The target `litert`: a step as a file of LiteRT's (`.tflite`), which TensorFlow Lite for Microcontrollers reads too."""
