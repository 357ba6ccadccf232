"""The model repository of a bundle: a directory that Triton serves, with what starts it and what a caller must know."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rnn_export.arrays import Array
from rnn_export.bundle import CHECKSUM, Bundle, atomic, open_bundle
from rnn_export.errors import BackendUnavailable, ExportError, NotInBundle
from rnn_export.export.triton import pbtxt
from rnn_export.export.triton.config import WIRES, Serving, config, data_file
from rnn_export.export.triton.readme import readme
from rnn_export.export.triton.wire import BYTES, Wire
from rnn_export.runtime.registry import BACKENDS, open_session
from rnn_export.spec import StreamSpec

REPOSITORY = atomic.DirectoryKind("model repository of rnn-export", "launch")
# Triton 2.51 crashed with a pool smaller than the requests in flight.
FEWEST_REQUESTS = 1024
USUAL_BATCH = 64
# Triton's numbers are of 32 bits.
MOST = 2**31 - 1


@dataclass(frozen=True)
class Repository:
    """What `write_repository` wrote.

    Attributes:
        path: of the repository.
        serving: how the model is served.
        wire: what goes over the wire.
        checked: whether Triton's own definition read the config; False where tritonclient is not here.
        left: what is still to be done before it can be served.
    """

    path: Path
    serving: Serving
    wire: Wire
    checked: bool
    left: tuple[str, ...]


def write_repository(
    bundle: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    backend: str = "python",
    name: str | None = None,
    precision: str | None = None,
    streams: int = 256,
    batch: int | None = None,
    idle_s: float = 60.0,
    delay_us: int = 200,
    runtime_backend: str = "auto",
    force: bool = False,
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
        runtime_backend: which backend of ours runs in the python backend.
        force: replace a repository that is there; one that holds other models is never replaced.

    Raises ExportError where the bundle cannot be served so, BundleError where it is damaged or `path` is taken.
    """
    opened, path = open_bundle(bundle), Path(path)
    serving = Serving(
        name=opened.path.name.removesuffix(".rnnx") if name is None else name,
        backend=backend,
        precision=precision or "",
        streams=streams,
        batch=min(USUAL_BATCH, streams) if batch is None else batch,
        idle_s=idle_s,
        delay_us=delay_us,
        runtime_backend=runtime_backend,
    )
    _check(serving)
    _refuse_model(opened.spec, opened.path, serving)
    serving = replace(serving, precision=_precision(opened, serving))
    _refuse_other_models(path, serving.name)
    message, files, left = _python(opened, serving) if WIRES[backend] == BYTES else _graph(opened, serving)
    text = pbtxt.text(message)
    checked = pbtxt.check(text)
    wire = Wire.of(opened.spec, WIRES[backend])
    here = f"models/{serving.name}"
    requests = str(max(FEWEST_REQUESTS, 1 << (streams - 1).bit_length()))
    place = Path(os.path.realpath(path))
    if not place.parent.is_dir():
        raise ExportError(f"{path} cannot be written: the directory {place.parent} does not exist. Make it first.")
    whole = {
        **{f"{here}/{file}": data for file, data in files.items()},
        f"{here}/config.pbtxt": text.encode(),
        "launch": _beside("launch.sh").replace(b"@REQUESTS@", requests.encode()),
        "README.md": readme(opened.spec, serving, wire).encode(),
    }
    if backend == "tensorrt":
        from rnn_export.export.triton.plan import build_script

        whole["build"] = build_script(opened.spec, serving, wire).encode()
    try:
        atomic.replace_directory(place, whole, force, REPOSITORY)
    except OSError as error:
        raise ExportError(
            f"{path} cannot be written: {error.strerror or error}. Check space and permissions."
        ) from error
    return Repository(path, serving, wire, checked, left)


Written = tuple[Mapping[str, object], Mapping[str, bytes], tuple[str, ...]]


def _python(bundle: Bundle, serving: Serving) -> Written:
    if not bundle.spec.digest:
        raise ExportError(f"{bundle.path} has no digest, without which no stream can move: export it again.")
    _refuse_runtime_backend(bundle, serving)
    files = {f"1/{serving.name}.rnnx/{name}": data for name, data in _whole(bundle).items()}
    files["1/model.py"] = _beside("model.py")
    left = ("the Python of the server needs rnn-export and a backend that runs the bundle, as README.md says",)
    return config(bundle.spec, bundle.initial_states(), serving), files, left


def _refuse_runtime_backend(bundle: Bundle, serving: Serving) -> None:
    """The server may have what is missing on this machine, but nothing that is missing in the bundle."""
    if serving.runtime_backend == "auto":
        return
    try:
        open_session(serving.runtime_backend, bundle, serving.precision, None, 1)
    except NotInBundle as error:
        raise ExportError(f"--runtime-backend {serving.runtime_backend} cannot run {bundle.path}: {error}") from error
    except BackendUnavailable:
        return


def _whole(bundle: Bundle) -> dict[str, bytes]:
    """Every file of the bundle, all of one writing."""
    files = {name: bundle.read(name) for name in bundle.files}
    for name in (atomic.MANIFEST, CHECKSUM):
        with atomic.open_regular(bundle.path, name) as file:
            files[name] = file.read()
    if open_bundle(bundle.path) != bundle:
        raise ExportError(f"{bundle.path} was replaced meanwhile: nothing was written. Do it again.")
    return files


def _graph(bundle: Bundle, serving: Serving) -> Written:
    # onnx is needed for graphs alone.
    from rnn_export.export.triton.state_io import check_config, movable, state_kinds

    graph = movable(_step(bundle, serving), bundle.spec)
    kinds = state_kinds(graph, bundle.spec)
    initial = {name: row.astype(kinds[name]) for name, row in bundle.initial_states().items()}
    message = config(bundle.spec, initial, serving)
    check_config(message, graph)
    files = {"1/model.onnx": graph, **_initial_files(bundle.spec, initial)}
    left = ("1/model.plan is built where it will run: start ./build there",) if serving.backend == "tensorrt" else ()
    return message, files, left


def _step(bundle: Bundle, serving: Serving) -> bytes:
    """The step graph that Triton's backend runs, in the precision that was chosen."""
    target = "tensorrt" if serving.backend == "tensorrt" else "onnx"
    row = bundle.target(target, serving.precision)
    name = row.file("step.onnx") if row else None
    if name is not None:
        return bundle.read(name)
    from rnn_export.export.add_target import add_target
    from rnn_export.target_options import TargetOptions

    draft = add_target(bundle, target, TargetOptions(serving.precision, batch=(1, serving.batch, serving.batch)))
    return draft.read(str(draft.targets[0].file("step.onnx")))


def _initial_files(spec: StreamSpec, initial: Mapping[str, Array]) -> dict[str, bytes]:
    stored = [state for state in spec.states if initial[state.name].any()]
    return {f"initial_state/{data_file(s)}": initial[s.name].tobytes() for s in stored}


def _check(serving: Serving) -> None:
    if serving.backend not in WIRES:
        raise ExportError(f"Triton's backend is one of {', '.join(WIRES)}, not {serving.backend!r}.")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", serving.name):
        raise ExportError(
            f"the model cannot be called {serving.name!r}: its name is a folder and part of an address, so it has "
            "letters, digits, '_', '-' and '.' alone. Choose one with --name."
        )
    if not 0.001 <= serving.idle_s <= MOST:
        raise ExportError(f"--idle {serving.idle_s}: give seconds from 0.001 to {MOST}.")
    for flag, number, least in (
        ("streams", serving.streams, 1),
        ("batch", serving.batch, 1),
        ("delay-us", serving.delay_us, 0),
    ):
        if type(number) is not int or not least <= number <= MOST:
            raise ExportError(f"--{flag} {number!r}: give a whole number from {least} to {MOST}.")
    if serving.batch > serving.streams:
        raise ExportError(
            f"--batch {serving.batch} is more than --streams {serving.streams}: no step can have more rows than there "
            "are streams. Choose a smaller batch or more streams."
        )
    if serving.runtime_backend != "auto" and serving.backend != "python":
        raise ExportError(
            f"--runtime-backend {serving.runtime_backend} is for --backend python, where our runtime runs: leave it "
            "out."
        )
    if serving.runtime_backend not in ("auto", *BACKENDS):
        raise ExportError(f"--runtime-backend {serving.runtime_backend}: choose auto or one of {', '.join(BACKENDS)}.")


def _refuse_model(spec: StreamSpec, path: Path, serving: Serving) -> None:
    if spec.sequence_only:
        raise ExportError(f"{path} cannot stream, for the model needs whole sequences: there is no step to serve.")
    if not spec.states:
        raise ExportError(
            f"{path} has no state, so its frames are no sequences: serve its step.onnx as any other model of Triton's "
            "onnxruntime backend."
        )
    Wire.of(spec, WIRES[serving.backend])


def _precision(bundle: Bundle, serving: Serving) -> str:
    """The one asked for, where the bundle has it or a graph can be written in it; else fp32, or the only one."""
    wanted = {"python": None, "onnxruntime": "onnx", "tensorrt": "tensorrt"}[serving.backend]
    rows = [row for row in bundle.targets if wanted in (None, row.target)]
    has = list(dict.fromkeys(row.precision for row in rows))
    if serving.precision:
        if serving.precision not in has and wanted != "tensorrt":
            raise ExportError(
                f"{bundle.path} has {', '.join(has) or 'nothing'} for --backend {serving.backend}, not "
                f"{serving.precision}."
            )
        return serving.precision
    if len(has) > 1 and "fp32" not in has:
        raise ExportError(f"{bundle.path} is there in {', '.join(has)}: say which, --precision P.")
    return has[0] if len(has) == 1 else "fp32"


def _refuse_other_models(path: Path, name: str) -> None:
    """A repository is replaced as a whole, which must not cost somebody a model."""
    models = path / "models"
    others = sorted(found.name for found in models.iterdir() if found.name != name) if models.is_dir() else []
    if others:
        raise ExportError(
            f"{path} holds {', '.join(others)}, and is replaced as a whole: write {name!r} to another directory. "
            f"Triton serves several: {path / 'launch'} --model-repository=OTHER/models"
        )


def _beside(name: str) -> bytes:
    return Path(__file__).with_name(name).read_bytes()
