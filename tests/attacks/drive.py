"""Open, step and restore a bundle that may be hostile; only errors that are not the project's own propagate."""

from __future__ import annotations

import inspect
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rnn_export.bundle import Bundle, open_bundle
from rnn_export.contract.spec import sized
from rnn_export.errors import NotInBundle, RnnExportError, StreamError
from rnn_export.runtime import Engine, Stream, load
from rnn_export.runtime.replay.golden import FILE, Golden
from rnn_export.runtime.stream import OVER

from ..runtime.graphs import MODELS  # noqa: TID252
from .mutations import snapshot_case

BACKENDS = ("onnxruntime", "native")
STEPS = 3
# A bundle is code for those who say so: the fuzz is to meet the backends.
TRUST: dict[str, Any] = {"trust": True} if "trust" in inspect.signature(load).parameters else {}
# What came of one backend.
Outcome = str


def drive(files: Mapping[str, bytes], backends: tuple[str, ...] = BACKENDS) -> dict[str, Outcome]:
    """By backend: "stepped", "refused" or "absent"; by "open" whether it opened. What is no error of ours goes up."""
    with tempfile.TemporaryDirectory(prefix="rnn-fuzz-") as folder:
        path = Path(folder, "m.rnnx")
        for name, data in files.items():
            place = path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        try:
            bundle = open_bundle(path)
        except RnnExportError:
            return {"open": "refused"}
        _tried(lambda: _read(bundle))
        return {"open": "opened", **{backend: _on(path, backend) for backend in backends}}


def _read(bundle: Bundle) -> None:
    for use in (bundle.initial_states, lambda: Golden.from_arrays(bundle.arrays(FILE), bundle.spec)):
        _tried(use)


def _tried(use: Callable[[], object]) -> Outcome:
    try:
        use()
    except NotInBundle:
        return "absent"
    except RnnExportError:
        return "refused"
    return "stepped"


def _on(path: Path, backend: str) -> Outcome:
    return _tried(lambda: _step(load(path, backend=backend, **TRUST)))  # type: ignore[arg-type]


def _step(engine: Engine[Any]) -> None:
    spec = engine.spec
    stream = engine.stream()
    frames = {t.name: np.ones(sized(t.shape, 1, spec.chunk), t.dtype) for t in spec.inputs}
    whole = {n: a[0] if spec.has_time else a for n, a in frames.items()}
    if spec.sequence_only:
        stream.run(whole)
        return
    buffers = stream._buffers
    for _ in range(STEPS):
        for name, frame in frames.items():
            buffers.inputs[name][...] = frame.reshape(buffers.inputs[name].shape)
        buffers.step()
    for tensor in spec.outputs:
        got = buffers.outputs[tensor.name]
        assert (got.dtype, got.shape) == (np.dtype(tensor.dtype), sized(tensor.shape, 1, spec.chunk)), tensor
    for state in spec.states:
        got = stream.states[state.name]
        assert (got.dtype, got.shape) == (np.dtype(state.dtype), (1, *state.row)), state
    if spec.digest:
        _tried(lambda: stream.restore(stream.snapshot()))
    pool = engine.pool(4)
    ids = [pool.open(), pool.open()]
    pairs = {t.name: np.ones(sized(t.shape, 2, spec.chunk), t.dtype) for t in spec.inputs}
    _tried(lambda: pool.step(ids, pairs if len(pairs) > 1 else next(iter(pairs.values()))))


def count(table: dict[str, Counter[str]], field: str, outcomes: Mapping[str, Outcome]) -> None:
    """Add what came of a case to the table by field."""
    table.setdefault(field, Counter())["cases"] += 1
    table[field].update(f"{where} {outcome}" for where, outcome in outcomes.items())


@cache
def _stream() -> tuple[Stream[Any], bytes]:
    """One that snapshots are restored into, and a sound one of it."""
    with tempfile.TemporaryDirectory() as folder:
        stream = load(MODELS["sum"].write(Path(folder, "m.rnnx")), backend="onnxruntime").stream()
    stream.step(np.ones(3, np.float32))
    return stream, stream.snapshot()


def restore(rng: random.Random) -> Outcome:
    """The outcome of restoring a forged snapshot. The stream must go on, from its old state after a refusal."""
    stream, sound = _stream()
    stream.restore(sound)
    forged = snapshot_case(sound, rng)
    outcome = _tried(lambda: stream.restore(forged))
    if outcome == "refused":
        assert stream.snapshot() == sound
    assert np.isfinite(stream.states["h"]).all()
    try:
        assert stream.step(np.zeros(3, np.float32)).shape == (3,)
    except StreamError as error:
        # What is forged may say that its sequence has ended.
        assert (outcome, str(error)) == ("stepped", OVER)  # noqa: PT017
    return outcome
