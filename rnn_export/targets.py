"""The target table: what can be written, for which device, at which opset and in which precisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rnn_export.errors import ExportError


@dataclass(frozen=True)
class Target:
    """One row: a kind of artefact. Adding a target is adding a row, and its writer under `export/targets/`.

    `opset` and `opsets`, the lowest and the highest, are None where there is no ONNX graph.
    """

    name: str
    summary: str
    opset: int | None
    opsets: tuple[int, int] | None
    precisions: tuple[str, ...]
    checked: str


TARGETS = {
    row.name: row
    for row in (
        Target(
            name="onnx",
            summary="portable ONNX graphs, one step and whole sequences, for ONNX Runtime and all that reads ONNX",
            opset=18,
            opsets=(13, 23),
            precisions=("fp32",),
            checked="in a closed loop on ONNX Runtime against the model",
        ),
        Target(
            name="torchscript",
            summary="one step for LibTorch (C++, mobile); torch has deprecated TorchScript and may drop it",
            opset=None,
            opsets=None,
            precisions=("fp32",),
            checked="in a closed loop on torch against the model, loaded back from its bytes",
        ),
        Target(
            name="pt2",
            summary="one step as torch.export saves it, for torch.export.load and AOTInductor",
            opset=None,
            opsets=None,
            precisions=("fp32",),
            checked="in a closed loop on torch against the model, loaded back from its bytes",
        ),
    )
}


def find_targets(names: Sequence[str], precision: str, opset: int | None) -> list[Target]:
    """The rows of `names`; raises ExportError where there is none, one stands twice or none of them has an opset."""
    if not names:
        raise ExportError("targets is empty: name at least one, for example targets=('onnx',).")
    rows = [find_target(name, precision, opset) for name in names]
    if len(set(names)) < len(names):
        raise ExportError(f"targets names one twice: {', '.join(names)}.")
    if opset is not None and not any(row.opsets for row in rows):
        raise ExportError(
            f"opset {opset} was asked for, but {', '.join(names)} holds no ONNX graph: leave the opset out, "
            "or add the target 'onnx'."
        )
    return rows


def find_target(name: str, precision: str, opset: int | None) -> Target:
    """The row `name`, which must know the precision, and the opset if it has any; raises ExportError with what is."""
    if name not in TARGETS:
        raise ExportError(f"there is no target {name!r}: choose from {', '.join(TARGETS)}.")
    target = TARGETS[name]
    if precision not in target.precisions:
        raise ExportError(
            f"target {name!r} is not written in {precision!r}: choose from {', '.join(target.precisions)}."
        )
    if opset is not None and target.opsets is not None:
        low, high = target.opsets
        if not low <= opset <= high:
            raise ExportError(f"opset {opset} is not supported for {name!r}: choose one from {low} to {high}.")
    return target
