"""README.md of a bundle: its contents, how to stream it, and how it was verified."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rnn_export.bundle import TargetRow
from rnn_export.bundle.readme import targets_section
from rnn_export.contract.parity_json import extent, worst_of_checks
from rnn_export.contract.spec import StreamSpec
from rnn_export.platform.terminal_text import code, visible
from rnn_export.runtime.replay.figures import figures_text


def bundle_readme(name: str, spec: StreamSpec, targets: Sequence[TargetRow], evidence: Mapping[str, Any]) -> str:
    """The page, in Markdown; `evidence` is the content of parity.json."""
    return "\n".join((*_stream(name, spec, evidence), "", targets_section(targets), *_verification(name, evidence), ""))


def _stream(name: str, spec: StreamSpec, evidence: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {visible(name)}"
    yield ""
    if file := evidence.get("file"):
        yield (
            f"The step of {code(file['name'])} (opset {file['opset']}, by {visible(file['producer'])}), its states "
            "outside, in the bundle format of rnn-export."
        )
    elif spec.sequence_only:
        yield "A PyTorch model of whole sequences, in the bundle format of rnn-export: it cannot stream."
    else:
        yield "A recurrent PyTorch model as one step with its states outside, in the bundle format of rnn-export."
    yield ""
    yield "    from rnn_export import load"
    yield f"    stream = load({name!r}).stream()"
    a_step = f"{spec.chunk} frames" if spec.chunk > 1 else "a frame"
    call = "ys = stream.run(xs)    # a whole sequence" if spec.sequence_only else f"y = stream.step(x)    # {a_step}"
    yield f"    {call}"
    yield ""
    yield "| | name | dtype | shape |"
    yield "|---|---|---|---|"
    ports = (("input", spec.inputs), ("output", spec.outputs), ("state", spec.states))
    for kind, tensors in ports:
        for tensor in tensors:
            yield f"| {kind} | {code(tensor.name)} | {tensor.dtype} | ({', '.join(map(str, tensor.shape))}) |"
    for state in spec.states:
        for part in state.parts:
            where = f"of {code(state.name)}, from entry {part.offset} of a row"
            yield f"| {where} | {code(part.name)} | {state.dtype} | ({', '.join(map(str, part.shape))}) |"
    yield ""
    rate = f", {spec.sample_rate} Hz" if spec.sample_rate else ""
    most = f", {spec.max_frames} frames of a stream at most" if spec.max_frames else ""
    context = f"; {spec.context_note}" if spec.max_context else ""
    alone = ", one stream at a time" if spec.rows else ""
    together = f"; {spec.rates_note}" if spec.rates_note else ""
    late = f"; {spec.delay_note}" if spec.has_delay else ""
    yield f"Chunk {spec.chunk}{alone}{most}{rate}{together}{late}{context}."


def _verification(name: str, evidence: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield "## How it was verified"
    yield ""
    allowed = "{atol:g} + {rtol:g} x its scale".format_map(evidence["tolerance"])
    truth = "ONNX Runtime on the file itself" if "file" in evidence else "the PyTorch model itself"
    yield (
        f"In a closed loop against {truth}, {extent(evidence)} x {evidence['rows']} rows of "
        f"{evidence['source']} and shorter trials of other kinds of input, on {evidence['backend']}. No value was "
        f"further off than {allowed}, or what its precision allows."
    )
    yield ""
    yield "| check | worst tensor | relative error |"
    yield "|---|---|---|"
    for drift in worst_of_checks(evidence):
        yield f"| {drift['check']} | {code(drift['tensor'])} | {drift['relative']:.1e} |"
    if evidence["figures"]:
        yield ""
        yield f"The task's own figures: {visible(figures_text(evidence['figures']))}."
    remarks = [*evidence["notes"], *(f"not judged: {kind}: {why}" for kind, why in evidence["not_judged"].items())]
    sides = [f"{side['op']} in {side['place']} was never {side['never']}" for side in evidence["not_exercised"]]
    if remarks or sides:
        yield ""
        yield from (f"- {visible(text)}" for text in (*remarks, *sides))
    yield ""
    yield f"`rnn-export verify {visible(name)}` proves it again on any machine; parity.json has every tensor and step."
