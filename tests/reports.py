"""Bundles for tests of the report: a plain one, and one whose every word is meant to get out of a page."""

import json
from pathlib import Path
from typing import Any

from rnn_export.bundle import Bundle, TargetRow, write_bundle
from rnn_export.bundle.proofs import held_at_export
from rnn_export.contract.spec import Assumption, StateSpec, StreamSpec, TensorSpec

# What a browser would run, load, close or turn around, if it were let.
HOSTILE = (
    "<script>document.title='ran'</script>", '"><img src=x onerror="document.title=\'ran\'">', "</style></title></svg>",
    "' onload='document.title=1", "javascript:alert(1)", "&lt;b&gt;&#60;i&#62;", "\u202egnp.exe", "line\nfeed\x1b[31m",
    "x" * 400, "<iframe srcdoc='<script>1</script>'>", "]]><!--", "<base href=//evil.example>",
)  # fmt: skip
WORD = HOSTILE[0] + HOSTILE[1]


def states(names: Any, size: int = 8) -> tuple[StateSpec, ...]:
    return tuple(StateSpec(name, name, f"{name}.next", "float32", ("batch", size)) for name in names)


def drifts(backend: str, tensors: Any, steps: int = 256, kind: str = "noise", error: float = 2e-6) -> list[Any]:
    def curve(number: int) -> list[list[float]]:
        points = range(1, steps + 1, max(1, steps // 16))
        return [[step, error * (number + 1) * (1 - 0.9 / step)] for step in points]

    return [
        {"check": f"{backend}{check}", "tensor": tensor, "error": error, "relative": error * (number + 1),
         "scale": 1.0, "step": None, "curve": curve(number), "kind": kind}
        for number, check in enumerate(("step", "chunked", "pool"))
        for tensor in tensors
    ]  # fmt: skip


def evidence(tensors: Any, rows: Any, /, **more: Any) -> dict[str, Any]:
    return {
        "source": "noise", "notes": [], "backend": "onnxruntime, native", "device": "cpu", "frames": 256, "rows": 2,
        "steps": 256, "tolerance": {"atol": 1e-6, "rtol": 2e-5}, "not_judged": {}, "figures": {}, "ok": True,
        "drifts": [*drifts("onnxruntime.", tensors), *drifts("native.", tensors, error=4e-6)], "not_exercised": [],
        "fp16_accumulate": [], "targets": held_at_export(rows), **more,
    }  # fmt: skip


def row(target: str, precision: str, names: tuple[str, ...], **requires: Any) -> TargetRow:
    return TargetRow(target, precision, 18 if target == "onnx" else None, names, requires)


def plain(path: Path, /, report: bool = True, **more: Any) -> Bundle:
    """A step with a delay and a tail, in ONNX and C, compiled for two machines, one of them after the export."""
    x, y = TensorSpec("x", "float32", ("batch", "time", 4)), TensorSpec("y", "float32", ("batch", "time", 2), (0, 1))
    end = StateSpec("end", "end", "end.next", "float32", ("batch", 1))
    spec = StreamSpec((x,), (y,), (*states("abcdefgh"), end), chunk=2, delay=4, digest="d" * 64, end="end")
    c = "targets/c-fp32"
    here, there = (f"{c}/build/{triple}/build.json" for triple in ("x86_64-linux-gnu", "cortex-m4"))
    exported = row("c", "fp32", (f"{c}/a.c", here), name="a")
    rows = [row("onnx", "fp32", ("step.onnx",)), row("c", "fp32", (f"{c}/a.c", here, there), name="a")]
    told = evidence(["y", "a"], [rows[0], exported], **more)
    built = {"triple": "t", "compiler": "gcc 12", "features": ["avx2"], "flash": 4096, "ram": 2048, "stack": 512}
    files = {
        "step.onnx": b"o" * 5000, "parity.json": json.dumps(told).encode(), f"{c}/a.c": b"int a;\n",
        here: json.dumps(built).encode(), there: json.dumps(built).encode(),
    }  # fmt: skip
    return write_bundle(
        path, spec=spec, producer={"rnn-export": "0"}, files=files, targets=rows, weights=1234, report=report
    )


def hostile(folder: Path) -> Bundle:
    """Every word that a stranger chooses is an attack, the bundle's own name too."""
    spec = StreamSpec(
        tuple(TensorSpec(f"{name} in", "float32", ("batch", 4)) for name in HOSTILE),
        tuple(TensorSpec(f"{name} out", "float32", ("batch", 2)) for name in HOSTILE),
        states(HOSTILE),
        digest="d" * 64,
        assumptions=(Assumption(WORD, True, "said"),),
    )
    triple = "<script>alert(1)<"
    c = "targets/c-fp32"
    names = (f"{c}/a.c", f"{c}/build/{triple}/build.json", f"{c}/build/{triple}/parity.json")
    rows = [row("onnx", "fp32", ("step.onnx",)), row("evil", "fp32", (), **{WORD: WORD}), row("c", "fp32", names)]
    rows[2] = row("c", "fp32", names, name="a")
    told = evidence(
        HOSTILE, rows, source=WORD, notes=[*HOSTILE], backend=f"{WORD}, native", device=WORD,
        not_judged={WORD: WORD}, figures={WORD: 1.0}, not_exercised=[{"op": WORD, "place": WORD, "never": WORD}] * 20,
    )  # fmt: skip
    for drift in told["drifts"]:
        drift.update(
            kind=WORD, check=f"{drift['check']}{WORD}", curve=[[1, None], ["x", 1], [2], 3, [4, 1e300], [9, "y"]]
        )
    told["fp16_accumulate"] = [dict(told), {"backend": WORD}, WORD]
    built = {"triple": WORD, "compiler": WORD, "features": [*HOSTILE, {"a": 1}], "flash": True, "ram": -1}
    built["selftest"] = {"ran": WORD, "lines": [*HOSTILE, f"largest error {WORD}", {"a": 1}]}
    files = {
        "step.onnx": b"o", "parity.json": json.dumps(told).encode(), "<img src=x>.txt": b"", names[0]: b"",
        names[1]: json.dumps(built).encode(), names[2]: json.dumps(told).encode(),
    }  # fmt: skip
    return write_bundle(
        folder / "<script>1<.rnnx", spec=spec, producer={WORD: WORD}, files=files, targets=rows, report=True
    )


def bench_of(bundle: Bundle, manifest: str, word: str = "native") -> dict[str, Any]:
    """A bench's result of `bundle`, as far as a report shows it."""
    engines = [
        {"name": f"{word} {number}", "p50": 10.0 * number, "p90": 12.0 * number, "p99": 20.0 * number,
         "steps_per_second": 1e5 / number}
        for number in (1, 2, 3)
    ]  # fmt: skip
    machine = {"cpu": word}
    return {
        "digest": bundle.spec.digest, "manifest": manifest, "engines": engines, "machine": machine, "frames_a_step": 2,
    }  # fmt: skip
