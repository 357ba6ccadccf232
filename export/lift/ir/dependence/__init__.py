"""Dependence of values on frames and rows, decided operator by operator, never on the values that a model computes.

`cell_layout` has the layout of frames or rows in a value; `operator_dependence` the effect of one operator on them;
`drawn_values` the values that an operator is tried on; `row_dependence` follows the rows of the batch through a whole
graph. The streaming pass follows the frames.
"""
