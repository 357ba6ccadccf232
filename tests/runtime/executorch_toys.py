"""Models written by hand as ExecuTorch's files, by its converter, once for all processes; and as bundles."""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from rnn_export.apart import run_apart
from rnn_export.bundle import TargetRow, open_bundle
from rnn_export.bundle.draft import Draft
from rnn_export.bundle.writing import extend_bundle
from rnn_export.export.targets.aten_step import example, saved
from rnn_export.export.targets.pte.stateful import StatefulStep
from rnn_export.runtime.backends.executorch.program import FILE

from ..trusting import trusted  # noqa: TID252
from ..zoo import store  # noqa: TID252
from .graphs import MODELS, Model

PATH = f"targets/executorch-fp32/{FILE}"
# All others of the suite convert too, and show nothing more: each takes a second.
NAMES = (
    *("sum", "timed", "chunked", "delayed", "fewer_delayed", "mixed_by_step", "pair", "stored", "tokens", "twins"),
    *("previous_float32", "previous_int64", "previous_bool"),
)


class Toy(nn.Module):
    """The nodes of a model in torch's operators: (inputs..., states...) -> (outputs..., next states...)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.constants = {"0": 0, "1": 1, "[0]": np.array([0]), "[1]": np.array([1]), **model.constants}

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        spec = self.model.spec
        values = dict(zip([*(t.name for t in spec.inputs), *(s.input for s in spec.states)], given, strict=True))
        for op, inputs, (output,), attributes in self.model.step:
            values[output] = self.value(op, [values.get(name, name) for name in inputs], attributes.get("axis", 0))
        return tuple(values[name] for name in [*(t.name for t in spec.outputs), *(s.output for s in spec.states)])

    def value(self, op: str, args: list[Tensor | str], axis: int) -> Tensor:
        first, second = ([*args, None])[:2]
        if op == "Gather" and isinstance(second, Tensor):
            return torch.from_numpy(self.constants[first])[second]
        if op in ("Add", "Sub", "Mul"):
            other = second if isinstance(second, Tensor) else torch.as_tensor(self.constants[second])
            return getattr(torch, op.lower())(first, other)
        return {
            "Identity": lambda: first,
            "CumSum": lambda: first.cumsum(int(self.constants[second])),
            "Unsqueeze": lambda: first.unsqueeze(int(self.constants[second][0])),
            "Gather": lambda: first.select(axis, int(self.constants[second])),
            "Slice": lambda: first[:, 1 :: int(self.constants[args[-1]][0])],
        }[op]()


def saved_step(model: Model) -> bytes:
    """With its states inside, as the target has it from a module."""
    spec, ports = model.spec, example(model.spec, 1)
    inputs, states = ports[: len(spec.inputs)], [*ports[len(spec.inputs) :]]
    for number, state in enumerate(spec.states):
        if state.initial == "stored":
            states[number] = torch.from_numpy(model.initial[state.name])[None].clone()
    return saved(StatefulStep(Toy(model), inputs, states), inputs)


def converted(models: Mapping[str, Model], target: str) -> dict[str, bytes]:
    """The file of each, in one process."""
    programs = {f"{name}.pt2": saved_step(model) for name, model in models.items()}
    words = {"specs": {name: model.spec.to_json() for name, model in models.items()}, "target": target}
    made = run_apart("rnn_export.export.targets.pte.convert", "convert", programs, words)
    return {name: made[f"{name}.pte"] for name in models}


@cache
def files() -> dict[str, bytes]:
    """The file of each of `NAMES`: made by one process, of all that test at once, and kept beside the zoo's bundles."""
    here = hashlib.sha256(b"".join(Path(__file__).with_name(n).read_bytes() for n in ("graphs.py", Path(__file__).name)))
    place = store.folder() / f"executorch-{here.hexdigest()[:16]}"
    with FileLock(f"{place}.lock"):
        if not place.exists():
            made = converted({name: MODELS[name] for name in NAMES}, "executorch")
            place.mkdir()
            for name, raw in made.items():
                (place / name).write_bytes(raw)
    return {name: (place / name).read_bytes() for name in NAMES}


def draft_of(model: Model, raw: bytes) -> Draft:
    """As it is before it is written, which needs no trust."""
    initial = {s.name: model.initial.get(s.name, np.zeros(s.row, s.dtype)) for s in model.spec.states}
    return Draft(model.spec, {PATH: raw}, (TargetRow("executorch", "fp32", None, (PATH,), {}),), initial)


def with_executorch(path: Path, model: Model, raw: bytes) -> Path:
    """The bundle of `model` with `raw` as its file, trusted."""
    model.write(path)
    extend_bundle(open_bundle(path), TargetRow("executorch", "fp32", None, (PATH,), {}), {PATH: raw})
    return trusted(path)
