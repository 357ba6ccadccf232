"""Machine code made here, and what all of it shares: the origin, the proof; of C the names, glue and a compiler."""
