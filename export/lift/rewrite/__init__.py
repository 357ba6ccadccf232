"""Passes that bring a traced graph to the operators that streaming has rules for."""
