"""The target `c`: one step in C99, with no dependency, verified as this machine compiles it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from rnn_export.arrays import Array
from rnn_export.errors import ExportError
from rnn_export.export.graph.step import step_graph
from rnn_export.export.lift.api import StreamingModel
from rnn_export.export.targets.c.calibration import scales
from rnn_export.export.targets.c.golden_header import golden_header
from rnn_export.export.targets.c.writer import sources
from rnn_export.precision import TOLERANCES
from rnn_export.runtime.backends.api import Artefacts, folder
from rnn_export.runtime.build.native.compile import compile_native
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.golden import Golden
from rnn_export.spec import StreamSpec
from rnn_export.target_options import TargetOptions
from rnn_export.targets import Target


def write(model: StreamingModel, target: Target, order: TargetOptions) -> dict[str, bytes]:
    """The sources of the step, and the library that this machine's compiler makes of them."""
    step = step_graph(model)
    if step is None:
        raise ExportError(f"target {target.name!r} runs a step, but the model takes whole sequences only.")
    initial = {name: np.asarray(value.cpu()) for name, value in model.initial.items()}
    return from_step(step, model.spec, initial, target, order)


def from_step(
    step: bytes, spec: StreamSpec, initial: Mapping[str, Array], target: Target, order: TargetOptions
) -> dict[str, bytes]:
    """The same from the fp32 step graph of a bundle."""
    calibrated = None if order.calibration is None else scales(step, spec, initial, order.calibration)
    files = sources(step, spec, initial, order.name, order.precision, calibrated)
    files |= compile_native(files, order.name, spec)
    return {f"{folder('c', order.precision)}/{name}": data for name, data in files.items()}


def requires(target: Target, order: TargetOptions) -> dict[str, Any]:
    """The name that the sources go by, and how activations are scaled in int8."""
    if order.precision != "int8":
        return {"name": order.name}
    return {"name": order.name, "scales": "at run time" if order.calibration is None else "calibrated"}


def engines(artefacts: Artefacts, target: Target, order: TargetOptions) -> list[Engine]:
    """That of the backend `native`."""
    return [Engine.of(artefacts, "native", order.precision)]


def golden_files(spec: StreamSpec, order: TargetOptions, golden: Golden) -> dict[str, bytes]:
    """The golden vectors for the self-test."""
    if golden.precision != order.precision:
        golden = replace(golden, tolerance=TOLERANCES[order.precision])
    return {f"{folder('c', order.precision)}/golden.h": golden_header(spec, golden).encode()}
