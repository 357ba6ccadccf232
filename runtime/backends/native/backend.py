"""The step in C, compiled into the bundle for this machine: one call a step, and no library in between.

Where the extension fits this Python, `Stream.step` is itself compiled; else it goes through ctypes, slower and with the
same results. With more than one of `threads` a team of them computes those operators of a step that read many weights.
For more of the machine without any, step more streams, each on a thread of its own.
"""

import ctypes
import hashlib
import importlib.machinery
import importlib.util
import mmap
import os
import sysconfig
import tempfile
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from rnn_export.bundle import TargetRow
from rnn_export.errors import BackendUnavailable, BundleError, NotInBundle
from rnn_export.platform.arrays import Array
from rnn_export.runtime.backends.native.cpu import host_triple, library_name, this_cpu
from rnn_export.runtime.backends.native.record import Record, numpy_major, sources_sha256
from rnn_export.runtime.backends.native.session import FACE, CompiledStep, NativeSession, aligned
from rnn_export.runtime.backends.native.team import Team, check_cores, has_teams
from rnn_export.runtime.protocols import Artefacts, folder, target_row
from rnn_export.runtime.protocols.c_step import contract_sha256

LIBRARY, RECORD = library_name(host_triple()), "build.json"
PAGE = 2**21


class Library(NamedTuple):
    """A loaded library: its functions, as in `FACE`, and the base class of streams where it fits this Python."""

    call: Any
    stepper: type | None


def open_session(artefacts: Artefacts, precision: str | None, device: str | None, threads: int) -> NativeSession:
    """Load the build of the target "c" for this machine, in fp32 where no precision is asked for and it is there.

    More than one of `threads` is taken where the machine has so many cores; a small step runs on one all the same.
    """
    if device not in (None, "cpu"):
        raise BackendUnavailable(f"native has no device {device!r}: use 'cpu'.", id="native-device-unknown")
    rows = [row.precision for row in artefacts.targets if row.target == "c"]
    row = target_row(artefacts, "c", "fp32" if precision is None and "fp32" in rows else precision)
    record = _build_of(artefacts, row)
    path = f"build/{record.triple}/{LIBRARY}"
    try:
        library = _load(artefacts.read(_file(row, path)), record)
    except AttributeError as error:
        raise BackendUnavailable(
            f"{path} was compiled by an rnn-export that did not say for which contract ({error}). {_rebuild(row)}",
            id="native-contract-unsaid",
        ) from error
    except (OSError, ImportError) as error:
        no_exec = "failed to map segment" in str(error)
        fix = "Set TMPDIR to a folder from which programs may be run." if no_exec else _rebuild(row)
        raise BackendUnavailable(f"{path} cannot be loaded: {error}. {fix}", id="native-library-unloadable") from error
    if library.call.rnn_contract() != contract_sha256(artefacts.spec).encode():
        raise BackendUnavailable(
            f"{path} was compiled for other names, types or sizes than the contract says. {_rebuild(row)}",
            id="native-contract-differs",
        )
    weights, team = _weights(artefacts, row, library), None if threads == 1 else _team(library, threads, row)
    return NativeSession(CompiledStep(artefacts.spec, library.call, weights, row.precision, team), library.stepper)


def _file(row: TargetRow, name: str) -> str:
    # The very path: another one that ends alike would be of another machine, and judged with that.
    path = f"{folder('c', row.precision)}/{name}"
    if path not in row.files:
        raise BundleError(f"{_target(row)} has no {name} in the bundle. {_rebuild(row)}", id="native-file-missing")
    return path


def _target(row: TargetRow) -> str:
    return f"target 'c' ({row.precision})"


def _rebuild(row: TargetRow) -> str:
    return f"Build it here: rnn-export build NAME.rnnx --target c --precision {row.precision} --rebuild."


def _build_of(artefacts: Artefacts, row: TargetRow) -> Record:
    """The record of the build for this machine; raises BackendUnavailable where it does not run here."""
    triple, target, fix = host_triple(), _target(row), _rebuild(row)
    places = (path.split("/")[-2:] for path in row.files if path.count("/") > 1)
    found = sorted(machine for machine, file in places if file == library_name(machine))
    if not found:
        raise NotInBundle(f"{target} is not compiled yet for this machine, {triple}. {fix}", id="native-not-compiled")
    if triple not in found:
        what = f"{target} is compiled for {', '.join(found)}"
        raise BackendUnavailable(f"{what}, not for this machine, {triple}. {fix}", id="native-other-machine")
    path = _file(row, f"build/{triple}/{RECORD}")
    record, cpu = Record.from_file(path, artefacts.read(path)), this_cpu()
    if record.features and not cpu.features:
        what = f"{target} is compiled for {', '.join(record.features)}"
        raise BackendUnavailable(
            f"{what}, and nothing says what this CPU has: /proc/cpuinfo does not.", id="native-cpu-unknown"
        )
    if lacking := [word for word in record.features if word not in cpu.features]:
        what = f"{target} is compiled for {', '.join(lacking)}"
        raise BackendUnavailable(
            f"{what}, which this CPU ({cpu.model}) does not have. {fix}", id="native-cpu-features-missing"
        )
    built = f"{folder('c', row.precision)}/build/"
    digest = sources_sha256({path: artefacts.read(path) for path in row.files if not path.startswith(built)})
    if record.sha256 != digest:
        digests = f"sha256 {record.sha256[:12] or 'not recorded'}, not {digest[:12]}"
        raise BackendUnavailable(
            f"{target} was compiled from other sources than the bundle holds ({digests}). {fix}",
            id="native-other-sources",
        )
    return record


def _team(library: Library, threads: int, row: TargetRow) -> Team | None:
    """None where the step has nothing that is worth more than the caller's thread."""
    check_cores(threads)
    if not has_teams(host_triple()):
        fix = "Leave threads out, and step several streams at once, each on a thread of its own"
        raise BackendUnavailable(
            f"threads={threads}: a native step runs on one thread on {host_triple()}. {fix}.", id="native-one-thread"
        )
    try:
        nbytes = int(library.call.rnn_team_bytes())
    except AttributeError as error:
        why = f"{_target(row)} was compiled by an rnn-export whose steps had one thread"
        raise BackendUnavailable(f"threads={threads}: {why}. {_rebuild(row)}", id="native-threads-refused") from error
    return Team(library.call, threads, aligned(nbytes)) if nbytes else None


def _weights(artefacts: Artefacts, row: TargetRow, library: Library) -> Array | None:
    """The weights in memory of their own, in large pages where the kernel gives them; None where they are code."""
    nbytes = int(library.call.rnn_weights_bytes())
    if not nbytes:
        return None
    path = _file(row, f"{row.requires['name']}.bin")
    data = artefacts.read(path)
    # Shared memory, mmap's default, has large pages seldom; Windows knows no other.
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    block = mmap.mmap(-1, len(data) + PAGE, **private)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            block.madvise(mmap.MADV_HUGEPAGE)
    pages = np.frombuffer(block, np.uint8)
    start = -pages.ctypes.data % PAGE
    weights = pages[start : start + len(data)]
    weights[:] = np.frombuffer(data, np.uint8)
    weights.flags.writeable = False
    if library.call.rnn_check(weights.ctypes.data, len(data)):
        why = f"{len(data)} bytes that are not the weights of this step ({nbytes} bytes)"
        raise BackendUnavailable(f"{path} has {why}. {_rebuild(row)}", id="native-weights-differ")
    return weights


_loaded: dict[tuple[str, bool], Library] = {}
_loading = Lock()


def _in_child() -> None:
    """A thread of the parent's may have held it."""
    global _loading
    _loading = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def _load(data: bytes, record: Record) -> Library:
    """The library of `data`, loaded once in a process, from a file that only this process has written."""
    fits = record.python == sysconfig.get_config_var("EXT_SUFFIX") and record.numpy == numpy_major()
    key = hashlib.sha256(data).hexdigest(), fits
    with _loading:
        if key not in _loaded:
            # glibc takes a library of the same name for the same library.
            # Windows keeps the file of a library that is in use.
            with tempfile.TemporaryDirectory(prefix="rnn-export-", ignore_cleanup_errors=os.name == "nt") as folder:
                path = Path(folder, LIBRARY)
                path.write_bytes(data)
                stepper = _extension(str(path)) if fits else None
                call = ctypes.CDLL(str(path))
            for name, (result, arguments) in FACE.items():
                function = getattr(call, name)
                function.restype, function.argtypes = result, arguments
            _loaded[key] = Library(call, stepper)
        return _loaded[key]


def _extension(path: str) -> type | None:
    """Its stepper; None where an earlier release compiled it, whose stepper an interrupt could leave locked."""
    loader = importlib.machinery.ExtensionFileLoader("native", path)
    spec = importlib.util.spec_from_file_location("native", path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    stepper: type = module.Stepper
    return stepper if hasattr(stepper, "_turn") else None
