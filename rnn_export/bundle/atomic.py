"""The file system under a bundle: a directory appears or is replaced all at once; only plain files are read.

`write`, `fsync`, `mkdir`, `rename`, `exchange` and `remove` are the only places where the disk is changed.
"""

import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from rnn_export.errors import BundleError
from rnn_export.platform import host

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class DirectoryKind:
    """A kind of directory: its name, and the file that marks it; one without that is never replaced."""

    name: str
    marker: str

    def is_at(self, path: Path) -> bool:
        """True if `path` is such a directory, sound or not."""
        return (path / self.marker).is_file()


BUNDLE = DirectoryKind("bundle", MANIFEST)


def write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def fsync(fd: int) -> None:
    """Push a file or a directory to the disk, where the file system can (some network ones cannot for directories)."""
    host.fsync(fd)


def mkdir(path: Path) -> None:
    os.mkdir(path)


def rename(source: Path, target: Path) -> None:
    """Move a directory to a name that must be free; raises FileExistsError if it is not."""
    host.rename(source, target)


def exchange(one: Path, other: Path) -> bool:
    """Swap two directories in one atomic step; False where system or file system do not offer it."""
    return host.exchange(one, other)


def remove(tree: Path) -> None:
    """Delete a hidden leftover. The next write retries a deletion that fails now."""
    shutil.rmtree(tree, ignore_errors=True)


def replace_directory(path: Path, files: Mapping[str, bytes], force: bool, kind: DirectoryKind = BUNDLE) -> None:
    """Make the directory `path` hold exactly `files`; killed at any moment, the old or the new one is complete.

    A file that begins with `#!` may be executed. Raises BundleError if `path` exists and may not be replaced, OSError.
    """
    with locked(path.parent) as alone:
        _restore_backup(path, kind)
        _refuse_to_clobber(path, force, kind)
        _clean_up(path, _leftovers(path) if alone else [], kind)
        new = _temporary(path)
        try:
            _fill(new, files)
            _swap_in(new, path, force, kind)
        finally:
            _restore_backup(path, kind)
            _clean_up(path, [new], kind)


def recover(path: Path) -> None:
    """Bring the old directory back if a swap by two renames was killed half way. Costs nothing if it was not."""
    if not os.path.lexists(path) and BUNDLE.is_at(_backup_path(path)):
        with locked(path.parent):
            _restore_backup(path, BUNDLE)


def open_regular(root: Path, name: str) -> BinaryIO:
    """Open the regular file `name` below `root`; raises BundleError if it is missing, a symlink, or something else."""
    place, what = root, f"{root}: {name!r}"
    try:
        for part in name.split("/"):
            place = place / part
            if host.refused_name(part):
                raise BundleError(
                    f"{what} cannot be read here, {part!r} is no name of a file on this system.",
                    id="file-name-unusable",
                )
            if host.is_link(place):
                raise BundleError(
                    f"{what} leads through a symlink, {part!r}; a bundle holds plain files only.",
                    id="path-through-symlink",
                )
        fd = os.open(place, host.READ_NO_LINK)
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{what} is missing: copy or export the bundle again.", id="bundle-file-missing") from None
    except OSError as error:
        raise BundleError(f"{what} cannot be opened: {error.strerror}.", id="bundle-file-unopenable") from error
    if not host.is_plain(fd):
        os.close(fd)
        raise BundleError(
            f"{what} is not a regular file; a bundle holds plain files only.", id="bundle-file-not-regular"
        )
    return os.fdopen(fd, "rb")


def _fill(root: Path, files: Mapping[str, bytes]) -> None:
    folders = sorted({folder for name in files for folder in PurePosixPath(name).parents})
    for folder in folders:
        mkdir(root / folder)
    for name, data in files.items():
        fd = os.open(root / name, host.CREATE, 0o777 if data.startswith(b"#!") else 0o666)
        try:
            write(fd, data)
            fsync(fd)
        finally:
            os.close(fd)
    for folder in reversed(folders):
        host.fsync_folder(root / folder, fsync)


def _swap_in(new: Path, path: Path, force: bool, kind: DirectoryKind) -> None:
    _refuse_to_clobber(path, force, kind)
    if not os.path.lexists(path):
        rename(new, path)
    elif not exchange(new, path):
        rename(path, _backup_path(path))
        rename(new, path)
    # The old directory is deleted next: the new one must be on the disk by then.
    host.fsync_folder(path.parent, fsync)


def _refuse_to_clobber(path: Path, force: bool, kind: DirectoryKind) -> None:
    if not os.path.lexists(path):
        return
    if not kind.is_at(path):
        raise BundleError(
            f"{path} exists and is no {kind.name} (no {kind.marker} in it), so it is never replaced: move it away.",
            id="path-never-replaced",
        )
    if not force:
        raise BundleError(
            f"{path} exists: choose another name, or replace it with --force (force=True).", id="path-exists-already"
        )


def _restore_backup(path: Path, kind: DirectoryKind) -> None:
    if not os.path.lexists(path) and kind.is_at(_backup_path(path)):
        rename(_backup_path(path), path)


def _clean_up(path: Path, leftovers: Iterable[Path], kind: DirectoryKind) -> None:
    for leftover in leftovers:
        remove(leftover)
    if kind.is_at(path) and kind.is_at(_backup_path(path)):
        # Half deleted under its own name, it could still be taken for the old bundle.
        trash = _temporary(path)
        rename(_backup_path(path), trash)
        remove(trash)


def _backup_path(path: Path) -> Path:
    return path.parent / f".{path.name}.old"


def _temporary(path: Path) -> Path:
    return path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"


def _leftovers(path: Path) -> list[Path]:
    temporary = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.tmp")
    return [path.parent / name for name in os.listdir(path.parent) if temporary.fullmatch(name)]


# A second lock of the same process would wait for the first.
_mine = threading.local()


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Let one thread write into a folder at a time; the kernel frees a dead one's lock. False where there are none."""
    held: set[Path] = vars(_mine).setdefault("held", set())
    if folder in held:
        yield True
        return
    with host.locked(folder) as alone:
        if alone:
            held.add(folder)
        try:
            yield alone
        finally:
            held.discard(folder)
