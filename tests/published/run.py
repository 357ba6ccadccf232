"""Export one published model as a user would, and hold 200 frames of it to the author's own API.

`python -m tests.published.run NAME` prints one line of JSON, with the outcome "exported", "refused" or "crashed".
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rnn_export import __version__
from rnn_export.errors import RnnExportError
from rnn_export.export import export
from rnn_export.runtime import load
from rnn_export.runtime.engine import Engine
from tests.published.models import MODELS, Published

FRAMES, TIMED = 200, 300


def run(name: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    case = MODELS[name]
    model, found = case.make().eval(), {"name": name, "version": __version__}
    with tempfile.TemporaryDirectory() as folder:
        path, start = Path(folder, "net.rnnx"), time.perf_counter()
        try:
            export(model, case.example, path, targets=("onnx", "c"), **case.options)
        except RnnExportError as error:
            return {**found, "outcome": "refused", "seconds": time.perf_counter() - start, "message": str(error)}
        except Exception:  # whatever else is a fault of ours, and to be shown
            return {**found, "outcome": "crashed", "message": traceback.format_exc()[-2000:]}
        found |= {"outcome": "exported", "seconds": time.perf_counter() - start}
        for backend in ("onnxruntime", "native"):
            engine = load(path, backend=backend)
            found[backend] = {"error": _error(case, model, engine), "us": _microseconds(engine)}
        spec = engine.spec
        found |= {"states": len(spec.states), "delay": spec.delay, "chunk": spec.chunk, "rows": spec.rows}
    return found


def _drawn(engine: Engine, frames: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    flags = {t.name for t in engine.spec.inputs if not t.frame}
    drawn = {t.name: torch.randn(frames, *t.frame, generator=generator) for t in engine.spec.inputs}
    # A flag, such as the start of an episode: of both kinds.
    return {name: (x > 1.5).float() if name in flags else x for name, x in drawn.items()}


def _error(case: Published, model: torch.nn.Module, engine: Engine) -> float:
    """The largest error of the first output over 200 frames, over its largest magnitude."""
    spec, fed = engine.spec, _drawn(engine, FRAMES)
    with torch.no_grad():
        want = case.own(copy.deepcopy(model), fed).numpy()[spec.delay :]
    stream, given = engine.stream(), []
    for frame in range(FRAMES):
        x = {name: value[frame].numpy() for name, value in fed.items()}
        y = stream.step(x if len(x) > 1 else next(iter(x.values())))
        if y is not None:
            given.append(y[spec.outputs[0].name] if isinstance(y, Mapping) else y)
    got = np.stack(given)
    assert got.size == want.size, f"the stream gives {got.shape}, the author's own {want.shape}"
    return float(np.abs(got.reshape(want.shape) - want).max() / np.abs(want).max())


def _microseconds(engine: Engine) -> float:
    stream, fed = engine.stream(), {name: x[0].numpy() for name, x in _drawn(engine, 1).items()}
    x: Any = fed if len(fed) > 1 else next(iter(fed.values()))
    taken = []
    for _ in range(TIMED):
        start = time.perf_counter()
        stream.step(x)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken) * 1e6)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(sys.argv[1])) + "\n")
