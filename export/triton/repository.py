"""Write the model repository of a bundle: a directory that Triton serves, with scripts and a README."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rnn_export.bundle import CHECKSUM, Bundle, atomic, open_bundle
from rnn_export.bundle.judgement import judge
from rnn_export.bundle.signature import SIGNATURE
from rnn_export.contract.choices import Precision
from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import BackendUnavailable, ExportError, NotInBundle, Untrusted
from rnn_export.export.triton import pbtxt
from rnn_export.export.triton.config import WIRE_KINDS, Serving, config, data_file
from rnn_export.export.triton.repository_readme import readme
from rnn_export.runtime.backends.remote.wire import BYTES, WireFormat, WireTensor, state_dims
from rnn_export.runtime.build.tensorrt.recipe import shape_flags
from rnn_export.runtime.registry import open_session

REPOSITORY = atomic.DirectoryKind("model repository of rnn-export", "launch")
# Triton 2.51 crashed with a pool smaller than the requests in flight.
FEWEST_REQUESTS = 1024
USUAL_BATCH = 64


@dataclass(frozen=True)
class Repository:
    """The result of `write_repository`, and the steps that remain before it can be served.

    `checked` is True if Triton's own definition read the config: False without tritonclient.
    """

    path: Path
    serving: Serving
    wire: WireFormat
    checked: bool
    remaining: tuple[str, ...]


@dataclass(frozen=True)
class _Model:
    """The folder of a model: its config as a message, its other files, and the remaining steps."""

    config: Mapping[str, Any]
    files: Mapping[str, bytes]
    remaining: tuple[str, ...]


def write_repository(
    bundle: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    backend: str = "python",
    name: str | None = None,
    precision: Precision | None = None,
    streams: int = 256,
    batch: int | None = None,
    idle_s: float = 60.0,
    delay_us: int = 200,
    runtime_backend: str = "auto",
    force: bool = False,
    trust: bool = False,
) -> Repository:
    """Write the repository of one model, all at once: killed at any moment, the old one, the new one or none is there.

    Args:
        bundle: the directory NAME.rnnx.
        path: the repository; its parent must exist.
        backend: of Triton's, "python", "onnxruntime" or "tensorrt".
        name: of the model; None takes that of the bundle.
        precision: None takes what the bundle has: fp32, where it has several.
        streams: the most sequences that are open at a time; more wait.
        batch: the most of them in one step; None is 64, or `streams` where that is less.
        idle_s: seconds without a frame after which a sequence is over.
        delay_us: microseconds that a frame waits for others to share its step.
        runtime_backend: the backend of ours that runs in the python one.
        force: replace a repository that is there; one that holds other models is never replaced.
        trust: the server runs code of the bundle, though nobody trusted has made or signed it.

    Raises ExportError where the bundle cannot be served so, BundleError where it is damaged or `path` is taken.
    """
    opened, path = open_bundle(bundle), Path(path)
    name = opened.path.name.removesuffix(".rnnx") if name is None else name
    # Our runtime steps the rows of a batch one by one where it must; a graph does not.
    rows = None if WIRE_KINDS.get(backend) == BYTES else opened.spec.rows
    _check_rows(batch, rows)
    batch = min(rows or USUAL_BATCH, streams) if batch is None else batch
    serving = Serving(name, backend, precision or "", streams, batch, idle_s, delay_us, runtime_backend)
    serving.check()
    _refuse_model(opened.spec, opened.path)
    wire = WireFormat.of(opened.spec, serving.wire_kind)
    serving = replace(serving, precision=_precision(opened, serving))
    _refuse_other_models(path, serving.name)
    model = _for_our_runtime(opened, serving, trust) if wire.kind == BYTES else _for_graphs(opened, serving)
    text = pbtxt.text(model.config)
    checked = pbtxt.check(text)
    files = {f"models/{serving.name}/{name}": data for name, data in model.files.items()}
    files[f"models/{serving.name}/config.pbtxt"] = text.encode()
    _write(path, files | _scripts(opened.spec, serving, wire), force)
    return Repository(path, serving, wire, checked, model.remaining)


def _check_rows(batch: int | None, rows: int | None) -> None:
    if rows is not None and batch not in (None, rows):
        raise ExportError(
            f"--batch {batch}: the model takes one stream at a time (rows: 1 in its contract), and so does its graph. "
            "Leave it out, or serve with --backend python, which steps the rows of a batch one by one.",
            id="triton-batch-one-row",
        )


def _scripts(spec: StreamSpec, serving: Serving, wire: WireFormat) -> dict[str, bytes]:
    requests = max(FEWEST_REQUESTS, 1 << (serving.streams - 1).bit_length())
    files = {
        "launch": _from_template("launch.sh", REQUESTS=str(requests)),
        "README.md": readme(spec, serving, wire).encode(),
    }
    if serving.backend == "tensorrt":
        files["build"] = _build_script(spec, serving, wire)
    return files


def _build_script(spec: StreamSpec, serving: Serving, wire: WireFormat) -> bytes:
    """A script that writes model.plan beside model.onnx, for 1 to `serving.batch` rows, where it will run."""
    ports = [*wire.inputs, *(WireTensor(s.input, s.dtype, state_dims(s)) for s in spec.states)]
    batches = (1, max(1, serving.batch // 2), serving.batch)
    flags = shape_flags({port.name: tuple((batch, *port.dims) for batch in batches) for port in ports})
    words = ["--onnx=model.onnx", "--saveEngine=model.plan", "--stronglyTyped", "--noTF32", "--skipInference", *flags]
    return _from_template("build.sh", NAME=serving.name, WORDS=shlex.join(words))


def _write(path: Path, files: Mapping[str, bytes], force: bool) -> None:
    place = Path(os.path.realpath(path))
    if not place.parent.is_dir():
        raise ExportError(
            f"{path} cannot be written: the directory {place.parent} does not exist. Make it first.",
            id="triton-directory-missing",
        )
    try:
        atomic.replace_directory(place, files, force, REPOSITORY)
    except OSError as error:
        reason = error.strerror or error
        raise ExportError(
            f"{path} cannot be written: {reason}. Check space and permissions.", id="triton-not-written"
        ) from error


def _for_our_runtime(bundle: Bundle, serving: Serving, trust: bool) -> _Model:
    """The whole bundle, which our own runtime runs in Triton's python backend."""
    if not bundle.spec.digest:
        raise ExportError(
            f"{bundle.path} has no digest, without which no stream can move: export it again.",
            id="triton-without-digest",
        )
    _refuse_runtime_backend(bundle, serving, trust)
    judgement = judge(bundle, trust)
    files = {f"1/{serving.name}.rnnx/{name}": data for name, data in _all_files(bundle).items()}
    files["1/model.py"] = _from_template("model.py.template")
    remaining = ["the Python of the server needs rnn-export and a backend that runs the bundle, as README.md says"]
    if names := dict.fromkeys(code.target for code in judgement.untrusted):
        remaining.append(f"the server passes over {', '.join(names)} unless it trusts its code, which {judgement.why}")
    message = config(bundle.spec, bundle.initial_states(), serving, [code.digest for code in judgement.trusted])
    return _Model(message, files, tuple(remaining))


def _refuse_runtime_backend(bundle: Bundle, serving: Serving, trust: bool) -> None:
    """The server may have parts that this machine lacks, but none that the bundle lacks."""
    if serving.runtime_backend == "auto":
        return
    try:
        open_session(serving.runtime_backend, bundle, serving.precision, None, 1, trust)
    except (NotInBundle, Untrusted) as error:
        raise ExportError(
            f"--runtime-backend {serving.runtime_backend} cannot run {bundle.path}: {error}", id=error.id
        ) from error
    except BackendUnavailable:
        return


def _all_files(bundle: Bundle) -> dict[str, bytes]:
    """Every file of the bundle, all of one writing."""
    files = {name: bundle.read(name) for name in bundle.files}
    for name in (atomic.MANIFEST, CHECKSUM, *[SIGNATURE] * (bundle.signature is not None)):
        with atomic.open_regular(bundle.path, name) as file:
            files[name] = file.read()
    if open_bundle(bundle.path) != bundle:
        raise ExportError(
            f"{bundle.path} was replaced meanwhile: nothing was written. Do it again.", id="triton-bundle-replaced"
        )
    return files


def _for_graphs(bundle: Bundle, serving: Serving) -> _Model:
    """The step as a graph, which Triton's own backends run, keeping its states."""
    # onnx is needed for graphs alone.
    from rnn_export.export.graph.passes.foreign import foreign_graph
    from rnn_export.export.triton.state_io import add_state_io, check_config, state_dtypes

    with foreign_graph("step.onnx", _step(bundle, serving), bundle.spec, serving.backend == "tensorrt") as step:
        graph = add_state_io(step, bundle.spec)
        dtypes = state_dtypes(graph, bundle.spec)
        initial = {name: row.astype(dtypes[name]) for name, row in bundle.initial_states().items()}
        message = config(bundle.spec, initial, serving)
        check_config(message, graph)
    stored = [state for state in bundle.spec.states if initial[state.name].any()]
    files = {"1/model.onnx": graph} | {f"initial_state/{data_file(s)}": initial[s.name].tobytes() for s in stored}
    plan = ("1/model.plan is built where it will run: start ./build there",) if serving.backend == "tensorrt" else ()
    return _Model(message, files, plan)


def _step(bundle: Bundle, serving: Serving) -> bytes:
    """The step graph that Triton's backend runs, in the precision that was chosen."""
    target = "tensorrt" if serving.backend == "tensorrt" else "onnx"
    row = bundle.target(target, serving.precision)
    name = row.file("step.onnx") if row else None
    if name is not None:
        return bundle.read(name)
    from rnn_export.contract.target_options import TargetOptions
    from rnn_export.export.add_target import add_target

    draft = add_target(bundle, target, TargetOptions(serving.precision, batch=(1, serving.batch, serving.batch)))
    return draft.read(str(draft.targets[0].file("step.onnx")))


def _refuse_model(spec: StreamSpec, path: Path) -> None:
    if spec.sequence_only:
        raise ExportError(
            f"{path} cannot stream, for the model needs whole sequences: there is no step to serve.",
            id="triton-sequence-only",
        )
    if not spec.states:
        raise ExportError(
            f"{path} has no state, so its frames are no sequences: serve its step.onnx as any other model of Triton's "
            "onnxruntime backend.",
            id="triton-without-state",
        )


def _precision(bundle: Bundle, serving: Serving) -> str:
    """The one asked for, where the bundle has it or a graph can be written in it; else fp32, or the only one."""
    target = {"python": None, "onnxruntime": "onnx", "tensorrt": "tensorrt"}[serving.backend]
    rows = [row for row in bundle.targets if target in (None, row.target)]
    has = list(dict.fromkeys(row.precision for row in rows))
    if serving.precision:
        if serving.precision not in has and target != "tensorrt":
            found = f"{', '.join(has) or 'nothing'} for --backend {serving.backend}"
            raise ExportError(f"{bundle.path} has {found}, not {serving.precision}.", id="triton-precision-missing")
        return serving.precision
    if len(has) > 1 and "fp32" not in has:
        raise ExportError(
            f"{bundle.path} is there in {', '.join(has)}: say which, --precision P.", id="triton-precision-unsaid"
        )
    return has[0] if len(has) == 1 else "fp32"


def _refuse_other_models(path: Path, name: str) -> None:
    """A repository is replaced as a whole, which must not cost somebody a model."""
    models = path / "models"
    others = sorted(found.name for found in models.iterdir() if found.name != name) if models.is_dir() else []
    if others:
        raise ExportError(
            f"{path} holds {', '.join(others)}, and is replaced as a whole: write {name!r} to another directory. "
            f"Triton serves several: {path / 'launch'} --model-repository=OTHER/models",
            id="triton-other-models",
        )


def _from_template(file: str, **values: str) -> bytes:
    """The file of this folder, `@KEY@` in it replaced by the value of KEY."""
    text = Path(__file__).with_name(file).read_text()
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text.encode()
