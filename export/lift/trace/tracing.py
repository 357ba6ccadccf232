"""Runs `torch.export` quietly, and reports its errors in the user's words."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rnn_export.errors import LiftError, TraceFailed, first_line
from rnn_export.export.lift.ir.source_location import at_line, is_foreign, line_of, user_line
from rnn_export.export.lift.model.decisions import DATA_DEPENDENT, decided_by_value
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.module_attributes import as_before
from rnn_export.export.lift.model.numbers.constant_tensors import KnownConstants
from rnn_export.export.lift.model.numbers.symbolic_functions import Constants, FreeSizes
from rnn_export.export.lift.trace.patches import frozen_axis, patched
from rnn_export.export.lift.trace.python_custom_ops import PythonOperators
from rnn_export.platform.last_resort import place_in_code
from rnn_export.platform.quiet import quiet as libraries_quiet

# What takes an axis apart, and which of its arguments says the axis; 0: always the first.
AXES_TAKEN = {"__iter__": 0, "unbind": 1, "split": 2, "chunk": 2}
# By what torch says, why a graph cannot have what the code does there, and what can take its place.
WHY = {
    "numpy": "The code leaves torch there, and no graph has what is computed outside of it. Compute it with torch's "
    "operators; what is always the same can be a buffer, made in __init__.",
    "is invalid for input of size": "The code gathers entries of several frames or rows by a number that is written "
    "out, which fits some lengths and batches alone, and a stream has any. Take the sizes in front from x.shape, and "
    "gather along the last axes: x.unflatten(-1, (16, 16)), x.reshape(*x.shape[:-1], -1).",
    "PendingUnbackedSymbolNotFound|[Uu]nbacked": "A size there follows from the value of a tensor (a slice that a "
    "count begins or ends), and every step of a stream has the same sizes. Keep all entries, and choose with "
    "torch.where, or move them with torch.roll.",
    r"Expected a value of type 'int' .* instead found type": "Scripted code computes with a number that calls change, "
    "which is a tensor where it is a state. Keep it in a registered buffer, a tensor; or give the module as it was "
    "before torch.jit.script.",
}
ELSE = (
    "A trace runs the code on tensors that have sizes and no values. Write the line with torch's operators on the "
    "tensors themselves, and keep what is no tensor out of it."
)
DYNAMIC, AUTO = torch.export.Dim.DYNAMIC, torch.export.Dim.AUTO


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """`rnn_export.quiet` for an export.

    The cache of fake tensors is off: with symbolic sizes a lookup takes longer than to compute a shape again, a third
    of an export. An error inside of `vmap` may leave torch in there: it is taken out.
    """
    try:
        with libraries_quiet(), torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
            yield
    except BaseException:
        while torch._C._functorch.peek_interpreter_stack() is not None:
            torch._C._functorch.pop_dynamic_layer_stack()
        raise


def export_program(module: nn.Module, args: Sequence[Tensor], shapes: tuple[Any, ...]) -> torch.export.ExportedProgram:
    """`torch.export` of `module`; raises LiftError with torch's message and the source location."""
    try:
        with torch.no_grad(), quiet(), as_written(module), nothing_left(module):
            return torch.export.export(module, tuple(args), dynamic_shapes=shapes, strict=False)
    except LiftError:
        raise
    except Exception as error:  # torch.export raises many kinds, and those of the user's code
        raise lift_error(error) from error


@contextlib.contextmanager
def nothing_left(module: nn.Module) -> Iterator[None]:
    """On exit, restore the user's model in `module`, whatever the traced code left in it."""
    models = [part.model for part in module.modules() if isinstance(part, FlatModel)] or [module]
    with contextlib.ExitStack() as stack:
        for model in models:
            stack.enter_context(as_before(model))
        yield


@contextlib.contextmanager
def as_written(module: nn.Module) -> Iterator[None]:
    """Let `module` run in operators that a trace can follow."""
    flats = [m for m in module.modules() if isinstance(m, FlatModel)]
    changed = {(m.model.get_submodule(path.module), path.keys[0]) for m in flats for path in m.module_state_paths}
    constants = Constants(module, lambda holder, name: (holder, name) in changed)
    with PythonOperators(), FreeSizes(constants), KnownConstants(), patched(module):
        yield


def place_of_number(module: nn.Module, args: Sequence[Tensor], port: int, axis: int) -> str:
    """The source location that specializes the size of an input axis; empty if torch does not say."""
    shapes = tuple(dict.fromkeys(range(t.dim()), AUTO) for t in args)
    unpacked = _UnpackedAxes()
    try:
        with torch.no_grad(), quiet(), unpacked, nothing_left(module):
            program = torch.export.export(module, tuple(args), dynamic_shapes=(shapes,), strict=False)
    except Exception:  # as of export_program
        return ""
    values = (node.meta.get("val") for node in program.graph.nodes)
    env = next((v.fake_mode.shape_env for v in values if hasattr(v, "fake_mode")), None)
    for symbol, sources in getattr(env, "var_to_sources", {}).items():
        if any(source.name.endswith(f"[{port}].size()[{axis}]") for source in sources):
            found = getattr(env, "replacements_slocs", {}).get(symbol)
            lines = [getattr(found, name, None) for name in ("maybe_user_loc", "framework_loc")]
            places = (*map(_place, lines), unpacked.places.get(str(symbol), ""))
            return next(filter(None, places), "")
    return ""


class _UnpackedAxes(TorchFunctionMode):
    """Notes in `places`, by symbol, the source locations that take an axis apart entry by entry."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, str] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        at = AXES_TAKEN.get(getattr(func, "__name__", ""))
        if at is not None and args:
            axis = kwargs.get("dim", args[at] if len(args) > at > 0 else 0)
            size = args[0].shape[axis] if isinstance(axis, int) else None
            if isinstance(size, torch.SymInt):
                self.places.setdefault(str(size.node.expr), at_line(*user_line()))
        return func(*args, **kwargs)


def _place(line: Any) -> str:
    """FILE:LINE of the user's code, from torch's text or frame; else empty."""
    if isinstance(line, str):
        named = re.match(r"(?:.*/)?([^/]+:\d+)", line)
        return named.group(1) if named else ""
    if line is None or is_foreign(line.filename):
        return ""
    return at_line(line.filename, line.lineno)


def lift_error(error: Exception) -> LiftError:
    """The LiftError for torch's error, in the user's words if there are any."""
    text = str(error)
    fixed = re.search(r"\['tensors'\]\[(\d+)\]\.size\(\)\[(\d+)\] .*?constant \((\d+)\)", text)
    if fixed is not None:
        return frozen_axis(int(fixed[1]), int(fixed[2]), int(fixed[3]))
    if "fake tensor in the exported program constant" in text:
        return LiftError(
            f"the model writes to .data of a tensor{line_of(error)}, or computes in a thread of its own, behind the "
            "back of every exporter: drop .data, and use torch.no_grad() where no gradient is wanted; compute in the "
            "thread in which forward is called.",
            id="writes-behind-exporter",
        )
    if DATA_DEPENDENT in text:
        return decided_by_value(error)
    message = f"{type(error).__name__}: {first_line(error)}"
    why = next((why for pattern, why in WHY.items() if re.search(pattern, message)), ELSE)
    return TraceFailed(
        f"{place_in_code(error) or 'the model'}: torch.export cannot follow this: {message.rstrip('.')}. {why}",
        id="trace-failed",
    )
