"""Graph nodes, their places in the source, and the values and sizes in them: shared by all stages of lifting."""
