"""ONNX files as other tools write them: steps with their states as inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
UNITS, FEATURES = 6, 4


def random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * np.float32(0.4)


def value(name: str, shape: Sequence[int | str | None] | None, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def save(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any], opset: int = 17
) -> Path:
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="somebody")
    model.ir_version = min(model.ir_version, 8 if opset < 19 else model.ir_version)
    onnx.save(model, path)
    return path


def lstm(path: Path, batch: int | str = "batch", opset: int = 17, frames: int | str = 1) -> Path:
    """x (frames, batch, 4), h and c (1, batch, 6) -> y (frames, batch, 3), hn, cn: as torch.onnx lays an LSTM out."""
    weights = {
        "W": random(1, 4 * UNITS, FEATURES),
        "R": random(1, 4 * UNITS, UNITS, seed=1),
        "B": random(1, 8 * UNITS, seed=2),
        "M": random(UNITS, 3, seed=3),
    }
    squeeze = (
        helper.make_node("Squeeze", ["Y"], ["Y1"], axes=[1])
        if opset < 13
        else helper.make_node("Squeeze", ["Y", "one"], ["Y1"])
    )
    if opset >= 13:
        weights["one"] = np.array([1], np.int64)
    nodes = [
        helper.make_node("LSTM", ["x", "W", "R", "B", "", "h", "c"], ["Y", "hn", "cn"], "rnn", hidden_size=UNITS),
        squeeze,
        helper.make_node("MatMul", ["Y1", "M"], ["y"]),
    ]
    state = (1, batch, UNITS)
    inputs = [value("x", (frames, batch, FEATURES)), value("h", state), value("c", state)]
    outputs = [value("y", (frames, batch, 3)), value("hn", state), value("cn", state)]
    return save(path, nodes, inputs, outputs, weights, opset)


def rated(path: Path) -> Path:
    """x (batch, 4), sr, state (batch, 4) -> y, stateN: one filter for each of two rates, chosen by an If."""

    def branch(name: str) -> Any:
        nodes = [helper.make_node("MatMul", ["sum", f"W{name}"], [f"out{name}"])]
        return helper.make_graph(nodes, name, [], [value(f"out{name}", (None, 4))])

    nodes = [
        helper.make_node("Add", ["x", "state"], ["sum"]),
        helper.make_node("Equal", ["sr", "rate"], ["is16"]),
        helper.make_node("If", ["is16"], ["chosen"], then_branch=branch("16"), else_branch=branch("8")),
        helper.make_node("Tanh", ["chosen"], ["stateN"]),
        helper.make_node("Sigmoid", ["chosen"], ["output"]),
    ]
    weights = {"W16": random(4, 4), "W8": random(4, 4, seed=1), "rate": np.array(16000, np.int64)}
    inputs = [value("x", ("batch", 4)), value("sr", (), INT64), value("state", ("batch", 4))]
    outputs = [value("output", ("batch", 4)), value("stateN", ("batch", 4))]
    return save(path, nodes, inputs, outputs, weights)


def window(path: Path, past: str = "past_x", present: str = "present_x", opset: int = 17) -> Path:
    """x (batch, 2, 1), a cache (batch, 2, 3) -> y (batch, 5, 1): a causal convolution over what is cached and new."""
    nodes = [
        helper.make_node("Concat", [past, "x"], ["all"], axis=2),
        helper.make_node("Conv", ["all", "K"], ["y"]),
        helper.make_node("Slice", ["all", "first", "end", "two"], [present]),
    ]
    weights = {"K": random(5, 2, 4)} | {n: np.array([v], np.int64) for n, v in (("first", 1), ("end", 4), ("two", 2))}
    inputs = [value("x", ("batch", 2, 1)), value(past, ("batch", 2, 3))]
    outputs = [value("y", ("batch", 5, 1)), value(present, ("batch", 2, 3))]
    return save(path, nodes, inputs, outputs, weights, opset)


def accumulator(path: Path, a: str = "a", b: str = "b") -> Path:
    """x (batch, 3), a (batch, 3) -> y (batch, 2), b (batch, 3): a state whose names say nothing."""
    nodes = [helper.make_node("Add", ["x", a], ["sum"]), helper.make_node("Tanh", ["sum"], [b])]
    nodes.append(helper.make_node("MatMul", [b, "M"], ["y"]))
    inputs, outputs = (
        [value("x", ("batch", 3)), value(a, ("batch", 3))],
        [value("y", ("batch", 2)), value(b, ("batch", 3))],
    )
    return save(path, nodes, inputs, outputs, {"M": random(3, 2)})


def above_the_loudest(path: Path) -> Path:
    """x (batch, 4) -> y (batch, 4): the square of each value below the largest square of all rows."""
    nodes = [
        helper.make_node("Pow", ["x", "two"], ["square"]),
        helper.make_node("ReduceMax", ["square"], ["loudest"], keepdims=0),
        helper.make_node("Sub", ["square", "loudest"], ["y"]),
    ]
    both = [value(name, ("batch", 4)) for name in ("x", "y")]
    return save(path, nodes, both[:1], both[1:], {"two": np.array(2, np.float32)})


def encoder(path: Path) -> Path:
    """A streaming encoder by the names, layouts and operators that icefall's scripts write for sherpa-onnx.

    x (N, 2, 3), the last 4 frames (4, N, 3) and how many there were (N) -> encoder_out (N, 1, 3), and both anew. Which
    of the frames are none yet is compared with numbers that torch.onnx expands to (N, 4).
    """
    nodes = [
        helper.make_node("Transpose", ["x"], ["frames"], perm=[1, 0, 2]),
        helper.make_node("Concat", ["cached_key_0", "frames"], ["all"], axis=0),
        helper.make_node("Slice", ["all", "list2", "list6", "list0"], ["new_cached_key_0"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "list0"], ["n1"]),
        helper.make_node("Concat", ["n1", "list4"], ["both"], axis=0),
        helper.make_node("Reshape", ["both", "minus"], ["sizes"]),
        helper.make_node("Shape", ["sizes"], ["rank"]),
        helper.make_node("ConstantOfShape", ["rank"], ["ones"], value=numpy_helper.from_array(np.array([1], np.int64))),
        helper.make_node("Mul", ["ones", "minus"], ["asked"]),
        helper.make_node("Equal", ["sizes", "asked"], ["open"]),
        helper.make_node("Where", ["open", "ones", "sizes"], ["wide"]),
        helper.make_node("Expand", ["seen", "wide"], ["ages"]),
        helper.make_node("Unsqueeze", ["processed_lens", "list1"], ["count"]),
        helper.make_node("Greater", ["count", "ages"], ["there"]),
        helper.make_node("Cast", ["there"], ["weights"], to=FLOAT),
        helper.make_node("Unsqueeze", ["weights", "list1"], ["row"]),
        helper.make_node("Transpose", ["cached_key_0"], ["cached"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["row", "cached"], ["past"]),
        helper.make_node("ReduceMean", ["x"], ["now"], axes=[1]),
        helper.make_node("Add", ["past", "now"], ["encoder_out"]),
        helper.make_node("Add", ["processed_lens", "list2"], ["new_processed_lens"]),
    ]
    weights = {f"list{n}": np.array([n], np.int64) for n in (0, 1, 2, 4, 6)}
    weights |= {"zero": np.array(0, np.int64), "minus": np.array([-1], np.int64), "seen": np.array([[3, 2, 1, 0]])}
    inputs = [value("x", ("N", 2, 3)), value("cached_key_0", (4, "N", 3)), value("processed_lens", ("N",), INT64)]
    outputs = [value("encoder_out", ("N", 1, 3)), value("new_cached_key_0", ("rest", "N", 3))]
    file = save(path, nodes, inputs, [*outputs, value("new_processed_lens", ("N",), INT64)], weights, 13)
    model = onnx.load(file)
    helper.set_model_props(model, {"model_type": "zipformer2", "decode_chunk_len": "2", "T": "2"})
    onnx.save(model, file)
    return file
