"""Ways through `torch.onnx` that spare it what it does anew at each export, and most of an export's time with it.

All of them change what is private to torch: where that is not there any more, an export takes longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any
from unittest import mock

import torch

from rnn_export.export.lift.program.functional import is_functional


@contextmanager
def shortcuts() -> Iterator[None]:
    """In here torch reads its translations once, and traces a program anew only to take operators apart."""
    with ExitStack() as stack:
        for enter in (_torchlib_read_once, _traced_where_needed):
            try:
                stack.enter_context(enter())
            except (ImportError, AttributeError):
                continue
        yield


def _torchlib_read_once() -> Any:
    """Torch reads the sources of its 500 translations at each export: 0.3 s."""
    from torch.onnx._internal.exporter import _registration

    apis: Any = vars(_registration)["onnxscript_apis"]
    original = apis.get_torchlib_ops
    return mock.patch.object(apis, "get_torchlib_ops", partial(_torchlib, original))


@cache
def _torchlib(read: Callable[[], Any]) -> Any:
    return read()


def _traced_where_needed() -> Any:
    """Torch traces each program anew to take apart the operators that it has no translation of."""
    from torch.onnx._internal.exporter import _decomp, _fx_passes

    original = _fx_passes.decompose_with_registry

    def decompose(program: torch.export.ExportedProgram, registry: Any) -> torch.export.ExportedProgram:
        known = set(_decomp.get_onnx_implemented_overloads(registry))
        targets = {n.target for n in program.graph.nodes if n.op == "call_function"}
        taken_apart = _decomp.create_onnx_friendly_decomposition_table(known).keys() & (targets - known)
        return program if is_functional(program) and not taken_apart else original(program, registry)

    return mock.patch.object(_fx_passes, "decompose_with_registry", decompose)
