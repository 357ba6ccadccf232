"""Fixtures of export tests."""

import pytest

from rnn_export.export.lift.ir.dependence import operator_dependence
from rnn_export.export.lift.ir.fx_nodes import aten


@pytest.fixture
def blind(monkeypatch):
    """Lifting takes frames in reverse for an operator that works entry by entry: verification alone sees it."""
    known = operator_dependence.is_pointwise
    monkeypatch.setattr(
        operator_dependence, "is_pointwise", lambda node: node.target is aten.flip.default or known(node)
    )
