"""Remove all Unix-only features from a fresh process, in which this module is imported first.

It is no Windows: paths and processes stay those of this system. What it shows is that nothing of Unix is asked for.
"""

import builtins
import ctypes
import io
import mmap
import os
import shutil
import sys
from pathlib import Path
from typing import Any

GONE = ("fcntl", "resource", "pwd", "grp", "termios", "pty", "posixshm", "_posixshmem")
NAMES = (
    "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "O_CLOEXEC", "fork", "register_at_fork", "geteuid", "getuid", "getgid",
    "uname", "sched_getaffinity", "sched_setaffinity", "mkfifo", "chown",
)  # fmt: skip


class Refuse:
    """An import of what Windows has not."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name in GONE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def take_away() -> None:
    """Call it before anything of rnn_export is imported."""
    for name in GONE:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Refuse())  # type: ignore[arg-type]
    for name in NAMES:
        if hasattr(os, name):
            delattr(os, name)
    for name in ("MAP_PRIVATE", "MAP_ANONYMOUS", "MADV_HUGEPAGE"):
        delattr(mmap, name)
    os.O_BINARY = os.O_TEMPORARY = 0  # type: ignore[attr-defined]
    _open, _builtin, _load, _rename, _close = os.open, builtins.open, ctypes.CDLL, os.rename, os.close
    temporary: dict[int, Path] = {}

    def open_(path: Any, flags: int, mode: int = 0o777, **rest: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        fd = _open(path, flags, mode, **rest)
        if str(path).endswith(".rnn-export.lock"):
            temporary[fd] = Path(path)
        return fd

    def close(fd: int) -> None:
        _close(fd)
        if fd in temporary:
            temporary.pop(fd).unlink()

    def builtin(file: Any, *rest: Any, **more: Any) -> Any:
        if str(file).startswith("/proc/"):
            raise FileNotFoundError(2, "No such file or directory", str(file))
        return _builtin(file, *rest, **more)

    def load(name: Any = None, *rest: Any, **more: Any) -> Any:
        if name is None:
            raise TypeError("argument of type 'NoneType' is not iterable")
        return _load(name, *rest, **more)

    def rename(source: Any, target: Any, **rest: Any) -> None:
        if os.path.lexists(target):
            raise FileExistsError(17, "File exists", str(target))
        _rename(source, target, **rest)

    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    os.open, os.close, os.rename = open_, close, rename  # type: ignore[assignment]
    builtins.open = io.open = builtin  # type: ignore[assignment]
    ctypes.CDLL = load  # type: ignore[misc,assignment]
