"""Linear recurrences that code computes by parallel or chunkwise scans, detected and written as one operator."""
