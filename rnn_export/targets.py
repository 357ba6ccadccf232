"""The target table: what can be written, for which device, at which opset and in which precisions."""

from __future__ import annotations

from dataclasses import dataclass

from rnn_export.errors import ExportError


@dataclass(frozen=True)
class Target:
    """One row: a kind of artefact. Adding a target is adding a row, and its writer under `export/targets/`."""

    name: str
    summary: str
    opset: int
    opsets: tuple[int, int]
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
    )
}


def find_target(name: str, precision: str, opset: int | None) -> Target:
    """The row `name`, which must know the precision and the opset; raises ExportError with what there is."""
    if name not in TARGETS:
        raise ExportError(f"there is no target {name!r}: choose from {', '.join(TARGETS)}.")
    target = TARGETS[name]
    if precision not in target.precisions:
        raise ExportError(
            f"target {name!r} is not written in {precision!r}: choose from {', '.join(target.precisions)}."
        )
    low, high = target.opsets
    if opset is not None and not low <= opset <= high:
        raise ExportError(f"opset {opset} is not supported for {name!r}: choose one from {low} to {high}.")
    return target
