"""What turns a bundle's graphs into machine code here: the recipe, the builder of TensorRT, the machine it is on."""
