"""A bundle opened: every byte of it is held to the manifest, now and again when it is read."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rnn_export import limits
from rnn_export.bundle import atomic
from rnn_export.bundle.atomic import MANIFEST
from rnn_export.bundle.manifest import CHECKSUM, FileRow, Manifest, TargetRow, read_manifest
from rnn_export.bundle.notebook_view import bundle_table
from rnn_export.bundle.signature import LIMIT as SIGNATURE_LIMIT
from rnn_export.bundle.signature import SIGNATURE, Signature
from rnn_export.contract.spec import StateSpec
from rnn_export.errors import BundleError
from rnn_export.platform.arrays import Array, Arrays, unpack_arrays

INITIAL_STATES = "initial_states.npz"
MANIFEST_LIMIT = limits.JSON_BYTES

_DAMAGED = "damaged, or replaced meanwhile. Open the bundle again; if that fails, copy or export it again."


@dataclass(frozen=True, kw_only=True)
class Bundle(Manifest):
    """An open bundle. Every read is verified against the manifest again, so what is used is what was checked.

    `raw` are the bytes of its manifest, and `signature` is the content of manifest.sig, not checked yet.
    """

    path: Path
    raw: bytes = field(repr=False)
    signature: Signature | None = None

    def __repr__(self) -> str:
        targets = ", ".join(f"{row.target} {row.precision}" for row in self.targets) or "no targets"
        return f"<Bundle {self.path.name}: {targets}; {self.spec.ports}>"

    def _repr_html_(self) -> str:
        return bundle_table(self.path.name, self)

    def read(self, name: str) -> bytes:
        """Read one file; raises BundleError if it is not in the manifest or no longer as the manifest says."""
        if name not in self.files:
            raise BundleError(
                f"{self.path}: the bundle has no file {name!r}; it has {', '.join(sorted(self.files))}.",
                id="no-such-bundle-file",
            )
        row = self.files[name]
        with _open_sized(self.path, row) as file:
            data = file.read(row.bytes + 1)
        _check_hash(self.path, row, hashlib.sha256(data).hexdigest())
        return data

    def arrays(self, name: str) -> dict[str, Array]:
        """Read the arrays of an `.npz` file; raises BundleError where `unpack_arrays` refuses it."""
        raw = self.read(name)
        try:
            return unpack_arrays(raw)
        except ValueError as error:
            raise BundleError(
                f"{self.path}: {name!r} is no usable .npz file: {error}. Export the bundle again.", id="npz-unusable"
            ) from error

    def target(self, target: str, precision: str) -> TargetRow | None:
        """Find the row of one target and precision, or None."""
        return next((row for row in self.targets if (row.target, row.precision) == (target, precision)), None)

    def initial_states(self) -> dict[str, Array]:
        """Give one row (shape `state.row`, no batch axis) for every state by name: zeros or the stored value."""
        stored = self.arrays(INITIAL_STATES) if any(s.initial == "stored" for s in self.spec.states) else {}
        return {state.name: _initial(self.path, state, stored) for state in self.spec.states}


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle with every hash and size checked; raises BundleError naming the file that is wrong."""
    path = Path(path)
    while True:
        try:
            place = Path(os.path.realpath(path))
            seen = _identity(place)
            atomic.recover(place)
            return _open(path)
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror or error}.", id="bundle-unreadable") from error
        except BundleError:
            # A writer that swapped in a new bundle meanwhile is no damage.
            if _identity(place) == seen:
                raise


def _open(path: Path) -> Bundle:
    if not os.path.lexists(path):
        raise BundleError(
            f"{path} does not exist: check the name, or make it with `rnn-export export`.", id="bundle-missing"
        )
    if not path.is_dir():
        raise BundleError(
            f"{path} is not a directory, but a bundle is one: give the NAME.rnnx directory itself.",
            id="bundle-not-directory",
        )
    if not os.path.lexists(path / MANIFEST):
        raise BundleError(
            f"{path} is not a bundle: it has no {MANIFEST}. Export it again if it should be one.",
            id="bundle-without-manifest",
        )
    raw = _read_bounded(path, MANIFEST)
    if _read_bounded(path, CHECKSUM) != checksum(raw):
        raise BundleError(
            f"{path}: {MANIFEST} does not match {CHECKSUM}: the bundle is damaged. Copy or export it again.",
            id="manifest-checksum-differs",
        )
    bundle = Bundle(path=path, raw=raw, signature=_signature(path), **vars(read_manifest(path, raw)))
    _check_size(bundle)
    for row in bundle.files.values():
        digest = hashlib.sha256()
        with _open_sized(path, row) as file:
            while block := file.read(2**20):
                digest.update(block)
        _check_hash(path, row, digest.hexdigest())
    return bundle


def _check_size(bundle: Bundle) -> None:
    """A hole of many GiB in a file takes no disk space, and minutes to hash."""
    most, total = limits.FILES_PART * limits.max_bytes(), sum(row.bytes for row in bundle.files.values())
    if total > most:
        fix = f"set {limits.MAX_BYTES_VARIABLE}={-(-total // limits.FILES_PART)} if it is meant"
        raise BundleError(
            f"{bundle.path}: its files have {total} bytes, over the limit of {most}: {fix}.", id="bundle-too-large"
        )


def _identity(place: Path) -> tuple[int, int, int] | None:
    try:
        found = os.lstat(place)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


def checksum(raw: bytes) -> bytes:
    """The content of manifest.sha256 for manifest.json."""
    return f"{hashlib.sha256(raw).hexdigest()}\n".encode()


def _signature(path: Path) -> Signature | None:
    if not os.path.lexists(path / SIGNATURE):
        return None
    try:
        return Signature.from_file(_read_bounded(path, SIGNATURE, SIGNATURE_LIMIT))
    except ValueError as error:
        raise BundleError(
            f"{path}: {SIGNATURE} is no signature: {error}. Sign it again, or remove that file.",
            id="signature-malformed",
        ) from error


def _read_bounded(path: Path, name: str, limit: int = MANIFEST_LIMIT) -> bytes:
    with atomic.open_regular(path, name) as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise BundleError(
            f"{path}: {name} is larger than {limit} bytes, which no bundle needs: it is not read.",
            id="bundle-file-too-large",
        )
    return raw


def _open_sized(path: Path, row: FileRow) -> BinaryIO:
    file = atomic.open_regular(path, row.path)
    size = os.fstat(file.fileno()).st_size
    if size != row.bytes:
        file.close()
        raise BundleError(
            f"{path}: {row.path!r} has {size} bytes where {MANIFEST} says {row.bytes}: {_DAMAGED}",
            id="bundle-file-size-differs",
        )
    return file


def _check_hash(path: Path, row: FileRow, digest: str) -> None:
    if digest != row.sha256:
        raise BundleError(
            f"{path}: {row.path!r} has another sha256 than {MANIFEST} says: {_DAMAGED}", id="bundle-file-hash-differs"
        )


def _initial(path: Path, state: StateSpec, stored: Arrays) -> Array:
    dtype, what = np.dtype(state.dtype), f"{path}: state {state.name!r}"
    if state.initial == "zeros":
        return np.zeros(state.row, dtype)
    if state.name not in stored:
        raise BundleError(
            f"{what} starts from a stored value, but {INITIAL_STATES} has none for it. Export the bundle again.",
            id="stored-initial-missing",
        )
    value = stored[state.name]
    if value.shape != state.row or value.dtype != dtype:
        raise BundleError(
            f"{path}: {INITIAL_STATES} has {value.dtype} {value.shape} for state {state.name!r}, "
            f"which must be {dtype} {state.row}. Export the bundle again.",
            id="stored-initial-differs",
        )
    return value
