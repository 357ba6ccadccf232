"""A bundle run by NVIDIA's LEAPP from the description that is written beside it, held to a stream.

`python -m tests.published.leapp_reads PATH...` prints a line of JSON for each: the largest difference.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from rnn_export.bundle import open_bundle
from rnn_export.bundle.leapp import write_leapp
from rnn_export.contract.spec import StreamSpec, sized
from rnn_export.platform.arrays import Array
from rnn_export.runtime import load

STEPS = 60


def differences(bundle: Path) -> float:
    """Over two sequences of steps, the second one after a reset of both."""
    from leapp import InferenceManager

    with tempfile.TemporaryDirectory() as folder:
        path = shutil.copytree(bundle, Path(folder, bundle.name))
        description, *_ = write_leapp(open_bundle(path))
        manager, stream = InferenceManager(str(description)), load(path, backend="onnxruntime").stream()
        buffers, spec, generator, worst = stream._buffers, stream.spec, np.random.default_rng(0), 0.0
        assert {key.split("/")[1] for key in manager.inputs} == set(buffers.inputs)
        for step in range(2 * STEPS):
            if step == STEPS:
                manager.reset()
                stream.reset()
            fed = drawn(spec, generator)
            given = manager.run_policy({k: torch.from_numpy(fed[k.split("/")[1]]) for k in manager.inputs})
            for name, value in fed.items():
                buffers.inputs[name][...] = value
            # Of a delay too: LEAPP gives what the step gives.
            buffers.step()
            got = {key.split("/")[1]: value.numpy().astype(float) for key, value in given.items()}
            worst = max(worst, *(float(np.abs(got[t.name] - buffers.outputs[t.name]).max()) for t in spec.outputs))
        return worst


def drawn(spec: StreamSpec, generator: np.random.Generator) -> dict[str, Array]:
    """One step of each input; small whole numbers where it takes such."""
    found = {}
    for tensor in spec.inputs:
        values = generator.normal(0, 1, sized(tensor.shape, 1, spec.chunk))
        found[tensor.name] = (values if tensor.dtype.startswith("float") else abs(values)).astype(tensor.dtype)
    return found


if __name__ == "__main__":
    for asked in map(Path, sys.argv[1:]):
        sys.stdout.write(json.dumps({"bundle": asked.name, "error": differences(asked)}) + "\n")
        sys.stdout.flush()
