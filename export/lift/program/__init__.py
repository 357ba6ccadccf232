"""What lifting reads: a call with flat, named tensors, and its graph of functional operators."""
