"""ScriptModules as Python modules: the same parameters, attributes and methods, run by the interpreter."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from rnn_export.export.lift.model.call.cache_capacity import Filling
from rnn_export.export.lift.model.call.carried_objects import Carrying
from rnn_export.export.lift.model.call.length_arguments import WithLengths
from rnn_export.export.lift.model.script.script_interpreter import Block, function_of, run

LAYERS: dict[str, type[nn.RNNBase]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
CELLS: dict[str, type[nn.RNNCellBase]] = {"LSTMCell": nn.LSTMCell, "GRUCell": nn.GRUCell, "RNNCell": nn.RNNCell}


def unscripted(module: nn.Module) -> nn.Module:
    """`module` with Python modules for its ScriptModules; submodules of ordinary modules are replaced in place."""
    if isinstance(module, torch.jit.ScriptModule):
        return _layer(module) or Interpreted(module)
    for name, child in module.named_children():
        module._modules[name] = unscripted(child)
    return module


class _Source:
    """The code of a ScriptModule: each method is read once, and copies of a module share it."""

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        self.module = module
        self._methods: dict[str, tuple[Block, list[Any]]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Source:
        return self

    def has_method(self, name: str) -> bool:
        script: Any = self.module._c
        return bool(script._has_method(name))

    def method(self, name: str) -> tuple[Block, list[Any]]:
        """The code of a method, and the default values of its arguments."""
        if name not in self._methods:
            script: Any = self.module._c
            method = script._get_method(name)
            missing = [a.default_value for a in method.schema.arguments[1:]]
            self._methods[name] = Block(_with_functions_known(method.graph)), missing
        return self._methods[name]


class Interpreted(nn.Module):
    """A ScriptModule whose methods run node by node."""

    def __init__(self, source: torch.jit.ScriptModule) -> None:
        super().__init__()
        script: Any = source._c
        self._source = _Source(source)
        self._kind = str(source.original_name)
        # What is frozen has none.
        self.training = getattr(source, "training", False)
        for name, parameter in source.named_parameters(recurse=False):
            self.register_parameter(name, nn.Parameter(parameter.detach(), requires_grad=False))
        for name, buffer in source.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        for name, child in source.named_children():
            self.add_module(name, unscripted(child))
        for name in sorted(attributes_of(source)):
            if not hasattr(self, name):
                setattr(self, name, script.getattr(name))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            source = self.__dict__.get("_source")
            if source is None or not source.has_method(name):
                raise
            return lambda *args: self._called(name, args)

    def forward(self, *args: Any, **named: Any) -> Any:
        bound = signature_of(self._source.module).bind(*args, **named)
        bound.apply_defaults()
        return self._called("forward", bound.args)

    def _called(self, name: str, args: tuple[Any, ...]) -> Any:
        code, missing = self._source.method(name)
        return run(code, (self, *args, *missing[len(args) :]), self._kind)


def signature_of(model: nn.Module) -> inspect.Signature:
    """The signature of forward; of a ScriptModule by its schema."""
    if isinstance(model, Carrying | Filling | WithLengths):
        return model.signature
    if isinstance(model, Interpreted):
        model = model._source.module
    if not isinstance(model, torch.jit.ScriptModule):
        return inspect.signature(model.forward)
    script: Any = model._c
    parameters = [
        inspect.Parameter(
            a.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=a.default_value if a.has_default_value() else inspect.Parameter.empty,
        )
        for a in script._get_method("forward").schema.arguments[1:]
    ]
    return inspect.Signature(parameters)


def given_by_name(model: nn.Module, example: tuple[Any, ...]) -> tuple[inspect.Signature, dict[str, Any]] | None:
    """The signature of forward, and the arguments in `example` by name; None if it does not fit.

    The error is raised where the example is bound.
    """
    try:
        signature = signature_of(model)
        return signature, dict(signature.bind_partial(*example).arguments)
    except (TypeError, ValueError):
        return None


def attributes_of(module: torch.jit.ScriptModule) -> set[str]:
    """The attributes that the code of a ScriptModule reads or sets, without its parts."""
    script: Any = module._c
    parts = {name for name, _ in (*module.named_children(), *module.named_parameters(recurse=False))}
    names = {
        node.s("name")
        for method in script._method_names()
        for node in _nodes(script._get_method(method).graph)
        if node.kind() in ("prim::GetAttr", "prim::SetAttr")
    }
    return {name for name in names - parts if script.hasattr(name)}


def _with_functions_known(graph: Any) -> Any:
    """`graph`, with all of its calls inlined if a function came with a file: it is not reachable otherwise."""
    calls = [node for node in _nodes(graph) if node.kind() == "prim::CallFunction"]
    if all(function_of(next(iter(node.inputs()))) is not None for node in calls):
        return graph
    whole = graph.copy()
    torch._C._jit_pass_inline(whole)
    return whole


def _nodes(block: Any) -> list[Any]:
    found = []
    for node in block.nodes():
        found.append(node)
        for inner in node.blocks():
            found += _nodes(inner)
    return found


def _layer(module: torch.jit.ScriptModule) -> nn.Module | None:
    """The torch layer that was scripted as a ScriptModule, or None."""
    name, weights = str(module.original_name), dict(module.named_parameters(recurse=False))
    source: Any = module
    made: nn.Module
    try:
        if name in LAYERS:
            names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional")
            options = {n: getattr(source, n) for n in names}
            options |= {"nonlinearity": source.nonlinearity} if name == "RNN" else {}
            options |= {"proj_size": source.proj_size} if name == "LSTM" else {}
            made = LAYERS[name](**options)
        elif name in CELLS:
            options = {n: getattr(source, n) for n in ("input_size", "hidden_size", "bias")}
            made = CELLS[name](**options, **({"nonlinearity": source.nonlinearity} if name == "RNNCell" else {}))
        else:
            return None
        made.load_state_dict(weights)
    except (AttributeError, RuntimeError, TypeError):  # traced, or another class of that name
        return None
    return made.eval()
