"""Which frames and rows a value depends on: decided operator by operator, never on what the model passes through them.

`layout` says where frames or rows stand in a value; `operators` what one operator does along them; `drawn` has the
values that an operator is tried on; `rows` follows the rows of the batch through a whole graph. The streaming pass
follows the frames.
"""
