"""Write a verified draft as a bundle: the end of every export."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from rnn_export import __version__
from rnn_export.bundle import INITIAL_STATES, Bundle, write_bundle
from rnn_export.bundle.code import code_of, record
from rnn_export.bundle.draft import Draft
from rnn_export.bundle.proofs import held_at_export
from rnn_export.bundle.readme import README
from rnn_export.export.bundle_readme import bundle_readme
from rnn_export.export.planning import Plan
from rnn_export.export.targets.registry import find_writer
from rnn_export.platform.arrays import pack_arrays
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.drift import ParityReport
from rnn_export.runtime.replay.golden import FILE, Golden

ACCUMULATES = "a GPU may add up in fp16 as well; an engine is held to the model where it is built"
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


def with_evidence(
    draft: Draft,
    plan: Plan,
    report: ParityReport,
    vectors: Golden,
    progress: Callable[[str], None],
    source: str,
    assumptions: Sequence[Mapping[str, Any]],
    not_exercised: Sequence[Mapping[str, str]],
    file: Mapping[str, Any] | None = None,
) -> tuple[Draft, dict[str, bytes]]:
    """`draft` with the self-tests of its targets and all notes, and the evidence files of `report`.

    `file` describes the ONNX file that the bundle is made of.
    """
    others, notes = list[Engine](), list(draft.notes)
    for target, options in plan:
        others += find_writer(target.name).fp16_accumulate_engines(draft, target, options)
        notes += find_writer(target.name).notes(draft, target, options)
    draft = replace(draft, notes=[*notes, *([ACCUMULATES] if others else ())])
    evidence = {
        "source": source,
        **({} if file is None else {"file": file}),
        "notes": list(draft.notes),
        "assumptions": assumptions,
        **report.to_json(),
        "not_exercised": not_exercised,
        "targets": held_at_export(draft.targets),
        "fp16_accumulate": [replay_golden(engine, vectors, progress).to_json() for engine in others],
    }
    spec = draft.spec
    for target, options in plan:
        golden = find_writer(target.name).golden_files(spec, options, vectors)
        draft = draft.with_files(target.name, options.precision, golden)
    text = json.dumps(evidence, indent=1) + "\n"
    return draft, {"parity.json": text.encode(), FILE: vectors.beginning(spec).thinned().to_npz()}


def keep(
    draft: Draft,
    evidence: Mapping[str, bytes],
    path: str | os.PathLike[str],
    force: bool,
    made_by: Mapping[str, str],
    report: bool,
) -> tuple[Bundle, list[str]]:
    """Write the bundle `path`, record its code as made here, and return it with its notes.

    `evidence` are the files of its verification, `made_by` the versions of other packages. With `report` it has a
    report.html.
    """
    files = {**draft.files, **evidence}
    if stored := {s.name: draft.initial[s.name] for s in draft.spec.states if s.initial == "stored"}:
        files[INITIAL_STATES] = pack_arrays(stored)
    page = bundle_readme(Path(path).name, draft.spec, draft.targets, json.loads(evidence["parity.json"]))
    files[README] = page.encode()
    weights = count_weights(files["step.onnx"]) if "step.onnx" in files else None
    why = record(code_of(draft))
    producer = {"rnn-export": __version__, **made_by}
    bundle = write_bundle(
        path, spec=draft.spec, producer=producer, files=files, targets=draft.targets, weights=weights, force=force,
        report=report,
    )  # fmt: skip
    return bundle, [
        *draft.notes,
        *([f"load() will not run the code of {path} without trust=True (--trust): {why}"] if why else ()),
    ]


def count_weights(model: bytes) -> int:
    """The number of floats in the constants of an ONNX graph: the memory they are in bounds the speed of a step.

    A table that is only looked up counts for nothing: a step reads one row of it.
    """
    graph = onnx.load_from_string(model).graph
    constants = [(tensor.name, tensor) for tensor in graph.initializer]
    tables, read = set(), set()
    for node in graph.node:
        looked_up = 1 if node.op_type == "Gather" else 0
        tables |= set(node.input[:looked_up])
        read |= set(node.input[looked_up:])
        constants += [(node.output[0], a.t) for a in node.attribute if a.HasField("t")]
    floats = [(name, tensor) for name, tensor in constants if tensor.data_type in FLOATS]
    return sum(math.prod(tensor.dims) for name, tensor in floats if name in read or name not in tables)
