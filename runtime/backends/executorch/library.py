"""ExecuTorch's runtime, or why it is not here; and its report of an error.

Its bindings are imported by themselves: `executorch.runtime` imports the whole converter before them, which takes
seconds, and libraries that print.
"""

import ctypes
import os
import threading
from contextlib import suppress
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from rnn_export.errors import BackendUnavailable
from rnn_export.platform.installing import pip_install

try:
    import executorch

    # Before the bindings, whose libraries are linked to torch's.
    import torch
    from executorch.extension.pybindings import _C
except ImportError as error:
    raise BackendUnavailable(
        f"executorch, or torch which it needs in Python, is not here ({error}): {pip_install('executorch')}.",
        id="executorch-missing",
    ) from error

__all__ = ["cause", "has_xnnpack", "open_program", "torch", "version"]

_messages = threading.local()


def open_program(raw: bytes) -> Any:
    """A program of its own on the file `raw`, which must stay as long as it does; raises RuntimeError.

    Not shared, since all methods of one program lie in the same memory.
    """
    return _C._load_program_from_buffer(raw, program_verification=_C.Verification.InternalConsistency)


def has_xnnpack() -> bool:
    """True if XNNPACK is linked, as the target `executorch` needs it."""
    return bool(_C._is_available("XnnpackBackend"))


def version() -> str:
    """The version, as "1.5.1"."""
    return version_of("executorch")


def cause(error: Exception) -> str:
    """The reason of an error that this thread met: the bindings raise a number, and ExecuTorch logs the rest."""
    lines: list[str] = getattr(_messages, "lines", [])
    _messages.lines = []
    return "; ".join(" ".join(line.split()) for line in lines) or " ".join(str(error).split())


# What a platform does, in the order of `PalImpl` of `runtime/platform/platform.h`.
_FIELDS = ("init", "abort", "current_ticks", "ticks_to_ns_multiplier", "emit_log_message", "allocate", "free")


class _Platform(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in _FIELDS]


def _listen(time: int, level: int, file: bytes, function: bytes, line: int, text: int, length: int) -> None:
    """Keep an error for `cause`; other messages are for developers of ExecuTorch."""
    message = ctypes.string_at(text, length).decode(errors="replace")
    if chr(level) == "E" and not message.startswith("arg "):
        _messages.lines = [*getattr(_messages, "lines", [])[-5:], message]
    elif chr(level) == "F":
        os.write(2, f"ExecuTorch ends this process: {message}\n".encode())


# Kept here, since ExecuTorch has its address alone.
_LISTENER = ctypes.CFUNCTYPE(
    None, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p,
    ctypes.c_size_t,
)(_listen)  # fmt: skip


def _listen_in() -> None:
    """Have ExecuTorch log to `_listen` in place of printing, unless its table is not the known one."""
    (file,) = Path(executorch.__path__[0], "lib").glob("libexecutorch.*")
    library = ctypes.CDLL(str(file))
    find = library._ZN10executorch7runtime12get_pal_implEv
    find.restype = ctypes.POINTER(_Platform)
    table = find().contents
    for field in _FIELDS:
        usual = ctypes.cast(getattr(library, f"et_pal_{field}"), ctypes.c_void_p).value
        if field != "emit_log_message" and getattr(table, field) != usual:
            return
    # Its own way to set this, register_pal, prints that it was called.
    table.emit_log_message = ctypes.cast(_LISTENER, ctypes.c_void_p).value


# On another system, or with another release, it may go on to print.
with suppress(AttributeError, OSError, ValueError):
    _listen_in()
