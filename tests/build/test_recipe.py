"""The recipe of an engine: written, read strictly, and as a command line."""

import json
import shlex
from dataclasses import replace

import pytest

from rnn_export.contract.spec import StateSpec, StreamSpec, TensorSpec
from rnn_export.errors import BundleError
from rnn_export.runtime.build.tensorrt.recipe import Recipe

from ..messages import raises  # noqa: TID252

SPEC = StreamSpec(
    inputs=(TensorSpec("x", "float32", ("batch", "time", 3)), TensorSpec("id", "int64", ("batch",))),
    outputs=(TensorSpec("y", "float32", ("batch", "time/2", 2)),),
    states=(StateSpec("rnn.l0.h", "rnn.l0.h", "rnn.l0.h.next", "float32", ("batch", 8)),),
    chunk=4,
)
PLACE = "targets/jetson-orin-nano-fp16"
RECIPE = Recipe("jetson-orin-nano", "fp16", "fp32", 17, f"{PLACE}/step.onnx", "a" * 64, (1, 2, 8))


def test_shapes_of_inputs_and_states():
    assert RECIPE.shapes(SPEC) == {
        "x": ((1, 4, 3), (2, 4, 3), (8, 4, 3)),
        "id": ((1,), (2,), (8,)),
        "rnn.l0.h": ((1, 8), (2, 8), (8, 8)),
    }


def test_there_and_back():
    assert Recipe.from_json(json.loads(json.dumps(RECIPE.to_json()))) == RECIPE
    raw = RECIPE.to_file(SPEC)
    assert Recipe.from_file(raw) == RECIPE
    assert json.loads(raw)["trtexec"] == RECIPE.trtexec(SPEC)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("target", ["", 3]),
        ("precision", ["int8", None, ["fp16"]]),
        ("state_precision", ["fp64"]),
        ("opset", [17.0, True, "17"]),
        ("onnx", [None]),
        ("sha256", ["a" * 63, "A" * 64]),
        ("batch", [[1, 2], [1, 2, 8.0], [0, 2, 8], "128"]),
    ],
)
def test_a_field_of_the_wrong_kind(name, values):
    for value in values:
        with raises("recipe-field-value", f"'{name}'"):
            Recipe.from_json({**RECIPE.to_json(), name: value})


def test_what_is_no_recipe():
    known = RECIPE.to_json()
    for data in ({**known, "more": 1}, {k: v for k, v in known.items() if k != "opset"}, [], None, "text"):
        with raises("recipe-fields-differ"):
            Recipe.from_json(data)
    for raw in (b"", b"{", b"\xff\xfe", b"{} {}"):
        with raises("recipe-not-json"):
            Recipe.from_file(raw)


@pytest.mark.parametrize("batch", [(0, 1, 8), (2, 1, 8), (1, 8, 4)], ids=str)
def test_a_batch_that_does_not_rise(batch):
    text = ":".join(map(str, batch))
    with raises("recipe-batch-malformed", text):
        replace(RECIPE, batch=batch)
    if batch[0]:
        with raises("recipe-batch-malformed", text, kind=BundleError):
            Recipe.from_json({**RECIPE.to_json(), "batch": list(batch)})


@pytest.mark.parametrize(
    ("target", "mebibytes"),
    [("jetson-nano", 512), ("jetson-orin-nano", 1024), ("jetson-agx-orin", 8192), ("tensorrt", None), ("gone", None)],
)
def test_a_module_gives_a_quarter_of_its_memory(target, mebibytes):
    memory = replace(RECIPE, target=target).memory
    assert memory == (mebibytes * 2**20 if mebibytes else None)


SHAPES = [
    "--minShapes=x:1x4x3,id:1,rnn.l0.h:1x8",
    "--optShapes=x:2x4x3,id:2,rnn.l0.h:2x8",
    "--maxShapes=x:8x4x3,id:8,rnn.l0.h:8x8",
]
FILES = ["--onnx=step.onnx", "--saveEngine=step.engine"]
STRONG, WEAK = "--stronglyTyped --noTF32", "--fp16 --precisionConstraints=obey --noTF32"


@pytest.mark.parametrize(
    ("target", "precision", "rest"),
    [
        ("tensorrt", "fp16", f"{STRONG} --skipInference"),
        ("jetson-orin-nano", "bf16", f"{STRONG} --memPoolSize=workspace:1024 --skipInference"),
        ("jetson-thor", "fp32", f"{STRONG} --memPoolSize=workspace:16384 --skipInference"),
        ("jetson-xavier-nx", "fp16", f"{WEAK} --memPoolSize=workspace:2048 --buildOnly"),
        ("jetson-xavier-nx", "fp32", "--noTF32 --memPoolSize=workspace:2048 --buildOnly"),
        ("jetson-nano", "fp16", f"{WEAK} --workspace=512 --buildOnly"),
        ("tensorrt-rtx", "fp16", ""),
    ],
)
def test_the_command_line_of_trtexec(target, precision, rest):
    line = replace(RECIPE, target=target, precision=precision).trtexec(SPEC)
    tool = "tensorrt_rtx" if target == "tensorrt-rtx" else "trtexec"
    assert shlex.split(line) == [tool, *FILES, *SHAPES, *rest.split()]


def test_names_that_trtexec_would_split():
    """In quotes for trtexec, and with quotes of the shell around those."""
    x, y = TensorSpec("x:0", "float32", ("batch", 3)), TensorSpec("y", "float32", ("batch", 3))
    assert "--minShapes='x:0':1x3" in shlex.split(RECIPE.trtexec(StreamSpec((x,), (y,), ())))
