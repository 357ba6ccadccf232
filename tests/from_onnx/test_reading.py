"""A file is read whole, with its external data, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper
from onnx.external_data_helper import convert_model_to_external_data

from rnn_export.export.from_onnx.reading import read_source, tensors_of

from ..messages import raises  # noqa: TID252
from . import nets


def external(folder: Path, **said: str) -> Path:
    """A net whose weights lie in weights.bin beside it; `said` replaces what it says of where."""
    model = onnx.load(nets.lstm(folder / "inside.onnx"))
    convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    path = folder / "net.onnx"
    onnx.save(model, path)
    if said:
        model = onnx.load(path, load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            entry.value = said.get(entry.key, entry.value)
        path.write_bytes(model.SerializeToString())
    return path


def test_weights_next_to_the_file_are_packed_in(tmp_path: Path) -> None:
    inside, outside = (read_source(path) for path in (nets.lstm(tmp_path / "a.onnx"), external(tmp_path)))
    assert [t.raw_data for t in tensors_of(outside.model)] == [t.raw_data for t in tensors_of(inside.model)]
    (tmp_path / "weights.bin").unlink()
    assert onnx.load_from_string(outside.packed).graph.initializer[0].HasField("raw_data")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"location": "../secret.bin"}, ("onnx-weights-missing", "'../secret.bin'")),
        ({"location": "/etc/hostname"}, ("onnx-weights-missing", "'/etc/hostname'")),
        ({"location": "link.bin"}, ("onnx-weights-missing", "'link.bin'")),
        ({"location": "not_there.bin"}, ("onnx-weights-missing", "'not_there.bin'")),
        ({"offset": "9999999"}, ("onnx-weights-cut-off",)),
        ({"offset": "x"}, ("onnx-weights-place-invalid", "'weights.bin'")),
        ({"length": "8"}, ("onnx-weights-damaged", "'W'")),
    ],
)
def test_weights_that_lie_elsewhere_are_refused(said: dict[str, str], message: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(10_000))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with raises(*message):
        read_source(external(folder, **said))


def test_what_is_no_onnx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with raises("onnx-file-missing"):
        read_source(path)
    path.write_bytes(b"no model at all")
    with raises("onnx-unreadable"):
        read_source(path)
    path.write_bytes(b"")
    with raises("onnx-without-graph"):
        read_source(path)


def test_a_file_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = nets.lstm(tmp_path / "net.onnx")
    monkeypatch.setenv("RNN_EXPORT_MAX_BYTES", "100")
    with raises("onnx-file-too-large", "400", "RNN_EXPORT_MAX_BYTES"):
        read_source(path)


def changed(folder: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    """A file of a net of which this was changed."""
    path = nets.accumulator(folder / "net.onnx")
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("opset", [8, 999])
def test_opsets_that_are_not_known_are_refused(opset: int, tmp_path: Path) -> None:
    with raises("onnx-opset-unread", opset, "9"):
        read_source(changed(tmp_path, lambda model: setattr(model.opset_import[0], "version", opset)))


@pytest.mark.parametrize(
    ("op", "domain", "message"),
    [
        ("FusedMatMul", "com.microsoft", "is of the domain 'com.microsoft', which is not ONNX's own"),
        ("RandomNormal", "", "is an operator that no graph of a bundle has"),
    ],
)
def test_the_gate_is_that_of_a_strangers_bundle(op: str, domain: str, message: str, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node(op, ["x"], ["more"], "mine", domain=domain))
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    with raises("onnx-file-unusable", "'mine'", message):
        read_source(changed(tmp_path, change))


def test_weights_that_are_inputs_as_well_are_weights(tmp_path: Path) -> None:
    file = changed(tmp_path, lambda model: model.graph.input.append(nets.value("M", (3, 2))))
    assert [value.name for value in read_source(file).model.graph.input] == ["x", "a"]


def test_functions_of_a_file_are_written_out(tmp_path: Path) -> None:
    twice = helper.make_node("Add", ["v", "v"], ["w"])

    def change(model: onnx.ModelProto) -> None:
        model.functions.append(
            helper.make_function("mine", "Twice", ["v"], ["w"], [twice], [helper.make_opsetid("", 17)])
        )
        model.opset_import.append(helper.make_opsetid("mine", 1))
        model.graph.node.append(helper.make_node("Twice", ["y"], ["z"], domain="mine"))
        model.graph.output.append(nets.value("z", ("batch", 2)))

    read = read_source(changed(tmp_path, change)).model
    assert [node.op_type for node in read.graph.node] == ["Add", "Tanh", "MatMul", "Add"]
    assert all(t.raw_data for t in tensors_of(read))
