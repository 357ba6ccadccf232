"""Names in a package: its files, the tensors of a contract, and those that hold a state.

Core ML keeps states in fp16 alone, which begin at zeros (Apple's guide to stateful models, and of `MLModel.makeState`).
So a state of the contract is one fp16 tensor or several, each of its own shape, which add up to it:

    fp32 in precision fp32   value = first + second / 2048: to the last bit of fp32 from 6e-5 up to 65504, below that to
                             2e-11; what is larger is infinite
    fp32 in precision fp16   one, in fp16 as all that is computed
    int32, int64, int16      value = (first * 2048 + second) * 2048 + third, exact for all 32 bits
    bool, int8, uint8        one

Where a state does not begin at zeros, one more tensor, `state_begun`, is zero until the first step is over; until then
the step takes the initial states that are stored in it.
"""

import re
from collections.abc import Mapping

import numpy as np

from rnn_export.contract.spec import StateSpec, StreamSpec
from rnn_export.platform.arrays import Array

PACKAGE = "step.mlpackage"
MODEL, WEIGHTS, MANIFEST = "model.mlmodel", "weight.bin", "Manifest.json"
# Where each lies in the package.
PLACES = {
    MODEL: f"Data/com.apple.CoreML/{MODEL}",
    WEIGHTS: f"Data/com.apple.CoreML/weights/{WEIGHTS}",
    MANIFEST: MANIFEST,
}
BEGUN = "state_begun"
BASE = 2048
LARGEST = float(np.finfo(np.float16).max)
SMALL = ("bool", "int8", "uint8")
DTYPES = ("float32", "int64", "int32", "int16", *SMALL)
# Words of MIL, which no tensor is called by.
_RESERVED = frozenset(
    [
        "any",
        "bool",
        "program",
        "func",
        "tensor",
        "list",
        "dict",
        "tuple",
        "true",
        "false",
        "string",
        "bf16",
        "fp16",
        "fp32",
        "fp64",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "state",
    ]
)


def tensor_names(spec: StreamSpec) -> dict[str, str]:
    """Core ML's name of each input and output: the contract's where that is a word, and no other's."""
    found: dict[str, str] = {}
    for name in [t.name for t in (*spec.inputs, *spec.outputs)]:
        word = re.sub("[^a-zA-Z0-9_]", "_", name)
        if word in _RESERVED or not word[0].isalpha() or word.startswith("state_"):
            word = f"port_{word}"
        while word in found.values():
            word += "_"
        found[name] = word
    return found


def part_names(spec: StreamSpec, precision: str) -> dict[str, tuple[str, ...]]:
    """The names of the tensors that each state is kept in, the first one's first."""
    found: dict[str, tuple[str, ...]] = {}
    taken = {BEGUN}
    for state in spec.states:
        word = "state_" + re.sub("[^a-zA-Z0-9_]", "_", state.name)
        names: tuple[str, ...] = ()
        while not names or taken & {*names}:
            names = tuple(word + "_low" * number for number in range(parts(state, precision)))
            word += "_"
        taken |= {*names}
        found[state.name] = names
    return found


def parts(state: StateSpec, precision: str) -> int:
    """Number of fp16 tensors that hold a state."""
    if state.dtype == "float32":
        return 2 if precision == "fp32" else 1
    return 1 if state.dtype in SMALL else 3


def has_flag(spec: StreamSpec, initial: Mapping[str, Array]) -> bool:
    """True if a state begins at something else than zeros."""
    return any(np.any(initial[s.name]) for s in spec.states if s.initial == "stored")


def split(value: Array, count: int) -> list[Array]:
    """A state (...) as the tensors of fp16 that it is kept in."""
    if count == 1:
        return [value.astype(np.float16)]
    if value.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            first = value.astype(np.float16)
            rest = (value - first.astype(np.float32)) * np.float32(BASE)
            return [first, np.where(np.abs(first) <= LARGEST, rest, 0).astype(np.float16)]
    third = np.mod(value, BASE)
    upper = np.floor_divide(value, BASE)
    return [a.astype(np.float16) for a in (np.floor_divide(upper, BASE), np.mod(upper, BASE), third)]


def join(kept: list[Array], dtype: str) -> Array:
    """The state that the tensors keep."""
    if len(kept) == 2:
        return kept[0].astype(np.float32) + kept[1].astype(np.float32) * np.float32(1 / BASE)
    if len(kept) == 3:
        first, second, third = (a.astype(np.int64) for a in kept)
        return ((first * BASE + second) * BASE + third).astype(dtype)
    return kept[0].astype(dtype)
