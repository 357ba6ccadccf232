"""Bundles whose code leaves a file behind when it is run, and which are valid in all else."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from rnn_export.bundle import Bundle, TargetRow, extend_bundle, open_bundle
from rnn_export.runtime.build.native.compilation import compile_native

from ..runtime.graphs import SUM  # noqa: TID252
from ..runtime.native_toys import by_hand  # noqa: TID252
from ..runtime.test_golden import golden_of  # noqa: TID252
from ..runtime.test_torchscript import scripted  # noqa: TID252

CONSTRUCTOR = """
#include <stdio.h>
__attribute__((constructor)) static void attack(void)
{{
    FILE *file = fopen("{mark}", "w");
    if (file) fclose(file);
}}
"""


def data(path: Path) -> Path:
    """A running sum as ONNX with golden vectors: no code."""
    return SUM.write(path, **{"golden.npz": golden_of(SUM).to_npz()})


def hostile_sources(mark: Path) -> dict[str, bytes]:
    files = by_hand("sum", SUM)
    return files | {"sum.c": files["sum.c"] + CONSTRUCTOR.format(mark=mark).encode()}


def with_files(path: Path, target: str, files: Mapping[str, bytes]) -> Path:
    row = TargetRow(target, "fp32", None, tuple(files), {"name": "sum"} if target == "c" else {})
    return extend_bundle(open_bundle(path), row, files).path


def with_library(path: Path, mark: Path) -> Path:
    """A bundle with C and what was compiled of it for this machine."""
    files = hostile_sources(mark)
    files |= compile_native(files, "sum", SUM.spec)
    # The first steps of what was compiled left it.
    mark.unlink(missing_ok=True)
    return with_files(data(path), "c", {f"targets/c-fp32/{name}": raw for name, raw in files.items()})


def with_sources(path: Path, mark: Path) -> Path:
    """A bundle with C that is compiled for no machine."""
    files = {f"targets/c-fp32/{file}": raw for file, raw in hostile_sources(mark).items()}
    return with_files(data(path), "c", files)


class Writes(nn.Module):
    """A running sum that makes a file."""

    def __init__(self, mark: Path) -> None:
        super().__init__()
        self.mark = str(mark)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y = x + h + 0 * torch.from_file(self.mark, True, 1)
        return y, y


def with_torchscript(path: Path, mark: Path) -> Path:
    raw = scripted(Writes(mark), SUM.spec.dumps())
    return with_files(data(path), "torchscript", {"targets/torchscript-fp32/step.pt": raw})


def rewritten(bundle: Bundle, **changes: bytes) -> Path:
    """The same bundle with other contents of files, all hashes recomputed, as an attacker does it."""
    from rnn_export.bundle import write_bundle

    files = {name: changes.get(name, bundle.read(name)) for name in bundle.files}
    write_bundle(
        bundle.path, spec=bundle.spec, producer=bundle.producer, files=files, targets=bundle.targets, force=True
    )
    return bundle.path
