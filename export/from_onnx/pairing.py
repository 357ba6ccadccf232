"""Find the inputs of a file that are states, and their outputs: said, or unambiguous by name and shape."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from rnn_export.errors import SourceError
from rnn_export.export.from_onnx.ports import Port

# Words that say of an input that it is from the step before, and of an output that it is for the next one.
BEFORE = {"in", "input", "past", "prev", "previous", "old", "last", "init", "initial", "start", "0", "tm1"}
AFTER = {"out", "output", "present", "next", "new", "n", "updated", "final", "current", "curr", "1", "t"}
# Of an input whose name says that it is memory, but which no output answers.
MEMORY = {
    "state",
    "states",
    "hidden",
    "cache",
    "cached",
    "past",
    "prev",
    "previous",
    "memory",
    "mem",
    "h0",
    "c0",
    "hx",
    "cx",
}
# Names that say of an input, and of an output, that it is data.
DATA = {"input", "x", "query", "key", "value", "q", "k", "v", "audio", "speech", "wav", "waveform", "feat", "feats"}
DATA |= {"decay", "beta", "gate", "feature", "features", "mel", "signal", "samples", "frame", "frames"}
RESULT = {"output", "out", "y", "result", "prob", "probs", "logits", "enhanced"}


@dataclass(frozen=True)
class Pair:
    """A state of a file: the input that it is fed as, the output that it comes back as, and why it is one."""

    input: str
    output: str
    why: str


def find_pairs(
    taken: Mapping[str, Port], given: Mapping[str, Port], declared: Mapping[str, str | None] | None
) -> tuple[Pair, ...]:
    """The states among the inputs and outputs of a file, in the order of its inputs.

    `declared` maps an input to the output it comes back as, or to None if it is no state. {} declares that there is no
    state; with None all are found. Raises SourceError if a declared pair does not exist or fit, and if the states are
    unclear, with the options that declare them.
    """
    found = {name: Pair(name, out, "declared") for name, out in _checked(taken, given, declared or {}).items() if out}
    if declared == {}:
        return ()
    open_inputs = {n: p for n, p in taken.items() if n not in (declared or {})}
    open_outputs = {n: p for n, p in given.items() if n not in {pair.output for pair in found.values()}}
    matches = _by_name(open_inputs, open_outputs)
    claims = Counter(outputs[0] for outputs in matches.values() if len(outputs) == 1)
    for name, outputs in matches.items():
        # What two inputs claim is nobody's.
        if len(outputs) == 1 and claims[outputs[0]] == 1:
            found[name] = Pair(name, outputs[0], "by name and shape")
    left = [n for n in open_outputs if n not in {pair.output for pair in found.values()}]
    unclear = {}
    for name, port in open_inputs.items():
        if name in found:
            continue
        alike = matches.get(name) or [n for n in left if _is_like(port, open_outputs[n])]
        if name.lower() in DATA:
            alike = [n for n in alike if n.lower() not in RESULT]
        if alike or MEMORY & set(_words(name)):
            unclear[name] = alike
    if unclear:
        raise SourceError(_question(taken, given, unclear), id="state-pairs-unclear")
    lost = [name for name in given if (MEMORY | {"present"}) & set(_words(name))]
    if lost and not found:
        raise SourceError(
            f"the file gives {', '.join(map(repr, lost))}, by its name a state for the next step, but takes none: it "
            f"takes {_port_list(taken)}. Export the model with its states as inputs too, or say that there are none, "
            "states={} in Python, or --state NAME=none for an input.",
            id="state-output-unpaired",
        )
    return tuple(found[name] for name in taken if name in found)


def _checked(
    taken: Mapping[str, Port], given: Mapping[str, Port], declared: Mapping[str, str | None]
) -> Mapping[str, str | None]:
    for name, output in declared.items():
        if name not in taken:
            raise SourceError(
                f"there is no input {name!r} to be a state: the file takes {_port_list(taken)}.",
                id="no-such-state-input",
            )
        if output is None:
            continue
        if output not in given:
            raise SourceError(
                f"there is no output {output!r} for the state {name!r}: the file gives {_port_list(given)}.",
                id="no-such-state-output",
            )
        if not _fits(taken[name], given[output]):
            raise SourceError(
                f"{given[output]} cannot be the next {taken[name]}: a state comes back in the dtype and shape in which "
                f"it is fed.{_grows(taken[name], given[output])}",
                id="state-pair-differs",
            )
    outputs = [output for output in declared.values() if output is not None]
    if doubled := next((o for o in outputs if outputs.count(o) > 1), None):
        raise SourceError(
            f"the output {doubled!r} is said to be two states: each comes back as one of its own.",
            id="state-output-doubled",
        )
    return declared


def _grows(state: Port, output: Port) -> str:
    if state.shape is None or output.shape is None or len(state.shape) != len(output.shape):
        return ""
    return " A cache that grows is none: export the model with one of a fixed length."


def _by_name(taken: Mapping[str, Port], given: Mapping[str, Port]) -> dict[str, list[str]]:
    """By input, the closest of the outputs that fit and differ in name only by words of before and after."""
    found: dict[str, list[str]] = {}
    for name, port in taken.items():
        fitting = [out for out, other in given.items() if _fits(port, other)]
        for same in (_exactly, _loosely):
            if alike := [out for out in fitting if same(name, out)]:
                found[name] = alike
                break
    return found


def _exactly(name: str, output: str) -> bool:
    """The same name with one word of before in it, or one of after, and nothing else besides."""
    mine, other = _words(name), _words(output)
    stem, rest = _without(mine, BEFORE, 1), _without(other, AFTER, 1)
    return mine != other and any(a == b for a in stem for b in rest)


def _loosely(name: str, output: str) -> bool:
    mine = [w for w in _words(name) if w not in BEFORE]
    other = [w for w in _words(output) if w not in AFTER]
    return bool(mine) and mine == other and name != output


def _without(words: list[str], some: set[str], most: int) -> list[list[str]]:
    cut = [words[:i] + words[i + 1 :] for i, word in enumerate(words) if word in some]
    return [words, *(c for c in cut if c)][: most + len(cut)]


def _words(name: str) -> list[str]:
    """The words of a name: "cachedLen_0" is cached, len, 0; "stateN" is state, n; "hn" is h, n."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)
    words = [part.lower() for part in parts]
    # PyTorch's own letters for the states of its layers.
    return [w for word in words for w in ((word[0], word[1]) if word in ("hn", "cn") else (word,))]


def _fits(state: Port, output: Port) -> bool:
    if state.dtype != output.dtype:
        return False
    if state.shape is None or output.shape is None:
        return True
    if len(state.shape) != len(output.shape):
        return False
    return all(
        not (isinstance(a, int) and isinstance(b, int)) or a == b
        for a, b in zip(state.shape, output.shape, strict=True)
    )


def _is_like(state: Port, output: Port) -> bool:
    """True if no name is needed to pair the two: a size that is open in one alone rules it out.

    But for an axis of one entry, as of a batch of one, whose size somebody's converter has lost on the way.
    """
    if state.dtype != output.dtype or state.shape is None or output.shape is None:
        return False
    if len(state.shape) != len(output.shape):
        return False
    return all(a == b or (a == 1 and not isinstance(b, int)) for a, b in zip(state.shape, output.shape, strict=True))


def _question(taken: Mapping[str, Port], given: Mapping[str, Port], unclear: Mapping[str, list[str]]) -> str:
    lines = []
    for name, outputs in unclear.items():
        unique = [*dict.fromkeys(outputs)]
        if unique:
            options = ", or ".join(f"--state {name}={output}" for output in unique)
            lines.append(
                f"{name!r} may come back as {' or '.join(map(repr, unique))}: {options}, or --state {name}=none"
            )
        else:
            lines.append(
                f"{name!r} sounds like a state, but nothing comes back like it: --state {name}=none if it is none"
            )
    return (
        f"it is not clear which inputs are states. The file takes {_port_list(taken)} and gives {_port_list(given)}. "
        f"{'; '.join(lines)}. In Python: states={{input: output or None}}."
    )


def _port_list(ports: Mapping[str, Port]) -> str:
    return ", ".join(map(str, ports.values()))
