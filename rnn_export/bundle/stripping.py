"""A bundle cut to the targets that one device needs to stream, and to verify that it does so rightly."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rnn_export.bundle import atomic
from rnn_export.bundle.code import code_of, record
from rnn_export.bundle.judgement import judge
from rnn_export.bundle.manifest import TargetRow
from rnn_export.bundle.reading import Bundle, open_bundle
from rnn_export.bundle.writing import REPORT, write_bundle
from rnn_export.errors import BundleError

# They describe what was exported, and what was built.
PAGES = ("README.md", REPORT)


@dataclass(frozen=True)
class Stripped:
    """The bundle that was written, the files that are `gone` from it, by path, and notes on it."""

    bundle: Bundle
    gone: tuple[str, ...]
    notes: tuple[str, ...]


def strip_bundle(
    bundle: Bundle, keep: Sequence[str], machines: Sequence[str] = (), out: Path | None = None, force: bool = False
) -> Stripped:
    """Write `bundle` with the targets `keep` alone to `out`, or in its own place, in one atomic step.

    Args:
        bundle: an open bundle.
        keep: names of targets ("c"), or of one precision of them ("c-int8").
        machines: triples; builds of C for any other go too. None named keeps all.
        out: None is the bundle's own place.
        force: replace a bundle that stands there.

    Files of no target stay, golden vectors above all; only README.md and report.html go. A signature goes with the
    manifest that it was of; code that it vouched for here is recorded as trusted.

    Raises BundleError where a name fits nothing, and where `write_bundle` does.
    """
    rows = tuple(_kept(bundle, keep))
    rows, place = _for_machines(bundle, rows, machines), out or bundle.path
    stay = {path for row in rows for path in row.files}
    of_targets = {path for row in bundle.targets for path in row.files}
    gone = tuple(path for path in bundle.files if path not in stay and (path in of_targets or path in PAGES))
    vouched = {code.digest for code in judge(bundle).trusted} if bundle.signature else set[str]()
    try:
        with atomic.locked(Path(os.path.realpath(place)).parent):
            if out is None and open_bundle(bundle.path).raw != bundle.raw:
                raise BundleError(
                    f"{bundle.path} was replaced meanwhile: nothing was taken from it. Do it again.",
                    id="strip-bundle-replaced",
                )
            written = write_bundle(
                place,
                spec=bundle.spec,
                producer=bundle.producer,
                files={name: bundle.read(name) for name in bundle.files if name not in gone},
                targets=rows,
                weights=bundle.weights,
                extra=bundle.extra,
                force=force,
            )
    except OSError as error:
        raise BundleError(f"{place} cannot be written: {error.strerror or error}.", id="strip-not-written") from error
    why = record(code for code in code_of(written) if code.digest in vouched)
    return Stripped(written, gone, tuple(_notes(bundle, written, why)))


def _kept(bundle: Bundle, keep: Sequence[str]) -> Iterator[TargetRow]:
    there = [(row, (row.target, f"{row.target}-{row.precision}")) for row in bundle.targets]
    for name in keep:
        if not any(name in names for _, names in there):
            known = ", ".join(names[1] for _, names in there)
            raise BundleError(
                f"{bundle.path} has no target {name!r} to keep; it has {known}.", id="strip-target-missing"
            )
    yield from (row for row, names in there if set(names) & set(keep))


def _for_machines(bundle: Bundle, rows: Sequence[TargetRow], machines: Sequence[str]) -> tuple[TargetRow, ...]:
    """The rows without builds for other machines than these."""
    compiled = [code for code in code_of(bundle) if code.machine is not None]
    there = {code.machine for code in compiled if any(set(code.files) <= set(row.files) for row in rows)}
    for machine in machines:
        if machine not in there:
            known = f"only for {', '.join(sorted(map(str, there)))}" if there else "for no machine"
            raise BundleError(
                f"{bundle.path}: what is kept has nothing compiled for {machine!r}, {known}: "
                f"rnn-export build {bundle.path} --target c --triple {machine}.",
                id="strip-machine-missing",
            )
    others = {path for code in compiled if machines and code.machine not in machines for path in code.files}
    return tuple(replace(row, files=tuple(path for path in row.files if path not in others)) for row in rows)


def _notes(bundle: Bundle, written: Bundle, why_not_trusted: str) -> Iterator[str]:
    if bundle.signature:
        yield (
            f"the signature by {bundle.signature.key} is of the bundle as it came, and does not hold for this one: "
            f"before it goes elsewhere, rnn-export sign {written.path} --key KEY"
        )
    elif code_of(written):
        yield f"it holds code and is not signed: for other machines, rnn-export sign {written.path} --key KEY"
    if why_not_trusted:
        yield f"the code that the signature vouched for is not trusted here any more: {why_not_trusted}"
    if not any(row.target == "onnx" for row in written.targets):
        yield "it has no ONNX graph any more: other targets and precisions are built from the bundle that it came from"
