"""The trust of this machine: code that was built here, and the keys of those whose bundles may run.

A store is a text file with a line for each: `code SHA256 WHAT` or `ed25519 BASE64 WHOSE`; `#` begins a comment, and a
public key is a store of one line. This user's record, every file of /etc/rnn-export/trust.d, and the files and folders
that RNN_EXPORT_TRUST names count alike. A store that others could have written is refused.
"""

import base64
import binascii
import os
import re
import secrets
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rnn_export.errors import TrustError
from rnn_export.platform import host

VARIABLE = "RNN_EXPORT_TRUST"
MACHINE_WIDE = Path("/etc/rnn-export/trust.d")
# Bytes of a store, and lines of code that a record keeps, the newest.
LIMIT, KEPT = 4 * 2**20, 10_000
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class Trust:
    """The digests of code that may run, as `bundle.code` makes them, and public keys (Ed25519) in base64."""

    code: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()

    def __or__(self, other: "Trust") -> "Trust":
        return Trust(self.code | other.code, self.keys | other.keys)


def trusted_here() -> Trust:
    """Trust of this user, this machine and RNN_EXPORT_TRUST; raises TrustError where a store cannot be believed."""
    found, (record, _) = Trust(), record_path()
    if record is not None:
        found |= _read_record(record)
    # On Windows anybody may make such a folder, and it would belong to nobody that could be told.
    if host.user() is not None and os.path.isdir(MACHINE_WIDE):
        found |= _read_folder(MACHINE_WIDE, {0})
    for place in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        path, owners = Path(place), {0, host.user()}
        found |= _read_folder(path, owners) if path.is_dir() else parse(path, _read(path, owners))
    return found


def record_path() -> tuple[Path | None, str]:
    """This user's record, which need not be there yet; or None, and why this user has none."""
    base = host.data_folder()
    if base is None:
        names = "LOCALAPPDATA nor USERPROFILE" if os.name == "nt" else "XDG_DATA_HOME nor HOME"
        return None, f"this user has no home: neither {names} is an absolute path"
    return base / "rnn-export" / "trust", ""


def remember(lines: Sequence[str]) -> None:
    """Add lines to this user's record, those that are not there yet; raises TrustError where it cannot be written."""
    # A name that others chose must not become a line of its own.
    lines = ["".join(c if c.isprintable() else "?" for c in line) for line in lines]
    path, why = record_path()
    if path is None:
        raise _not_recorded(why)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with host.locked(path.parent):
            _read_record(path)
            there = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            code = [line for line in [*there, *lines] if line.startswith("code ")]
            others = [line for line in [*there, *lines] if not line.startswith("code ")]
            _replace(path, [*dict.fromkeys(others), *_newest(code)])
    except OSError as error:
        raise _not_recorded(f"{path} cannot be written: {error.strerror or error}") from error


def _not_recorded(why: str) -> TrustError:
    return TrustError(
        f"nothing is recorded as trusted, for {why}. Name a store of your own in {VARIABLE}.", id="trust-not-recorded"
    )


def parse(path: Path, text: str) -> Trust:
    """The trust in a store's text; raises TrustError with the first bad line."""
    code, keys = set(), set()
    for number, line in enumerate(text.splitlines(), 1):
        kind, _, rest = line.strip().partition(" ")
        value = rest.split(" ", 1)[0]
        if kind == "code" and re.fullmatch("[0-9a-f]{64}", value):
            code.add(value)
        elif kind == "ed25519" and is_key(value):
            keys.add(value)
        elif kind and not kind.startswith("#"):
            what = "neither `code SHA256` nor `ed25519 KEY`"
            raise TrustError(
                f"{path}: line {number} is {what}, as every line of a store must be: remove it.", id="trust-store-line"
            )
    return Trust(frozenset(code), frozenset(keys))


def read_public_key(path: Path) -> str:
    """The one key of a file KEY.pub, in base64; raises TrustError where it is anything else."""
    try:
        found = parse(path, path.read_bytes()[:LIMIT].decode())
    except OSError as error:
        raise TrustError(f"{path} cannot be read: {error.strerror or error}.", id="public-key-unreadable") from error
    except (UnicodeError, TrustError):
        found = Trust()
    if len(found.keys) != 1 or found.code:
        raise TrustError(
            f"{path} is no public key: `rnn-export keygen NAME` writes one as NAME.pub, a line of text.",
            id="public-key-malformed",
        )
    return next(iter(found.keys))


def is_key(text: str) -> bool:
    """True if `text` is 32 bytes in base64."""
    try:
        return len(base64.b64decode(text, validate=True)) == 32
    except (ValueError, binascii.Error):
        return False


def _newest(lines: Iterable[str]) -> list[str]:
    """One line for each digest, the last; of more than KEPT those that came last."""
    by_digest: dict[str, str] = {}
    for line in lines:
        digest = line.split(" ")[1]
        by_digest.pop(digest, None)
        by_digest[digest] = line
    return list(by_digest.values())[-KEPT:]


def _read_record(path: Path) -> Trust:
    if not os.path.lexists(path):
        return Trust()
    owners = {host.user()}
    try:
        _refuse_unsafe(path.parent, os.stat(path.parent), owners, "700")
    except OSError as error:
        raise TrustError(
            f"{path.parent} cannot be read: {error.strerror or error}.", id="trust-record-unreadable"
        ) from error
    return parse(path, _read(path, owners))


def _read_folder(folder: Path, owners: set[int | None]) -> Trust:
    try:
        _refuse_unsafe(folder, os.stat(folder), owners, "755")
        found = Trust()
        # What begins with a dot is a leftover, or the folder behind the links of a mounted secret.
        for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
            found |= parse(path, _read(path, owners))
        return found
    except OSError as error:
        raise TrustError(
            f"{folder} cannot be read: {error.strerror or error}.", id="trust-folder-unreadable"
        ) from error


def _read(path: Path, owners: set[int | None]) -> str:
    try:
        fd = os.open(path, host.READ)
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if not host.is_plain(fd) or found.st_size > LIMIT:
                raise TrustError(
                    f"{path} is no store of what is trusted: a text file of at most {LIMIT} bytes.",
                    id="trust-store-too-large",
                )
            _refuse_unsafe(path, found, owners, "600")
            return file.read(LIMIT).decode()
    except OSError as error:
        raise TrustError(
            f"{path}, a store of what is trusted, cannot be read: {error.strerror or error}.",
            id="trust-store-unreadable",
        ) from error
    except UnicodeError as error:
        raise TrustError(
            f"{path} is no store of what is trusted: it is not text.", id="trust-store-not-text"
        ) from error


def _refuse_unsafe(path: Path, found: os.stat_result, owners: set[int | None], mode: str) -> None:
    if host.user() is None:
        return
    if found.st_uid not in owners:
        who = " or ".join(str(owner) for owner in sorted(owner for owner in owners if owner is not None))
        raise TrustError(
            f"{path} belongs to user {found.st_uid}, so it cannot say what user {host.user()} trusts: "
            f"it must belong to user {who} (chown).",
            id="trust-store-other-owner",
        )
    if found.st_mode & OTHERS_WRITE:
        raise TrustError(
            f"{path} can be written by others (mode {stat.S_IMODE(found.st_mode):o}), so nobody knows who wrote what "
            f"it trusts: look at it, and then chmod {mode} it.",
            id="trust-store-writable",
        )


def _replace(path: Path, lines: Sequence[str]) -> None:
    new = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    fd = os.open(new, host.CREATE, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(fd)
        host.replace(new, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(new)
        raise
