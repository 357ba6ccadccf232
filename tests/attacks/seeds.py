"""Sound files in memory that the fuzz starts from, made once by each process."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rnn_export.bundle import TargetRow, extend_bundle, open_bundle
from rnn_export.errors import BackendUnavailable
from rnn_export.platform.arrays import pack_arrays

from ..runtime.graphs import MODELS, Model  # noqa: TID252
from ..runtime.native_toys import model_sources, with_native  # noqa: TID252


@dataclass(frozen=True)
class Seed:
    """A bundle: its manifest as plain data, its files, and the model, whose graphs can be of another contract."""

    model: Model
    manifest: dict[str, Any]
    files: dict[str, bytes]


@cache
def seeds() -> tuple[Seed, ...]:
    """A step with a stored state on ONNX, C and TorchScript; one over time in chunks, with a sequence."""
    return _seed("stored", compiled=True), _seed("chunked", compiled=False)


def _seed(name: str, compiled: bool) -> Seed:
    model = MODELS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = model.write(
            Path(folder, f"{name}.rnnx"), **{"golden.npz": _golden(model), "parity.json": b'{"drifts": []}'}
        )
        if compiled:
            # Without a compiler the others are tried.
            with suppress(BackendUnavailable):
                with_native(path, model_sources(name), name)
            step = "targets/torchscript-fp32/step.pt"
            extend_bundle(
                open_bundle(path), TargetRow("torchscript", "fp32", None, (step,), {}), {step: torchscript(model)}
            )
        manifest = json.loads((path / "manifest.json").read_bytes())
        return Seed(model, manifest, {n: open_bundle(path).read(n) for n in open_bundle(path).files})


def _golden(model: Model) -> bytes:
    spec = model.spec
    x = np.ones((1, 6, 3), np.float32)
    h = np.zeros((1, 1, 3), np.float32)
    arrays = {
        "input/x": x,
        "output/y": x.cumsum(1),
        "state/h": h,
        "at": np.array([6]),
        "tolerance": np.array([1e-6, 1e-6]),
    }
    return pack_arrays({**arrays, "precision": np.array("fp32"), "kinds": np.array(["noise"])}) if spec else b""


def torchscript(model: Model) -> bytes:
    import warnings

    import torch
    from torch import Tensor, nn

    class Sum(nn.Module):
        def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            y = x + h
            return y, y.clone()

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Sum()), file, _extra_files={"rnn_export.spec": model.spec.dumps()})
    return file.getvalue()


def rewritten(model: Model, spec: Any, names: Mapping[str, str]) -> dict[str, bytes]:
    """The graphs of a model under another contract, so that both agree, with `names` in place of others."""

    def renamed(nodes: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        return [(op, [names.get(n, n) for n in ins], [names.get(n, n) for n in outs], a) for op, ins, outs, a in nodes]

    sequence = None if model.sequence is None else renamed(model.sequence)
    return replace(model, spec=spec, step=renamed(model.step), sequence=sequence).files()
