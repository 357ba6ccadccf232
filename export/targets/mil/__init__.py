"""Programs of Core ML's (MIL): a step converted to one, and one executed in numpy."""
