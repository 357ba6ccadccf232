"""Values by iteration or frame that a loop reads: indices, rows of tables, and masks made in Python."""
