"""Sizes in bytes of the C target: a step on a microcontroller, and a library."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from instructions import instructions

from rnn_export.bundle import Bundle
from rnn_export.errors import BackendUnavailable
from rnn_export.export import export
from rnn_export.runtime.backends.native.cpu import host_triple
from rnn_export.runtime.build.native.cross import CrossBuild, cross_build
from rnn_export.runtime.protocols import folder as place
from tests.native.models import MODELS, Written

Figures = Iterator[tuple[str, float]]
SIZED = {
    "LSTM 8 -> 16 + head": ("lstm", "fp32"),
    "GRU 16 -> 32 + head": ("gru", "fp32"),
    "RTNeural's LSTM": ("rtneural-lstm", "fp32"),
    "RNNoise 0.1": ("rnnoise", "fp32"),
    "RNNoise 0.1, int8": ("rnnoise", "int8"),
    "Silero VAD": ("silero", "fp32"),
    "Silero VAD, int8": ("silero", "int8"),
}
BARE = ("cortex-m4", "cortex-m7")
AARCH64 = "aarch64-linux-gnu"


def sizes() -> Figures:
    """Bytes of flash, RAM and stack and instructions of a step on a Cortex-M, and bytes of the library for Linux."""
    for title, (name, precision) in SIZED.items():
        model, example, options = MODELS[name]()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.rnnx"
            bundle = export(model, example, path, targets=("c",), precision=precision, steps=64, **options)
            library = f"{place('c', precision)}/build/{host_triple()}/native.so"
            yield f"{title}: library for this machine, {host_triple()}", len(bundle.read(library))
            for triple in (*BARE, AARCH64):
                yield from _elsewhere(title, bundle, precision, triple)


def _elsewhere(title: str, bundle: Bundle, precision: str, triple: str) -> Figures:
    its = Written.of(bundle, precision)
    try:
        done: CrossBuild = cross_build(its.files, its.name, its.spec, triple)
    except BackendUnavailable as reason:
        print(f"  {triple} is not measured: {reason}", file=sys.stderr)
        return
    test = done.selftest
    for what, size in (("flash", test.flash), ("RAM, its stack in it", test.ram), ("stack", test.stack)):
        if size is not None:
            yield f"{title}: {what} on {triple}", size
    counted = instructions(its, triple) if triple in BARE else None
    if counted is not None:
        yield f"{title}: instructions of a step on {triple}", counted
    if triple == AARCH64:
        yield f"{title}: library for {triple}", len(done.files[f"build/{triple}/native.so"])
    if not test.passed:
        print(f"  {title}: the self-test for {triple} was {test.reason}", file=sys.stderr)
