"""Models written by hand as ExecuTorch's files, by its converter, once for all processes; and as bundles."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from rnn_export.bundle import TargetRow
from rnn_export.bundle.draft import Draft
from rnn_export.contract.spec import StreamSpec
from rnn_export.export.targets.executorch.pte_states import StatefulStep
from rnn_export.export.targets.executorch.writer import saved
from rnn_export.export.targets.torch_step.aten_step import aten_step, example, saved_program
from rnn_export.platform.arrays import Arrays, pack_arrays
from rnn_export.platform.isolated_process import run_isolated
from rnn_export.runtime.backends.executorch.program import FILE

from ..lifting import lift  # noqa: TID252
from ..parity.cases import CASES  # noqa: TID252
from ..zoo import store  # noqa: TID252
from .graphs import MODELS, Model, X, Y, spec, state, tensor
from .torch_toys import Toy

PATH = f"targets/executorch-fp32/{FILE}"
# All others of the suite convert too, and show nothing more: each takes a second.
NAMES = ("sum", "chunked", "delayed", "mixed_by_step", "stored", "tokens", "previous_int64", "previous_bool")
OF_PARITY = ("learned-h-and-c", "look-ahead")


class Lending(nn.Module):
    """Every result lies in the memory of a state or an input: y = a, z = [c], and a, b, c become x, a and b."""

    def forward(self, x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        return a, c.reshape(1, 1, 3), x, a, b.reshape(1, 3)


Z, STATES = tensor("z", "batch", 1, 3), [state("a", 3), state("b", 3, initial="stored"), state("c", 3)]
LENDING = Model(spec("lending", [X], [Y, Z], STATES), (), initial={"b": np.array([4, 5, 6], np.float32)})


@dataclass(frozen=True)
class Program:
    """A step with its states inside as torch saves it, and what is to become of it."""

    saved: bytes
    spec: StreamSpec
    target: str = "executorch"


def of_model(model: Model, step: nn.Module | None = None, target: str = "executorch") -> Program:
    spec, ports = model.spec, example(model.spec, 1)
    inputs, states = ports[: len(spec.inputs)], [*ports[len(spec.inputs) :]]
    for number, kept in enumerate(spec.states):
        if kept.initial == "stored":
            states[number] = torch.from_numpy(model.initial[kept.name])[None].clone()
    return Program(saved_program(StatefulStep(step or Toy(model), inputs, states), inputs), spec, target)


def of_case(name: str, target: str = "executorch") -> Program:
    """A parity table case."""
    model, given, options = next(case for case in CASES if case.name == name).build()
    lifted = lift(model, given, **options)
    initial = {name: value.numpy() for name, value in lifted.initial.items()}
    return Program(saved(aten_step(lifted), lifted.spec, initial), lifted.spec, target)


def converted(programs: Mapping[str, Program]) -> dict[str, bytes]:
    """The file of each, in one process."""
    saved_ = {f"{name}.pt2": program.saved for name, program in programs.items()}
    words = {
        "specs": {name: program.spec.to_json() for name, program in programs.items()},
        "targets": {name: program.target for name, program in programs.items()},
    }
    made = run_isolated("rnn_export.export.targets.executorch.pte_conversion", "convert", saved_, words)
    return {name: made[f"{name}.pte"] for name in programs}


def programs() -> dict[str, Program]:
    """All that the tests convert: its imports take as long as ten of these."""
    return {
        **{name: of_model(MODELS[name]) for name in NAMES},
        "lending": of_model(LENDING, Lending()),
        **{name: of_case(name) for name in OF_PARITY},
        f"{OF_PARITY[1]}, portable": of_case(OF_PARITY[1], "executorch-portable"),
    }


@cache
def files() -> dict[str, bytes]:
    """The files of `programs`: made by one process, of all that test at once, and kept beside the zoo's bundles."""
    here = [Path(__file__).with_name(name).read_bytes() for name in ("graphs.py", Path(__file__).name)]
    place = store.folder() / f"executorch-{hashlib.sha256(b''.join(here)).hexdigest()[:16]}"
    with FileLock(f"{place}.lock"):
        if not place.exists():
            made = pack_arrays({name: np.frombuffer(raw, np.uint8) for name, raw in converted(programs()).items()})
            place.write_bytes(made)
    with np.load(place) as packed:
        return {name: packed[name].tobytes() for name in packed}


def draft(spec: StreamSpec, raw: bytes, initial: Arrays, target: str = "executorch") -> Draft:
    path = f"targets/{target}-fp32/{FILE}"
    return Draft(spec, {path: raw}, (TargetRow(target, "fp32", None, (path,), {}),), initial)
