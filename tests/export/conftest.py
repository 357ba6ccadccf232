"""What tests of export share."""

import pytest

from rnn_export.export.lift.dependence import operators
from rnn_export.export.lift.program.fx import aten


@pytest.fixture
def blind(monkeypatch):
    """Lifting takes a running sum for an operator that works entry by entry: what verification alone then sees."""
    known = operators.is_pointwise
    monkeypatch.setattr(operators, "is_pointwise", lambda node: node.target is aten.cumsum.default or known(node))
