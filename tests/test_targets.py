import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from rnn_export.cli.main import main
from rnn_export.contract.precision import PRECISIONS, precisions_of_gpu
from rnn_export.contract.target_table import TARGETS, find_target, find_targets, table_rows
from rnn_export.errors import ExportError
from rnn_export.runtime.build.native.machines import MACHINES, find_machine

from .messages import raises

ENGINES = [name for name, row in TARGETS.items() if row.library]
JETSONS = [name for name in ENGINES if name.startswith("jetson-")]


@pytest.mark.parametrize("name", TARGETS)
def test_every_row_can_be_asked_for_as_it_stands(name):
    row = TARGETS[name]
    assert row.name == name
    for precision in row.precisions:
        for opset in (None, row.opset, *(row.opsets or ())):
            assert find_target(name, precision, opset) is row
    assert (row.opset is None) == (row.opsets is None)
    if row.opsets is not None:
        assert row.opsets[0] <= row.opset <= row.opsets[1]
    assert row.summary
    assert row.checked


@pytest.mark.parametrize(
    ("name", "precision", "opset", "message"),
    [
        ("abacus", "fp32", None, ("target-unknown", "'abacus'", ", ".join(TARGETS))),
        ("onnx", "int3", None, ("target-precision-unwritten", "'onnx'", "'int3'", TARGETS["onnx"].precisions[0])),
        ("onnx", "fp32", 12, ("target-opset-unsupported", "12", "'onnx'", "13")),
        ("onnx", "fp32", 99, ("target-opset-unsupported", "99", "'onnx'", "13")),
        (
            "jetson-orin",
            "fp32",
            None,
            ("target-unknown", "'jetson-orin': did you mean jetson-orin-nano or jetson-orin-nx?"),
        ),
        ("jetson-agx-oryn", "fp32", None, ("target-unknown", "did you mean jetson-agx-orin or ")),
        ("Jetson_Thor", "fp32", None, ("target-unknown", "did you mean jetson-thor?", "onnx, ")),
        ("tensorrt-rtz", "fp32", None, ("target-unknown", "did you mean tensorrt-rtx or tensorrt?", "onnx, ")),
        (
            "jetson-agx-xavier",
            "bf16",
            None,
            (
                "target-precision-unwritten",
                "'jetson-agx-xavier'",
                "'bf16'",
                "fp32, fp16",
                "its GPU (compute capability "
                "7.2) computes in fp32, fp16, int8, and its TensorRT 8.5 has no bf16, which came with 9.0.",
            ),
        ),
        (
            "jetson-nano",
            "fp32",
            17,
            ("target-opset-unsupported", "17", "'jetson-nano'", "13", "13", "Its oldest TensorRT, 8.2, reads no"),
        ),
    ],
)
def test_what_there_is_not(name, precision, opset, message):
    with raises(*message):
        find_target(name, precision, opset)


MEANT = {
    "cortex-m4": ("c", "--triple cortex-m4"),
    "Cortex_M33": ("c", "--triple cortex-m33"),
    "cortex-m7": ("c", "--triple cortex-m7"),
    "cortex-a53": ("c", "--triple aarch64-linux-gnu --cpu cortex-a53"),
    "cortex-a7": ("c", "--triple arm-linux-gnueabihf --cpu cortex-a7"),
    "esp32-c3": ("c", "--triple rv32imc"),
    "raspberry pi": ("c", "--triple aarch64-linux-gnu"),
    "raspberry-pi-pico": ("c", "--triple cortex-m0plus"),
    "riscv": ("c", "--triple riscv64-linux-gnu"),
    "windows": ("c", "--triple x86_64-windows-gnu"),
    "macos": ("c", "--triple aarch64-macos"),
    "linux": ("c", "--triple x86_64-linux-gnu"),
    **{triple: ("c", f"--triple {triple}") for triple in MACHINES},
}
OTHERS = {"esp32": "c", "esp32-s3": "c", "android": "litert", "ios": "coreml", "browser": "wasm", "node": "wasm"}


@pytest.mark.parametrize(("name", "target", "build"), [(name, *meant) for name, meant in MEANT.items()])
def test_a_machine_is_answered_with_its_target_and_triple(name, target, build):
    with raises("target-unknown", f"{name!r}: that is a machine: --target {target}") as error:
        find_target(name, "fp32", None)
    assert f", then rnn-export build NAME.rnnx --target c {build}." in str(error.value)
    words = build.split()
    assert find_machine(words[1], words[3] if "--cpu" in words else None)


@pytest.mark.parametrize(("name", "target"), OTHERS.items())
def test_a_machine_without_a_triple_is_answered_with_its_target(name, target):
    with raises("target-unknown", f"--target {target}", f"(targets=('{target}',)"):
        find_target(name, "fp32", None)


@pytest.mark.parametrize("name", TARGETS)
def test_no_target_is_taken_for_a_machine(name):
    with raises("target-unknown", "did you mean", name):
        find_target(f"{name}x", "fp32", None)


@pytest.mark.parametrize("name", ["onnx", "c", "jetson-nano"])
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_a_precision_that_a_target_lacks_is_answered_with_those_that_have_it(name, precision):
    if precision in TARGETS[name].precisions:
        return
    with pytest.raises(ExportError) as error:
        find_target(name, precision, None)
    listed = str(error.value).partition(f"Targets in {precision}: ")[2].removesuffix(".").split(", ")
    assert listed
    assert all(find_target(other, precision, None) for other in listed)


def test_an_opset_is_for_the_targets_that_have_one():
    assert [row.name for row in find_targets(("pt2", "onnx"), "fp32", 17)] == ["pt2", "onnx"]
    with raises("opset-without-onnx", "17", "torchscript, pt2"):
        find_targets(("torchscript", "pt2"), "fp32", 17)


@pytest.mark.parametrize(
    ("names", "message"),
    [((), ("targets-empty",)), (("onnx", "onnx"), ("target-named-twice", "onnx, onnx"))],
)
def test_a_list_of_targets_that_cannot_be(names, message):
    with raises(*message):
        find_targets(names, "fp32", None)


def test_the_help_says_that_torchscript_is_deprecated():
    assert "deprecated" in TARGETS["torchscript"].summary


def test_the_names_that_people_ask_for_are_there():
    assert ENGINES[:2] == ["tensorrt", "tensorrt-rtx"]
    boards = "nano tx2 xavier-nx agx-xavier orin-nano orin-nx agx-orin thor"
    assert [f"jetson-{board}" for board in boards.split()] == JETSONS


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_row_has_the_precisions_that_its_hardware_and_its_tensorrt_have(name, precision):
    row = TARGETS[name]
    hardware = all(precision in precisions_of_gpu(compute) for compute in row.compute)
    assert (precision in row.precisions) == (hardware and bool(row.min_version_for(precision)))
    assert bool(row.unsupported_reason(precision)) == (precision not in row.precisions)


@pytest.mark.parametrize("name", JETSONS)
def test_a_jetson_has_its_jetpacks_in_order_and_its_memory(name):
    row = TARGETS[name]
    assert (row.library, row.on_device, len(row.compute)) == ("tensorrt", True, 1)
    assert row.memory == tuple(sorted(row.memory))
    assert row.memory
    versions = [tuple(map(int, j.tensorrt.split("."))) for j in row.jetpacks]
    assert versions == sorted(versions)
    assert versions
    assert [j.name for j in row.jetpacks] == sorted(j.name for j in row.jetpacks)


@pytest.mark.parametrize(
    ("name", "opset", "fp32", "bf16"),
    [
        ("tensorrt", 20, "10.0", "10.0"),
        ("tensorrt-rtx", 23, "1.0", "1.0"),
        ("jetson-nano", 13, "8.2", ""),
        ("jetson-tx2", 13, "8.2", ""),
        ("jetson-xavier-nx", 17, "8.5", ""),
        ("jetson-agx-xavier", 17, "8.5", ""),
        ("jetson-orin-nano", 17, "8.6", "10.3"),
        ("jetson-agx-orin", 17, "8.6", "10.3"),
        ("jetson-thor", 20, "10.13", "10.13"),
        ("onnx", 23, "", ""),
    ],
)
def test_what_a_row_must_serve(name, opset, fp32, bf16):
    row = TARGETS[name]
    assert (row.opsets[1], row.min_version_for(), row.min_version_for("bf16")) == (opset, fp32, bf16)


@pytest.mark.parametrize("name", JETSONS)
def test_the_table_says_where_no_engine_is_built(name):
    row = TARGETS[name]
    older = name in ("jetson-nano", "jetson-tx2", "jetson-xavier-nx", "jetson-agx-xavier")
    assert row.builds is not older
    assert ("the ONNX graph and a trtexec line only" in row.note) is older
    assert ("an engine is built on the machine that runs it" in row.note) is not older


def test_the_note_says_from_which_jetpack_on_there_is_a_precision():
    assert "bf16 from JetPack 6.1 on" in TARGETS["jetson-orin-nx"].note
    assert "bf16" not in TARGETS["jetson-thor"].note
    assert [name for name, p in PRECISIONS.items() if p.tensorrt_since] == ["bf16"]


@pytest.mark.parametrize("name", TARGETS)
def test_a_row_says_what_it_needs_where_it_ran_and_what_it_cannot(name):
    row = TARGETS[name]
    assert re.match(r"to (write|build|compile|run)", row.needs)
    # What was not run is said, whatever was.
    assert re.search(r"\b(not|no|none)\b", row.ran)
    assert row.cannot
    assert (Path(__file__).parent.parent / row.page).exists()


def test_the_command_lists_every_target_with_all_that():
    shown = CliRunner().invoke(main, ["targets"]).stdout
    # Cells are folded, so it is the words that are there.
    words = set(shown.replace(",", " ").split())
    for row in table_rows():
        told = " ".join(row[key] for key in ("target", "summary", "needs", "ran", "cannot", "page"))
        assert set(told.replace(",", " ").split()) <= words
    # Four modules whose Python is too old, of which the same is to be said.
    assert shown.count("trtexec") == 1 + sum("trtexec" in row["note"] for row in table_rows())


def test_the_table_is_json():
    rows = table_rows()
    assert json.loads(json.dumps(rows)) == rows
    assert [row["target"] for row in rows] == list(TARGETS)
    assert len({tuple(row) for row in rows}) == 1
    (orin,) = (row for row in rows if row["target"] == "jetson-orin-nano")
    assert orin["jetpacks"][0] == {"name": "6.0", "tensorrt": "8.6", "cuda": "12.2", "builds": True}
    assert (orin["compute"], orin["memory"], orin["opset"]) == (["8.7"], [4, 8], 17)
    assert [str(j) for j in TARGETS["jetson-nano"].jetpacks] == ["4.6.1 (TensorRT 8.2)"]
