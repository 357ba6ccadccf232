"""Graph nodes, their source locations, and the values and sizes in them, for all stages of lifting."""
