"""Convert a torch step to ExecuTorch's file, in a process of its own (`rnn_export.apart`)."""

import io
import logging
import re
from collections.abc import Mapping
from typing import Any

import torch

from rnn_export.contract.spec import METADATA_KEY, StreamSpec
from rnn_export.errors import BackendUnavailable, BundleError, ExportError, first_line
from rnn_export.platform.installing import pip_install
from rnn_export.runtime.backends.executorch.library import open_program
from rnn_export.runtime.backends.executorch.program import FILE, METHOD, buffer_name, check_program

ADVICE = "Leave {} out, or write that part of the model otherwise."
# What ExecuTorch says of operators that it cannot write, and of those that it cannot run.
_NO_OPERATOR = re.compile(
    r"Operator torch\._ops\.([\w.]+) is not|Missing out variants: \{'([\w:.]+)'|'?(aten::[\w.]+)'?"
)
# And of a size that follows from values, for which it would have to leave room.
_NO_BOUND = re.compile(r"upper[- ]bound", re.IGNORECASE)
_LONGEST = 400


def convert(files: Mapping[str, bytes], words: Mapping[str, Any]) -> dict[str, bytes]:
    """Each program NAME.pt2 as NAME.pte of the contract `words["specs"][NAME]`, for `words["targets"][NAME]`.

    Raises ExportError where ExecuTorch refuses it.
    """
    logging.disable()
    specs = {name: StreamSpec.from_json(spec) for name, spec in words["specs"].items()}
    return {f"{name}.pte": written(files[f"{name}.pt2"], spec, words["targets"][name]) for name, spec in specs.items()}


def written(program: bytes, spec: StreamSpec, target: str) -> bytes:
    """A saved program as a file of the contract, which ExecuTorch runs."""
    advice = ADVICE.format(target)
    try:
        step = torch.export.load(io.BytesIO(program))
        raw = lowered(step, spec, xnnpack=target == "executorch", folded=True)
        if not begins_as(step, raw, spec):
            raw = lowered(step, spec, xnnpack=target == "executorch", folded=False)
    except BackendUnavailable:
        raise
    except Exception as error:  # the converter has many kinds
        raise ExportError(
            f"ExecuTorch cannot take the step: {reason(str(error))}. {advice}", id="executorch-refuses-step"
        ) from error
    try:
        check_program(FILE, raw, spec)
    except BackendUnavailable as error:
        raise ExportError(
            f"the step as ExecuTorch's file does not run: {reason(str(error))}. {advice}", id=error.id
        ) from error
    except BundleError as error:
        raise ExportError(
            f"the step as ExecuTorch's file is none that a bundle holds: {error} {advice}", id=error.id
        ) from error
    return raw


def begins_as(step: torch.export.ExportedProgram, raw: bytes, spec: StreamSpec) -> bool:
    """True if the file begins with the states of the program.

    ExecuTorch may take a folded constant of the same bytes for the initial value of a state, and then finds another or
    none.
    """
    names = [buffer_name(n) for n in range(len(spec.states))]
    try:
        method = open_program(raw).load_method(METHOD)
        return all(torch.equal(method.get_attribute(name), step.state_dict[name]) for name in names)
    except RuntimeError:
        return False


def lowered(step: torch.export.ExportedProgram, spec: StreamSpec, xnnpack: bool, folded: bool) -> bytes:
    """A program lowered by ExecuTorch: kernels alone, or with XNNPACK for the parts it takes.

    If `folded`, weights that kernels want transposed are so in the file, and not anew in each step.
    """
    try:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
        from executorch.exir.passes.init_mutable_pass import InitializedMutableBufferPass
    except ImportError as error:
        raise BackendUnavailable(
            f"executorch is not here, or not all of it ({error}): {pip_install('export,executorch')}.",
            id="executorch-export-missing",
        ) from error
    kept = [buffer_name(n) for n in range(len(spec.states))]
    parts = [XnnpackPartitioner()] if xnnpack else None
    edge = to_edge_transform_and_lower({METHOD: step}, partitioner=parts, constant_methods={METADATA_KEY: spec.dumps()})
    config = ExecutorchBackendConfig(
        passes=[InitializedMutableBufferPass(kept)], emit_mutable_buffer_names=True,
        do_quant_fusion_and_const_prop=folded,
    )  # fmt: skip
    return bytes(edge.to_executorch(config).buffer)


def reason(message: str) -> str:
    """ExecuTorch's message, with the operator that it is about first."""
    if found := _NO_OPERATOR.search(message):
        return f"it has no kernel for {next(filter(None, found.groups()))}"
    if _NO_BOUND.search(message):
        return f"a size follows from values, and nothing bounds it: {first_line(ValueError(message))[:_LONGEST]}"
    return first_line(ValueError(message))[:_LONGEST].removesuffix(".")
