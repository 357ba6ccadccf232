"""A computed index out of range: C reads the nearest row and records it, a stream refuses the frame."""

import numpy as np
import pytest
import torch
from torch import nn

from rnn_export.export import export
from rnn_export.runtime import load
from rnn_export.runtime.build.wasm.wasm_build import build_wasm

from ..messages import raises  # noqa: TID252
from ..runtime.graphs import tensor  # noqa: TID252
from ..web.node import need, node  # noqa: TID252
from .c_models import model, written

X, Y = tensor("x", "batch", 3), tensor("y", "batch", 3)
TABLE = np.arange(5, dtype=np.float32)
OUT_OF_TABLE = ("computed-index-beyond-table", "native", "(Gather", "[-5,4]")


class Looked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(5, 3))
        self.rnn = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        y: torch.Tensor = self.rnn(self.table[(x[..., 0] * 4).long()])[0]
        return y


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    data = np.random.default_rng(0).uniform(0, 1, (64, 2)).astype(np.float32)
    path = tmp_path_factory.mktemp("indices") / "looked.rnnx"
    return export(Looked(), torch.rand(1, 8, 2), path, targets=("onnx", "c"), data=data, steps=16)


GOOD, WRONG = np.array([0.6, 0], np.float32), np.array([3, 0], np.float32)


def test_a_stream_refuses_the_frame_and_is_as_it_was(bundle):
    stream, other = (load(bundle.path, name).stream() for name in ("native", "onnxruntime"))
    for it in (stream, other):
        it.step(GOOD)
        before = it.snapshot()
        for wrong in (WRONG, -WRONG):
            with raises(*OUT_OF_TABLE) if it is stream else raises("onnxruntime-step-refused"):
                it.step(wrong)
        with raises(*OUT_OF_TABLE) if it is stream else raises("onnxruntime-sequence-refused"):
            it.run(np.stack([GOOD, WRONG, GOOD]))
        assert it.snapshot() == before
    np.testing.assert_allclose(stream.step(GOOD), other.step(GOOD), atol=1e-6)


@pytest.mark.parametrize("streams", [2, 9])
def test_a_pool_refuses_the_round_and_is_as_it_was(bundle, streams):
    pool = load(bundle.path, "native").pool()
    ids = [pool.open() for _ in range(streams)]
    frames = np.repeat(GOOD[None], streams, 0)
    first = pool.step(ids, frames)
    before = [pool.snapshot(i) for i in ids]
    wrong = frames.copy()
    wrong[1] = WRONG
    with raises(*OUT_OF_TABLE):
        pool.step(ids, wrong)
    assert [pool.snapshot(i) for i in ids] == before
    assert not np.array_equal(pool.step(ids, frames), first)


def test_an_interrupted_step_is_refused_until_states_are_written(bundle):
    """An interrupt comes between the step and the look at it."""
    stream = load(bundle.path, "native").stream()
    stream._buffers.inputs["x"][...] = WRONG
    stream._buffers.compute()
    for _ in range(2):
        with raises(*OUT_OF_TABLE):
            stream.step(GOOD)
    stream.reset()
    stream.step(GOOD)


def test_webassembly_refuses_the_frame_too(bundle):
    need("zig", "wasmtime", "node")
    built = build_wasm(bundle, trust=True).bundle
    stream = load(built.path, "wasm", trust=True).stream()
    first, before = stream.step(GOOD), stream.snapshot()
    with raises(OUT_OF_TABLE[0], "wasm", *OUT_OF_TABLE[2:]):
        stream.step(WRONG)
    assert stream.snapshot() == before
    code = """
      const stream = (await load()).stream(), first = stream.step([0.6, 0]), before = stream.snapshot();
      const refused = await refusal(() => stream.step([3, 0]));
      return [first, refused, base64(before) === base64(stream.snapshot())];
    """
    given, (kind, message), same = node(built.path / "targets" / "wasm-fp32", code)
    np.testing.assert_allclose(given, first, atol=1e-6)
    assert (kind, same) == ("RnnError", True)
    assert message.endswith("must be within the inclusive range [-5,4]: the memory is unchanged.")


def hand(nodes, **constants) -> str:
    """The C of whole numbers `i` made of x, and `nodes` that give y."""
    nodes = [("Cast", ["x"], ["i"], {"to": 7}), *nodes]
    return written(model(nodes, (), (X,), (Y,), table=TABLE, **constants))["hand.c"].decode()


def gathered(index: str):
    return ("Gather", ["table", index], ["y"], {})


BOUNDED = {
    "clip": [("Clip", ["i", "least", "most"], ["j"], {}), gathered("j")],
    "remainder": [("Mod", ["i", "five"], ["j"], {}), gathered("j")],
    "moved": [("Mod", ["i", "five"], ["j"], {}), ("Sub", ["j", "five"], ["k"], {}), gathered("k")],
    "difference": [("Mod", ["i", "five"], ["j"], {}), ("Sub", ["j", "j"], ["k"], {}), gathered("k")],
    "largest": [("ArgMax", ["x"], ["j"], {"axis": 1}), ("Expand", ["j", "shape"], ["k"], {}), gathered("k")],
    "chosen": [("Greater", ["x", "one"], ["c"], {}), ("Where", ["c", "least", "most"], ["j"], {}), gathered("j")],
}
CONSTANTS = {
    "least": np.int64(-5),
    "most": np.int64(4),
    "five": np.int64(5),
    "eight": np.int64(8),
    "shape": np.array([1, 3]),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_an_index_that_is_in_its_table_is_not_looked_at(name):
    assert "wrong_index" not in hand(BOUNDED[name], **CONSTANTS)


UNBOUNDED = {
    "Gather": [gathered("i")],
    "Gather of a sum": [("Add", ["i", "five"], ["j"], {}), gathered("j")],
    "Gather of a larger clip": [("Clip", ["i", "least", "five"], ["j"], {}), gathered("j")],
    "Gather of a difference": [
        ("Mod", ["i", "five"], ["j"], {}),
        ("Mod", ["i", "eight"], ["k"], {}),
        ("Sub", ["j", "k"], ["l"], {}),
        gathered("l"),
    ],
    "GatherElements": [("GatherElements", ["x", "i"], ["y"], {"axis": 1})],
    "GatherND": [("Unsqueeze", ["i", "last"], ["j"], {}), ("GatherND", ["table", "j"], ["y"], {})],
    "ScatterElements": [("ScatterElements", ["x", "i", "x"], ["y"], {"axis": 1})],
}


@pytest.mark.parametrize("name", UNBOUNDED)
def test_an_index_that_may_be_out_of_its_table_is_noted_in_both_steps(name):
    alone, together = hand(UNBOUNDED[name], **CONSTANTS, last=np.array([2])).split("#ifdef HAND_ROWS")
    assert "state->wrong_index = 0;" in alone
    assert "state->wrong_index = 1;" in alone
    assert "states[r]->wrong_index" in together


def test_a_constant_index_out_of_its_table_is_refused():
    with raises("c-indices-beyond-axis", "Gather", "0 to 5"):
        hand([("Gather", ["table", "far"], ["t"], {}), ("Add", ["x", "t"], ["y"], {})], far=np.array([0, 5, 1]))
