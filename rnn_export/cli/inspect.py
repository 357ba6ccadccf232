"""`rnn-export inspect`: the contents of a bundle, or of a model as lifted."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rnn_export.cli import console
from rnn_export.cli.main import command, refuse_address
from rnn_export.cli.onnx_source import Words, file_options, is_onnx, onnx_options, refuse_file_options
from rnn_export.cli.options import export_keywords, source_options
from rnn_export.cli.voice import stages
from rnn_export.errors import SourceError
from rnn_export.platform.last_resort import last_resort

if TYPE_CHECKING:
    from rnn_export.bundle import Bundle, TargetRow
    from rnn_export.export.export_options import ExportOptions

# The source, and a lift: memory, axes, capture, streaming.
STAGES = 5

_inspecting = last_resort(SourceError, name="inspect")


@command
@click.argument("what", metavar="BUNDLE|SOURCE")
@source_options
@onnx_options
@click.option("--sequence-only", is_flag=True, help="Look at it as a model of whole sequences.")
@click.option("--pack-states", is_flag=True, help="Look at it with its states packed into one tensor.")
def inspect_command(
    what: str, weights: Path | None, fixed: Words, shapes: Words, initial: Words, as_json: bool, **flags: Any
) -> dict[str, Any]:
    """Show what is in a bundle, or what is found in the model of a SOURCE, or in an ONNX file, before any export.

    Of a model: inputs and outputs with their axes, every state with its module path, kind, shape, first value and why
    it is one, the delay, parameters and bytes. Of a bundle: how it was verified, which sides of its gates no
    input reached, and which of its code runs here. Of an
    ONNX file: what it takes and gives, which of that are states, the stream that it becomes, and the command to run.
    """
    refuse_address(what)
    keywords = export_keywords(**flags)
    if is_onnx(what) and not Path(what).is_dir():
        if weights is not None:
            raise click.UsageError("--weights is said of a PyTorch module: an ONNX file has its own.")
        named = {"--state": flags["states"], "--fix": fixed, "--shape": shapes, "--initial": initial}
        options = [
            f"{option} {name}={'none' if value is None else value}" for option in named for name, value in named[option]
        ]
        options += [f"--chunk {flags['chunk']}"] if flags["chunk"] else []
        return _of_file(Path(what), file_options(keywords, fixed, shapes, initial), options, not as_json)
    refuse_file_options(what, fix=fixed, shape=shapes, initial=initial)
    if Path(what, "manifest.json").exists() or (":" not in what and not what.endswith(".py")):
        return _of_bundle(Path(what), not as_json)
    return _of_model(what, weights, keywords, not as_json)


@_inspecting
def _of_model(source: str, weights: Path | None, keywords: Mapping[str, Any], shown: bool) -> dict[str, Any]:
    from rnn_export.cli.functions import stdout_kept

    with stdout_kept(), stages("inspect", STAGES) as stage:
        stage("source")
        from rnn_export.cli.source import read_source
        from rnn_export.export.lift.stages import lift

        model, example, options = read_source(source, weights, keywords)
        lifted = lift(model, example, replace(options, progress=stage))
    parameters = {p.data_ptr(): p for p in model.parameters()}.values()
    count, size = sum(p.numel() for p in parameters), sum(p.numel() * p.element_size() for p in parameters)
    origins = {origin.name: {"kind": origin.kind, "why": origin.why} for origin in lifted.origins}
    if shown:
        console.contract(lifted.spec, origins)
        console.say(f"{count:,} parameters, {size:,} bytes")
        for note in lifted.notes:
            console.say(f"note: {note}")
    found = {"spec": lifted.spec.to_json(), "states": origins, "parameters": count, "bytes": size}
    return {**found, "notes": list(lifted.notes)}


@_inspecting
def _of_file(path: Path, options: ExportOptions, flags: list[str], shown: bool) -> dict[str, Any]:
    from rnn_export.export.describe_file import describe_file

    found = describe_file(path, options)
    inputs, outputs = ([(p.name, p.dtype, p.shape) for p in ports] for ports in (found.inputs, found.outputs))
    output = path.with_suffix(".rnnx").name
    advice = " ".join(["rnn-export export", shlex.quote(str(path)), *flags, "-o", shlex.quote(output), "--target c"])
    if shown:
        fixed = options.fixed or {}
        roles = {name: f"state, comes back as {back}" for name, back in found.comes_back.items()}
        roles |= dict.fromkeys(fixed, "always the same, by --fix")
        rows = [("takes", name, dtype, _dims(shape), roles.get(name, "")) for name, dtype, shape in inputs]
        rows += [("gives", name, dtype, _dims(shape), "") for name, dtype, shape in outputs]
        console.table(
            f"{path}: opset {found.opset}, made by {found.producer}", ("", "name", "dtype", "shape", ""), rows
        )
        console.say("operators: " + ", ".join(f"{name} {n}" for name, n in sorted(found.operators.items())))
        if found.spec is not None:
            console.contract(found.spec)
            for note in found.notes:
                console.say(f"note: {note}")
            console.say(f"next: {advice}")
    if found.error is not None:
        raise found.error
    return {
        "file": {"opset": found.opset, "producer": found.producer, "operators": dict(found.operators)},
        **{direction: [dict(zip(("name", "dtype", "shape"), port, strict=True)) for port in ports]
           for direction, ports in (("takes", inputs), ("gives", outputs))},
        "states": dict(found.comes_back),
        "spec": found.spec and found.spec.to_json(),
        "notes": list(found.notes),
        "next": advice,
    }  # fmt: skip


def _dims(shape: tuple[int | str | None, ...] | None) -> str:
    return "of any rank" if shape is None else f"({', '.join('?' if d is None else str(d) for d in shape)})"


@_inspecting
def _of_bundle(path: Path, shown: bool) -> dict[str, Any]:
    from rnn_export.bundle import open_bundle
    from rnn_export.bundle.judgement import judge

    bundle = open_bundle(path)
    judgement = judge(bundle)
    evidence = _evidence(bundle)
    if shown:
        console.contract(bundle.spec)
        for assumption in bundle.spec.assumptions:
            console.say(f"decision at {assumption.note}")
        console.table("Files", ("path", "bytes"), [(row.path, f"{row.bytes:,}") for row in bundle.files.values()])
        console.table("Targets", ("target", "precision", "opset", "files", "needs"), map(_shown, bundle.targets))
        if scales := [line for row in bundle.targets for line in _scales(row)]:
            console.table("States in int8", ("target", "precision", "state", "scale", "zero point"), scales)
        for code in judgement.trusted:
            console.say(f"code: {code.title} runs here")
        for code in judgement.untrusted:
            console.say(f"code: {code.title} does not run here without --trust: it {judgement.why}")
        if evidence:
            console.parity(evidence)
            assumed = {assumption.note for assumption in bundle.spec.assumptions}
            for note in evidence.get("notes", []):
                if note not in assumed:
                    console.say(f"note: {note}")
        console.say("made by " + ", ".join(f"{name} {version}" for name, version in bundle.producer.items()))
    return {
        "spec": bundle.spec.to_json(),
        "files": {row.path: row.bytes for row in bundle.files.values()},
        "targets": [{**vars(t), "files": list(t.files)} for t in bundle.targets],
        "producer": dict(bundle.producer),
        "code": {
            "runs_here": [code.title for code in judgement.trusted],
            "does_not": [code.title for code in judgement.untrusted],
            "why": judgement.why or None,
        },
        "parity": evidence,
    }


def _shown(row: TargetRow) -> tuple[Any, ...]:
    files = ", ".join(name.rsplit("/", 1)[-1] for name in row.files)
    shown = {key: value for key, value in row.requires.items() if key not in ("onnx_sha256", "state_scales")}
    needs = ", ".join(f"{key} {_words(value)}" for key, value in shown.items())
    return row.target, row.precision, row.opset or "", files, needs


def _scales(row: TargetRow) -> list[tuple[Any, ...]]:
    """Scale and zero point of each int8 state of a row: scale * (value - zero point)."""
    found = row.requires.get("state_scales", {})
    return [(row.target, row.precision, name, f"{one['scale']:.4g}", one["zero_point"]) for name, one in found.items()]


def _words(value: Any) -> str:
    return " ".join(map(str, value)) or "any (portable)" if isinstance(value, list) else str(value)


def _evidence(bundle: Bundle) -> dict[str, Any] | None:
    """The report of the export; the format asks nothing of that file, so anything else is passed over."""
    from rnn_export.contract.parity_json import is_report
    from rnn_export.platform.json_parser import parse_json

    if "parity.json" not in bundle.files:
        return None
    try:
        report = parse_json(bundle.read("parity.json"))
    except ValueError:
        return None
    return report if is_report(report) else None
