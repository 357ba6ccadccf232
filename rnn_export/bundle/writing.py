"""A bundle written, or a target added to it: each in one atomic step."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rnn_export.bundle import atomic
from rnn_export.bundle.atomic import MANIFEST
from rnn_export.bundle.manifest import CHECKSUM, FileRow, Manifest, TargetRow, read_manifest, write_manifest
from rnn_export.bundle.reading import Bundle, checksum, open_bundle
from rnn_export.bundle.readme import README, with_targets
from rnn_export.bundle.reporting import inside_page
from rnn_export.bundle.signature import SIGNATURE, Signature
from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import BundleError

REPORT = "report.html"


def write_bundle(
    path: str | os.PathLike[str],
    *,
    spec: StreamSpec,
    producer: Mapping[str, str],
    files: Mapping[str, bytes],
    targets: Sequence[TargetRow],
    weights: int | None = None,
    extra: Mapping[str, Any] | None = None,
    force: bool = False,
    report: bool = False,
) -> Bundle:
    """Write a bundle in one atomic step: killed at any moment, the old bundle, the new one or none stands there.

    `path` is the directory `NAME.rnnx`: its parent must exist, a symlink is followed. `files` are the contents by
    relative path; the manifest, whose other fields are as in `Manifest`, and its checksum are added.
    `force` replaces a bundle that stands at `path`; anything else is never replaced. `report` adds report.html, of all
    that is written, in place of any among `files`.

    Raises BundleError if the bundle contradicts itself, `path` is taken, or the file system refuses.
    """
    path = Path(path)
    if report:
        files = {name: data for name, data in files.items() if name != REPORT}
    rows = {name: _row(name, data) for name, data in files.items()}
    manifest = Manifest(
        spec=spec, producer=producer, weights=weights, files=rows, targets=tuple(targets), extra=extra or {}
    )
    raw = write_manifest(path, manifest)
    if report:
        # Of what a reader would take, which is looked at first.
        page = inside_page(Path(os.path.realpath(path)).name, read_manifest(path, raw), files)
        files = {**files, REPORT: page}
        raw = write_manifest(path, replace(manifest, files={**rows, REPORT: _row(REPORT, page)}))
    bundle = Bundle(path=path, raw=raw, **vars(read_manifest(path, raw)))
    place = Path(os.path.realpath(path))
    if not place.parent.is_dir():
        raise BundleError(
            f"{path} cannot be written: the directory {place.parent} does not exist. Make it first.",
            id="bundle-parent-missing",
        )
    try:
        atomic.replace_directory(place, {**files, MANIFEST: raw, CHECKSUM: checksum(raw)}, force)
    except OSError as error:
        reason = error.strerror or error
        raise BundleError(
            f"{path} cannot be written: {reason}. Check space and permissions.", id="bundle-not-written"
        ) from error
    return bundle


def _row(name: str, data: bytes) -> FileRow:
    return FileRow(name, hashlib.sha256(data).hexdigest(), len(data))


def sign_bundle(bundle: Bundle, signature: Signature) -> Bundle:
    """Write the bundle again with `signature` as its manifest.sig, in place of any; raises BundleError."""
    place = Path(os.path.realpath(bundle.path))
    own = {MANIFEST: bundle.raw, CHECKSUM: checksum(bundle.raw), SIGNATURE: signature.to_file()}
    try:
        with atomic.locked(place.parent):
            if open_bundle(bundle.path).raw != bundle.raw:
                raise BundleError(
                    f"{bundle.path} was replaced meanwhile: it was not signed. Do it again.", id="sign-bundle-replaced"
                )
            atomic.replace_directory(place, {**{name: bundle.read(name) for name in bundle.files}, **own}, force=True)
    except OSError as error:
        raise BundleError(
            f"{bundle.path} cannot be written: {error.strerror or error}.", id="signature-not-written"
        ) from error
    return replace(bundle, signature=signature)


def extend_bundle(
    bundle: Bundle,
    row: TargetRow,
    files: Mapping[str, bytes],
    keep: Callable[[Bundle, str], bool] = lambda bundle, name: False,
) -> Bundle:
    """Write the bundle again with `row` and its files, in place of any for that target and precision.

    Its report.html and the list of targets in its README.md, where it has them, are written anew. Files that others
    have added since `bundle` was opened stay: in this row, those for which `keep` is true, called with the bundle now
    and a path. One atomic step, as `write_bundle`, which says what it raises; several at once wait for each other.
    """
    try:
        with atomic.locked(Path(os.path.realpath(bundle.path)).parent):
            return _extended(bundle, row, files, keep)
    except OSError as error:
        raise BundleError(
            f"{bundle.path} cannot be written: {error.strerror or error}.", id="extension-not-written"
        ) from error


def _extended(
    before: Bundle, row: TargetRow, files: Mapping[str, bytes], keep: Callable[[Bundle, str], bool]
) -> Bundle:
    bundle = open_bundle(before.path)
    if bundle.spec != before.spec:
        raise BundleError(
            f"{bundle.path} was replaced by another model's bundle meanwhile: nothing was written.",
            id="extension-other-model",
        )
    replaced = bundle.target(row.target, row.precision)
    others = [known for known in bundle.targets if known != replaced]
    old = set(replaced.files if replaced else ())
    of_others = sorted(name for name in old - set(files) if keep(bundle, name))
    gone = old - set(of_others) - {name for known in others for name in known.files}
    kept = {name: bundle.read(name) for name in bundle.files if name not in gone}
    targets = [*others, replace(row, files=(*row.files, *of_others))]
    page = {README: with_targets(kept[README], targets)} if README in kept else {}
    return write_bundle(
        bundle.path,
        spec=bundle.spec,
        producer=bundle.producer,
        files={**kept, **files, **page},
        targets=targets,
        weights=bundle.weights,
        extra=bundle.extra,
        force=True,
        report=REPORT in bundle.files,
    )
