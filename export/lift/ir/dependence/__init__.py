"""Dependence of values on frames and rows: decided operator by operator, never on the values that a model computes.

`cell_layout` says where frames or rows stand in a value; `operator_dependence` what one operator does along them;
`drawn_values` has the values that an operator is tried on; `row_dependence` follows the rows of the batch through a
whole graph. The streaming pass follows the frames.
"""
