"""Operators that a package registers with torch and writes in Python are decomposed in a graph."""

from __future__ import annotations

import torch
from torch import Tensor

from .streams import Call, assert_streams

FRAMES = torch.randn(2, 6, 4)


@torch.library.custom_op("test_rnn_export::leaky", mutates_args=())
def leaky(x: Tensor, held: Tensor, decay: float) -> Tensor:
    made = []
    for frame in x.unbind(1):
        held = decay * held + frame
        made.append(held)
    return torch.stack(made, 1)


@leaky.register_fake
def _(x: Tensor, held: Tensor, decay: float) -> Tensor:
    return torch.empty_like(x)


LIBRARY = torch.library.Library("test_rnn_export", "FRAGMENT")
LIBRARY.define("charge(Tensor x, Tensor held) -> Tensor")
LIBRARY.impl("charge", lambda x, held: torch.tanh(x + 0.5 * held), "CPU")
LIBRARY.impl("charge", lambda x, held: torch.empty_like(x), "Meta")
LIBRARY.define("by_values(Tensor x) -> Tensor")
LIBRARY.impl("by_values", lambda x: torch.as_tensor(x.numpy() * 2), "CPU")
LIBRARY.impl("by_values", lambda x: torch.empty_like(x), "Meta")


def test_a_loop_inside_of_one_is_a_stream():
    model = Call(lambda s, x: torch.ops.test_rnn_export.leaky(x, x.new_zeros(x.shape[0], 4), 0.9))
    assert len(assert_streams(model, FRAMES).spec.states) == 1


def test_one_registered_by_hand_is_a_step():
    def forward(s, x):
        s.held = torch.ops.test_rnn_export.charge(x, s.held)
        return s.held

    model = Call(forward, held=torch.zeros(1, 4))
    lifted = assert_streams(model, FRAMES[:, 0], time_axis=None)
    targets = {node.target for node in lifted.module.graph.nodes if node.op == "call_function"}  # type: ignore[union-attr]
    assert torch.ops.aten.tanh.default in targets


def test_one_that_asks_for_values_stays_as_it_is():
    model = Call(lambda s, x: torch.ops.test_rnn_export.by_values(x))
    assert not assert_streams(model, FRAMES[:, 0], time_axis=None).spec.states
