"""Refuses unfit models before lifting: another device, train mode, narrow types, undeclared states."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from rnn_export.contract.tensor_spec import DTYPES
from rnn_export.errors import Advice, LiftError, TraceFailed
from rnn_export.export.lift.axes.axes import Axes
from rnn_export.export.lift.ir.compare import EXACT, START, same
from rnn_export.export.lift.ir.op_recorder import SeesOperators
from rnn_export.export.lift.layers.packed_sequences import UNEQUAL
from rnn_export.export.lift.model.call.nested_states import under
from rnn_export.export.lift.model.call.output_parts import OutputRef
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.leaves import Leaf
from rnn_export.export.lift.model.sample_inputs import Noise
from rnn_export.export.lift.trace.tracing import export_program


def refuse_wrappers(model: nn.Module) -> None:
    """Refuse a wrapper, which hides the arguments or the code."""
    kind = type(model).__name__
    inside = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}.get(kind)
    if inside is not None:
        raise LiftError(
            f"the model is wrapped in a {kind}: give model.{inside}, the module inside.", id="model-wrapped"
        )


def refuse_other_device(model: nn.Module) -> None:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    elsewhere = next(((name, t.device) for name, t in tensors if t.device.type != "cpu"), None)
    if elsewhere:
        raise LiftError(
            f"{elsewhere[0]!r} of the model is on {elsewhere[1]}: call model.cpu() before export.",
            id="model-on-other-device",
        )


def refuse_narrow_weights(model: nn.Module) -> None:
    """Raise LiftError for lazy, quantised or narrow weights, or autocast, before a call that may fail."""
    if lazy := [name for name, p in (*model.named_parameters(), *model.named_buffers()) if is_lazy(p)]:
        raise LiftError(
            f"{', '.join(lazy)} of the model have no shape yet (LazyLinear and the like take it from what a first call "
            "is fed): call the model once before the export, model(*example_inputs).",
            id="lazy-weights",
        )
    kinds = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.qat", "torch.nn.quantized")
    for path, module in model.named_modules():
        if type(module).__module__.startswith(kinds):
            raise LiftError(
                f"{path or 'the model'} ({type(module).__name__}) is quantised: give the model as it was before, and "
                "let the target be narrow: --target c --precision int8, or fp16 and bf16.",
                id="quantised-weights",
            )
    if torch.is_autocast_enabled("cpu"):
        raise LiftError(
            "the model is exported under torch.autocast: leave it, and say --precision fp16 or bf16.",
            id="export-under-autocast",
        )
    _refuse_types(model.named_parameters())


def refuse_narrow_example(example: Sequence[Any]) -> None:
    """Raise LiftError if the example has types narrower than fp32, before any call."""
    leaves = [(f"example_inputs{pytree.keystr(at)}", x) for at, x in pytree.tree_flatten_with_path(tuple(example))[0]]
    _refuse_types((name, x) for name, x in leaves if isinstance(x, Tensor) and x.dtype in NARROW)


def refuse_narrow_examples(flat: FlatModel) -> None:
    """Refuse inputs or states of a type no stream has."""
    _refuse_types((leaf.name, leaf.example) for leaf in (*flat.inputs, *flat.states))


def _refuse_types(tensors: Iterable[tuple[str, Tensor]]) -> None:
    for name, tensor in tensors:
        if not tensor.is_complex() and tensor.dtype not in NARROW and _dtype_of(tensor) not in DTYPES:
            raise LiftError(
                f"{name!r} is {_dtype_of(tensor)}, which a stream does not have: give one of {', '.join(DTYPES)}, and "
                "convert it in the model.",
                id="input-dtype-unknown",
            )
        if tensor.dtype in NARROW:
            raise LiftError(
                f"{name!r} is {_dtype_of(tensor)}: call model.float() and give float32 inputs. Weights in fp16 or bf16 "
                "are the target's affair: --precision fp16 or bf16.",
                id="tensor-not-float32",
            )


NARROW = (torch.float16, torch.bfloat16)


class _Narrow(SeesOperators):
    """`found` is the first type narrower than fp32 among operator results."""

    found = ""

    def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        result = func(*args, **kwargs)
        for value in pytree.tree_leaves(result):
            if isinstance(value, Tensor) and value.dtype in NARROW:
                self.found = self.found or _dtype_of(value)
        return result


def _dtype_of(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def with_call_checked(flat: FlatModel) -> FlatModel:
    """`flat`, with `packs` as a call shows; raises LiftError if it packs unequal rows, is narrow or writes weights."""
    called, narrow, packs = copy.deepcopy(flat), _Narrow(), list[str]()
    weights = [(name, p, p._version) for name, p in called.model.named_parameters()]
    for path, layer in called.model.named_modules():
        if isinstance(layer, torch.jit.ScriptModule):
            continue

        def look(module: nn.Module, args: Any, path: str = path) -> None:
            if args and isinstance(args[0], PackedSequence):
                packs.append(path)
                if bool((args[0].batch_sizes != args[0].batch_sizes[0]).any()):
                    raise LiftError(
                        f"{path or 'the model'} ({type(module).__name__}): {UNEQUAL}", id="unequal-lengths-inside"
                    )

        layer.register_forward_pre_hook(look)
    with torch.no_grad(), narrow:
        called(*(leaf.example.clone() for leaf in (*flat.inputs, *flat.states)))
    if written := [name for name, p, before in weights if p._version != before]:
        raise LiftError(
            f"a call of the model writes to its weights ({', '.join(written)}), but those of a stream stay as they "
            "are. Compute what is needed of them as another tensor, or do it once before the export; for "
            "nn.Embedding(max_norm=N): e.weight.data.renorm_(2, 0, N), then e.max_norm = None.",
            id="call-writes-weights",
        )
    if narrow.found:
        raise LiftError(
            f"the model computes in {narrow.found} (autocast, .half() or .bfloat16() in its forward): a stream does so "
            "where the target says it, --precision fp16 or bf16. Take it out.",
            id="narrow-inside-forward",
        )
    return flat.replace(packs=bool(packs))


def refuse_train_mode(model: nn.Module, flat: FlatModel) -> None:
    """Raise LiftError if train mode changes the outputs; the model keeps the mode it has."""
    if not any(getattr(m, "training", False) for m in model.modules()):
        return
    noise = Noise(flat)
    tensors = [*(noise.like(leaf.example, {}) for leaf in flat.inputs), *(leaf.example for leaf in flat.states)]
    with torch.no_grad(), torch.random.fork_rng():
        train, evaluated = copy.deepcopy(flat)(*tensors), copy.deepcopy(flat).eval()(*tensors)
    if not all(same(a, b, replace(EXACT, equal_nan=True)) for a, b in zip(train, evaluated, strict=True)):
        kinds = sorted({type(m).__name__ for m in model.modules() if _drops(m)})
        raise LiftError(
            f"the model is in train mode and gives other outputs there than in eval mode"
            f"{' (' + ', '.join(kinds) + ')' if kinds else ''}: call model.eval() before export.",
            id="train-mode-differs",
        )


def _drops(module: nn.Module) -> bool:
    """True if a module has a positive number `p` or `dropout`, its dropout share in torch's layers."""
    shares = (getattr(module, "p", 0), getattr(module, "dropout", 0))
    return any(isinstance(share, int | float) and share > 0 for share in shares)


def refuse_forgotten_states(flat: FlatModel, plain: Sequence[str]) -> None:
    """Raise LiftError if an input is written to, or comes back in its shape beside others: likely a state."""
    # What is complex is two inputs, and two outputs of one key.
    first = [f"{leaf.name.removesuffix('.real')}.imag" for leaf in flat.inputs[:1]]
    others = [leaf for leaf in flat.inputs[1:] if leaf.name not in first]
    for leaf in others:
        name = leaf.name.split(".")[0]
        if name in flat.written and name not in plain:
            raise LiftError(
                f"the model writes to its input {leaf.name!r}: it looks like a state.",
                advice=_of_state(name, name, "in the input itself most likely"),
                id="input-written-to",
            )
    if len(set(flat.output_keys)) + len(flat.states) >= 2:
        _refuse_returned(flat, others, plain)


def refuse_forgotten_cell(flat: FlatModel, plain: Sequence[str]) -> None:
    """Raise LiftError if a stateless model of one output has an input in its shape, as a cell has."""
    if not flat.states and len(set(flat.output_keys)) == 1:
        _refuse_returned(flat, flat.inputs[1:], plain)


def _refuse_returned(flat: FlatModel, others: Sequence[Leaf], plain: Sequence[str]) -> None:
    """Raise LiftError for the first of the inputs `others` that comes back in its own shape.

    Other parts of the argument with the first input, as in a dict of features, are data.
    """
    data = flat.inputs[0].name.rpartition(".")[0]
    for leaf in others:
        example = leaf.example
        results = zip(flat.output_keys, flat.example_outputs, strict=True)
        returned = [key for key, output in results if _is_alike(output, example)]
        if under(leaf.name, plain) or not returned or (data and leaf.name.rpartition(".")[0] == data):
            continue
        # Inputs of one shape most often come back in their order, after any output of that shape.
        alike = [other.name for other in others if _is_alike(other.example, example)]
        likely = returned[max(0, min(len(returned) - 1, alike.index(leaf.name) + len(returned) - len(alike)))]
        name, keys = _whole(flat, leaf, likely), " or ".join(map(repr, dict.fromkeys(returned)))
        raise LiftError(
            f"input {leaf.name!r} {tuple(example.shape)} comes back in the same shape as output {keys}: it looks like "
            "a state.",
            advice=_of_state(name, likely, "in the order of the model most likely"),
            id="input-comes-back",
        )


def _of_state(name: str, back: OutputRef, most: str) -> list[Advice]:
    """Advice on an input that looks like a state."""
    return [
        Advice({"states": {name: back}}, f"Declare where it comes back, {most} {{}}."),
        Advice({"states": {name: None}}, "If it is none, say {}.", "If it is none, the model is refused: {}"),
    ]


def _whole(flat: FlatModel, leaf: Leaf, key: OutputRef) -> str:
    """The largest part of the argument around `leaf` that comes back whole in the result `key`."""
    back = [t for k, t in zip(flat.output_keys, flat.example_outputs, strict=True) if k == key]
    parts = leaf.name.split(".")
    for name in (".".join(parts[:n]) for n in range(1, len(parts))):
        inside = [other.example for other in flat.inputs if under(other.name, [name])]
        if all(any(_is_alike(t, other) for other in back) for t in inside):
            return name
    return leaf.name


def refuse_decisions(flat: FlatModel) -> None:
    """Raise LiftError for a decision by value, which mixes rows and frames on any axis."""
    tensors = [leaf.example for leaf in (*flat.inputs, *flat.states)]
    with contextlib.suppress(TraceFailed):
        export_program(flat, tensors, (tuple({} for _ in tensors),))


def _is_alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype


def refuse_other_start(
    flat: FlatModel, axes: Axes, values: Mapping[str, Tensor], initial: Mapping[str, Tensor] | None
) -> None:
    """Raise LiftError if a state that the model makes itself starts from another value than in `values`."""
    defaulted = [s.name for s in flat.declared if under(s.name, flat.defaulted_states)]
    unsaid = [name for name in defaulted if name not in (initial or {})]
    if not unsaid:
        return
    noise, batch = Noise(flat), 1 if axes.one_row else 2
    sizes = axes.input_sizes(batch, 5)
    inputs = [noise.like(leaf.example, size) for leaf, size in zip(flat.inputs, sizes, strict=True)]
    rows = [values[s.name].expand(batch, *values[s.name].shape) for s in flat.states]
    states = [layout.tensor(r) for layout, r in zip(axes.states, rows, strict=True)]
    with torch.no_grad():
        from_values = flat(*inputs, *states)
        declared = states[: len(flat.declared)]
        by_model = copy.deepcopy(flat).call_stateful(*inputs, *declared, left_out=flat.defaulted_states)
    if not all(same(a, b, START) for a, b in zip(by_model, from_values, strict=False)):
        raise LiftError(
            f"called without {', '.join(map(repr, unsaid))}, the model starts from other values than zeros: say which, "
            f"initial={{{unsaid[0]!r}: tensor}}, one row of it (of a command, in what the factory returns third).",
            id="omitted-state-starts-otherwise",
        )
