"""What tests of export share."""

import pytest

from rnn_export.export.lift.dependence import operators
from rnn_export.export.lift.program.fx import aten


@pytest.fixture
def blind(monkeypatch):
    """Lifting takes frames in reverse for an operator that works entry by entry: verification alone sees it."""
    known = operators.is_pointwise
    monkeypatch.setattr(operators, "is_pointwise", lambda node: node.target is aten.flip.default or known(node))
