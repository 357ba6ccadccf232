"""Hand-written C for the models of `graphs`, by the contract of the C target, and bundles that hold it compiled."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rnn_export.bundle import Bundle, TargetRow, extend_bundle, open_bundle
from rnn_export.bundle.draft import Draft
from rnn_export.contract.spec import DTYPES, StreamSpec, TensorSpec, sized
from rnn_export.export.targets.c.writer import sources as write
from rnn_export.runtime.build.c_names import identifier, identifiers
from rnn_export.runtime.build.native.compilation import compile_native

from ..trusting import trusted  # noqa: TID252
from .graphs import MODELS, TABLE, Model

# The C writer knows their operators and dtypes; the others stay written by hand.
WRITTEN = {
    "sum",
    "stored",
    "largest",
    "pair",
    "tokens",
    *(f"previous_{dtype}" for dtype in ("float32", "int64", "int32", "bool")),
}
C_TYPES = {
    "float32": "float",
    "float64": "double",
    "bool": "uint8_t",
    **{f"{u}int{n}": f"{u}int{n}_t" for u in ("", "u") for n in (8, 16, 32, 64)},
    # The toys only copy it.
    "float16": "uint16_t",
}

ALONG_TIME = """
    for (int t = 0; t < T; t++)
        for (int i = 0; i < 3; i++) s->h[i] = all[t][i] = s->h[i] + x[3 * t + i];
    memcpy(y, all, sizeof all);
"""
FEWER = """
    for (int t = 0; t < T; t++)
        for (int i = 0; i < 3; i++) s->h[i] = all[t][i] = s->h[i] + x[3 * t + i];
    for (int t = 1; t < T; t += 2) memcpy(y + 3 * (t / 2), all[t], sizeof all[t]);
    memcpy(total, s->h, sizeof s->h);
"""
PAIR = """
    for (int i = 0; i < 2; i++) {
        s->s[i] += a[i];
        s->p[i] += a[i] * b[i];
    }
    memcpy(sum, s->s, sizeof s->s);
    memcpy(dot, s->p, sizeof s->p);
"""
MIXED = """
    float last[3];
    for (int t = 0; t < T; t++)
        for (int i = 0; i < 3; i++) {
            s->h[i] += x[3 * t + i] + z[t];
            all[t][i] = s->h[i] * gain[i];
            last[i] = all[t][i];
        }
    memcpy(y, all, sizeof all);
    memcpy(total, last, sizeof last);
"""
TOKENS = """
    long long at = id[0] < 0 ? id[0] + 5 : id[0];
    for (int i = 0; i < 2; i++) y[i] = s->h[i] += table[2 * at + i];
"""
TWINS = """
    for (int i = 0; i < 3; i++) {
        float v = x[i];
        s->u[i] += v;
        s->v[i] += 2 * v;
        y[i] = s->u[i] - s->v[i];
    }
"""
PREVIOUS = "    {type} before = s->h[0];\n    s->h[0] = x[0];\n    y[0] = before;\n"
BODIES = {
    **dict.fromkeys(
        ["sum", "stored", "timed", "chunked", "by_step", "delayed", "delayed_chunked", "time_major"], ALONG_TIME
    ),
    **dict.fromkeys(["fewer", "fewer_delayed", "fewer_delayed_less", "fewer_by_step"], FEWER),
    **dict.fromkeys(["mixed", "mixed_by_step"], MIXED),
    **dict.fromkeys(["tokens", "tokens_timed"], TOKENS),
    "pair": PAIR,
    "twins": TWINS,
    **{f"previous_{dtype}": PREVIOUS.replace("{type}", C_TYPES[dtype]) for dtype in DTYPES},
}


def sources(
    name: str,
    spec: StreamSpec,
    body: str,
    initial: Mapping[str, np.ndarray] | None = None,
    before: str = "",
    macros: str = "",
    macs: int = 10,
    weights: bytes | None = None,
) -> dict[str, bytes]:
    """NAME.h and NAME.c whose step has `body`; `s` is the state, T the chunk, `all` room for 3 values a frame.

    `weights` makes NAME.bin of it, float32 values that the state's `weights` points to.
    """
    upper, members = name.upper(), identifiers([s.name for s in spec.states])
    names = identifiers([t.name for t in (*spec.inputs, *spec.outputs)])
    fields = [f"    {C_TYPES[s.dtype]} {m}[{math.prod(s.row)}];" for m, s in zip(members, spec.states, strict=True)]
    fields = ["    const void *weights;"] * (weights is not None) + fields
    sizes = [
        f"#define {upper}_{n.upper()}_SIZE {_count(t, spec)}"
        for n, t in zip(names, (*spec.inputs, *spec.outputs), strict=True)
    ]
    ins = [f"const {C_TYPES[t.dtype]} *{n}" for n, t in zip(names, spec.inputs, strict=False)]
    outs = [f"{C_TYPES[t.dtype]} *{n}" for n, t in zip(names[len(ins) :], spec.outputs, strict=True)]
    parameters = ", ".join([f"{name}_state *s", *ins, *outs])
    given = ", ".join([f"{n} + k * {upper}_{n.upper()}_SIZE" for n in names])
    also = ", const void *weights" if weights is not None else ""
    checks = [f"int {name}_check(const void *weights, size_t bytes);"] if weights is not None else []
    header = [
        "#include <stddef.h>",
        "#include <stdint.h>",
        f"typedef struct {{\n{chr(10).join(fields)}\n}} {name}_state;",
        f"#define {upper}_MACS {macs}",
        f"#define {upper}_STACK_BYTES 1024",
        *([f"#define {upper}_WEIGHTS_BYTES {len(weights)}"] if weights is not None else []),
        *sizes,
        macros,
        f"void {name}_init({name}_state *s{also});",
        *checks,
        f"void {name}_step({parameters});",
        f"void {name}_run({parameters}, size_t steps);",
    ]
    stored = [
        f"    s->{m}[{i}] = ({C_TYPES[s.dtype]}){value};"
        for m, s in zip(members, spec.states, strict=True)
        for i, value in enumerate((initial or {}).get(s.name, np.zeros(0)).reshape(-1).tolist())
    ]
    code = [
        f'#include "{name}.h"',
        "#include <string.h>",
        f"#define T {spec.chunk}",
        before,
        f"void {name}_init({name}_state *s{also})\n{{\n    memset(s, 0, sizeof *s);",
        *(["    s->weights = weights;"] if weights is not None else []),
        *stored,
        "}",
        f"void {name}_step({parameters})\n{{\n    float all[T][3];\n    (void)all;{body}}}",
        f"void {name}_run({parameters}, size_t steps)",
        f"{{\n    for (size_t k = 0; k < steps; k++) {name}_step(s, {given});\n}}",
    ]
    files = {f"{name}.h": "\n".join(header).encode(), f"{name}.c": "\n".join(code).encode()}
    if weights is not None:
        check = f"int {name}_check(const void *weights, size_t bytes)\n{{\n    return bytes != {len(weights)}"
        files[f"{name}.c"] += f"\n{check} || *(const uint8_t *)weights != {weights[0]};\n}}\n".encode()
        files[f"{name}.bin"] = weights
    return files


def _count(tensor: TensorSpec, spec: StreamSpec) -> int:
    return math.prod(sized(tensor.shape, 1, spec.chunk))


def model_sources(name: str) -> dict[str, bytes]:
    """C of a model of `graphs`: from the writer where it knows it, else by hand."""
    model = MODELS[name]
    if name in WRITTEN:
        initial = {s.name: np.asarray(model.initial.get(s.name, np.zeros(s.row)), s.dtype) for s in model.spec.states}
        return dict(write(model.files()["step.onnx"], model.spec, initial, identifier(name)))
    return by_hand(name, model)


def by_hand(name: str, model: Model) -> dict[str, bytes]:
    values = ", ".join(map(str, TABLE.reshape(-1).tolist()))
    tokens = name.startswith("tokens")
    return sources(
        identifier(name),
        model.spec,
        BODIES[name],
        model.initial,
        before=f"static const float table[] = {{{values}}};" if tokens else "",
        macros=f"#define {name.upper()}_ID_ROWS {len(TABLE)}" if tokens else "",
    )


def with_native(
    path: Path, files: Mapping[str, bytes], name: str, built: Mapping[str, bytes] | None = None, precision: str = "fp32"
) -> Bundle:
    """The bundle with a target "c" of `files`, compiled for this machine, or as `built` says."""
    bundle = open_bundle(path)
    built = compile_native(files, name, bundle.spec) if built is None else built
    place = f"targets/c-{precision}"
    written = {f"{place}/{file}": data for file, data in {**files, **built}.items()}
    row = TargetRow("c", precision, None, tuple(written), {"name": name, "libm": False})
    extended = extend_bundle(bundle, row, written)
    trusted(extended)
    return extended


def draft(
    files: Mapping[str, bytes],
    spec: StreamSpec,
    initial: Mapping[str, np.ndarray] | None = None,
    name: str = "toy",
    precision: str = "fp32",
    **options,
) -> Draft:
    """A bundle that was never written, with nothing but `files` compiled for this machine."""
    written = {
        f"targets/c-{precision}/{n}": d for n, d in {**files, **compile_native(files, name, spec, **options)}.items()
    }
    zeros = {s.name: np.zeros(s.row, s.dtype) for s in spec.states}
    return Draft(
        spec, written, (TargetRow("c", precision, None, tuple(written), {"name": name}),), {**zeros, **(initial or {})}
    )
