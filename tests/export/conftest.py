"""Fixtures of export tests."""

import pytest

from rnn_export.export.lift.ir.dependence.axis_table import AXES
from rnn_export.export.lift.ir.fx_nodes import aten


@pytest.fixture
def blind(monkeypatch):
    """Lifting takes frames in reverse for an operator that keeps all axes: verification alone sees it."""
    monkeypatch.setitem(AXES, aten.flip.default, AXES[aten.clone.default])
