"""Calls that differ between operating systems: locks, renames of folders, a flush to the disk, owners of files.

Linux, macOS and Windows; a missing call is done without, as its function says. Each is looked up on use, but for
`fcntl`, which Windows lacks. Sources: rename(2), flock(2) of Linux; renamex_np(2), fcntl(2) of macOS.
"""

import ctypes
import errno
import os
import platform
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_fcntl: Any = None
with suppress(ImportError):
    import fcntl

    _fcntl = fcntl

# Of Windows: without it a written line feed becomes two bytes. Without O_NONBLOCK a named pipe would wait for ever.
_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
READ = os.O_RDONLY | _BINARY | getattr(os, "O_NONBLOCK", 0)
READ_NO_LINK = READ | getattr(os, "O_NOFOLLOW", 0)
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY

_AT_FDCWD, _NOREPLACE, _EXCHANGE = -100, 1, 2
_SWAP_ON_MAC, _NOREPLACE_ON_MAC = 2, 4
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
_JUNCTION = 0xA0000003  # IO_REPARSE_TAG_MOUNT_POINT
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
# Scanners hold a new file open for a moment on Windows; and who may not write there is to hear of it.
PATIENCE = 2.0


def title() -> str:
    """System, release and processor, for people."""
    return f"{platform.system()} {platform.release()}, {platform.machine()}"


def data_folder() -> Path | None:
    """The folder for data of this user's programs; None where the user has none."""
    local = os.environ.get("LOCALAPPDATA") if os.name == "nt" else os.environ.get("XDG_DATA_HOME")
    base = Path(local or Path(os.path.expanduser("~"), ".local/share"))
    return base if base.is_absolute() else None


def user() -> int | None:
    """The number of this user, by which files belong to somebody; None on Windows, where a folder's ACL says it."""
    return os.geteuid() if hasattr(os, "geteuid") else None


def is_link(path: Path) -> bool:
    """True if `path` is a symlink, or a junction of Windows."""
    return path.is_symlink() or getattr(path.lstat(), "st_reparse_tag", 0) == _JUNCTION


def refused_name(part: str) -> bool:
    """True if a file of that name is something else here: a device, a stream or another name's file of Windows."""
    return os.name == "nt" and (":" in part or part.split(".")[0].lower() in _DEVICES or part[-1:] in ". ")


def fsync(fd: int) -> None:
    """Push a file or a directory to the disk, where the file system can (some network ones cannot for directories)."""
    with _if_offered():
        if full := getattr(_fcntl, "F_FULLFSYNC", None):  # macOS: fsync leaves it in the disk's own memory
            with _if_offered():
                _fcntl.fcntl(fd, full)
                return
        os.fsync(fd)


def fsync_folder(path: Path, push: Callable[[int], None] = fsync) -> None:
    """Push the names in a folder to the disk; Windows opens no folder, and its NTFS keeps a journal of names."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        push(fd)
    finally:
        os.close(fd)


def rename(source: Path, target: Path) -> None:
    """Move a directory to a name that must be free; raises FileExistsError if it is not."""
    if _rename_call(source, target, _NOREPLACE, _NOREPLACE_ON_MAC):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    _patiently(lambda: os.rename(source, target))


def replace(source: Path, target: Path) -> None:
    """Move a file over another one, in one step."""
    _patiently(lambda: os.replace(source, target))


def exchange(one: Path, other: Path) -> bool:
    """Swap two directories in one atomic step; False where system or file system do not offer it."""
    return _rename_call(one, other, _EXCHANGE, _SWAP_ON_MAC)


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Let one thread of one process in at a time, until it ends or dies; False where there are no such locks.

    On Windows it is a file of the folder, which goes with the process that made it.
    """
    if _fcntl is None:
        fd = _lock_file(folder)
        try:
            yield fd is not None
        finally:
            if fd is not None:
                os.close(fd)
        return
    fd, held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | _BINARY), False
    try:
        with suppress(OSError):
            _fcntl.flock(fd, _fcntl.LOCK_EX)
            held = True
        yield held
    finally:
        if held:
            # A child forked meanwhile shares the descriptor: closing alone would not free the lock.
            _fcntl.flock(fd, _fcntl.LOCK_UN)
        os.close(fd)


def _lock_file(folder: Path) -> int | None:
    temporary = getattr(os, "O_TEMPORARY", None)
    if temporary is None:
        return None
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return os.open(folder / ".rnn-export.lock", CREATE | temporary)
        except FileExistsError:
            until = time.monotonic() + PATIENCE
        except PermissionError:  # it is about to go, or nobody may write here
            if time.monotonic() > until:
                return None
        time.sleep(0.01)


def _patiently(action: Callable[[], None]) -> None:
    until = time.monotonic() + (PATIENCE if os.name == "nt" else 0)
    while True:
        try:
            return action()
        except PermissionError:
            if time.monotonic() >= until:
                raise
        time.sleep(0.01)


@contextmanager
def _if_offered() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def _rename_call(source: Path, target: Path, linux: int, mac: int) -> bool:
    """Rename with flags that `rename` lacks; False where that is not offered."""
    names = os.fsencode(source), os.fsencode(target)
    if call := _function("renameat2"):
        failed = call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], linux)
    elif call := _function("renamex_np"):
        failed = call(*names, mac)
    else:
        return False
    if not failed:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))


def _function(name: str) -> Any:
    """A function of the C library; None where that lacks it, and on Windows, which has no library of no name."""
    try:
        return getattr(ctypes.CDLL(None, use_errno=True), name, None)
    except (OSError, TypeError):
        return None


def is_plain(fd: int) -> bool:
    """True if `fd` is a file of bytes: no folder, pipe or device."""
    return stat.S_ISREG(os.fstat(fd).st_mode)
