"""A bundle for a device: some of the targets of another one, and what they are verified with."""

import os
from collections.abc import Sequence

from rnn_export.bundle.reading import Bundle
from rnn_export.bundle.writing import write_bundle
from rnn_export.errors import BundleError

# What was written of the bundle as it was exported.
PAGE = "README.md"


def strip_bundle(
    bundle: Bundle, path: str | os.PathLike[str], keep: Sequence[str], precision: str | None = None, force: bool = False
) -> Bundle:
    """Write `path`, a bundle with the targets `keep` of `bundle` alone, in all precisions or in one.

    Contract, initial states, golden vectors and report stay, so that it is verified where it goes. It has another
    manifest, so no signature of `bundle` is of it; code in it is the same code.

    Raises BundleError where `bundle` lacks one of `keep`, or as `write_bundle` does.
    """
    rows = [row for row in bundle.targets if row.target in keep and precision in (None, row.precision)]
    if missing := [name for name in keep if name not in {row.target for row in rows}]:
        wanted = ", ".join(missing) + (f" in {precision}" if precision else "")
        has = ", ".join(f"{row.target} ({row.precision})" for row in bundle.targets)
        raise BundleError(f"{bundle.path} has no {wanted} to keep, only {has}.")
    kept = {name for row in rows for name in row.files}
    gone = {name for row in bundle.targets for name in row.files} - kept | {PAGE}
    return write_bundle(
        path,
        spec=bundle.spec,
        producer=bundle.producer,
        files={name: bundle.read(name) for name in bundle.files if name not in gone},
        targets=rows,
        weights=bundle.weights,
        extra=bundle.extra,
        force=force,
    )
