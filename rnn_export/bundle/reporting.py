"""The report of a bundle: facts in its files, gathered for the page that `rnn_export.page` makes."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnn_export.bundle.manifest import Manifest
from rnn_export.bundle.proofs import Read, builds_of, report_in
from rnn_export.bundle.reading import Bundle, open_bundle
from rnn_export.errors import SourceError, TrustError
from rnn_export.page.document import document
from rnn_export.page.facts import Facts, Timing
from rnn_export.page.standing import not_proven
from rnn_export.platform.files import save_atomically
from rnn_export.platform.json_parser import parse_json
from rnn_export.platform.markup import Html, element

EVIDENCE = "parity.json"
# Pixels of the frame that a notebook shows it in.
FRAME = 640
NUMBERS = ("p50", "p90", "p99", "steps_per_second")


@dataclass(frozen=True, repr=False)
class Report:
    """A report: `html` is the whole page, in one file; `facts` are the values that it shows."""

    html: str
    facts: Facts

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to `path`, whole or not at all; raises SourceError where it cannot be written."""
        place = Path(path)
        try:
            with save_atomically(place) as written:
                written.write_bytes(self.html.encode())
        except OSError as error:
            raise SourceError(
                f"{path} cannot be written: {error.strerror or error}. Check the folder.", id="report-not-written"
            ) from error
        return place

    def to_json(self) -> dict[str, Any]:
        """Plain data: the builds, their proofs, and the claims that are not proven."""
        return {
            "bundle": self.facts.name,
            "digest": self.facts.spec.digest,
            "manifest": self.facts.manifest,
            "signature": self.facts.signature,
            "builds": [
                {
                    "target": build.target, "precision": build.precision, "part": build.part, "bytes": build.bytes,
                    "machine": build.machine, "proof": build.proof.words, "worst": _finite(build.proof.worst),
                    "ok": build.proof.passed or (build.proof.worst is not None and build.proof.ok),
                }
                for build in self.facts.builds
            ],
            "not_proven": not_proven(self.facts),
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"<Report of {self.facts.name}: {len(self.html):,} characters of HTML; .write(path) saves it>"

    def _repr_html_(self) -> str:
        """In a frame of its own, in which nothing runs, and whose style is its own."""
        return element("iframe", srcdoc=Html(self.html), sandbox="", width="100%", height=FRAME, frameborder=0)


def report(path: str | os.PathLike[str] | Bundle, bench: Mapping[str, Any] | None = None) -> Report:
    """The report of the bundle `path`, as it is now.

    `bench` is the result of `rnn-export bench --json`, or of `rnn_export.runtime.bench.measure.bench`, on this bundle.
    Raises BundleError where the bundle is damaged, SourceError where the bench is of another model or is none.
    """
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    manifest = hashlib.sha256(bundle.raw).hexdigest()
    timing = None if bench is None else _timing(bench, bundle, manifest)
    name = Path(os.path.realpath(bundle.path)).name
    facts = _facts(name, bundle, bundle.read, manifest, _signature(bundle), timing)
    return Report(document(facts), facts)


def inside_page(name: str, manifest: Manifest, files: Mapping[str, bytes]) -> bytes:
    """The copy that lies in the bundle `name`, of all its other files."""
    signature_note = "Whether it is signed, and by whom, stands beside the manifest, which lists this page too."
    return document(_facts(name, manifest, files.__getitem__, None, signature_note)).encode()


def read_bench(path: Path) -> Any:
    """The output of `rnn-export bench --json` in a file; raises SourceError where it is no JSON."""
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}.", id="bench-file-unreadable") from error
    except ValueError as error:
        raise SourceError(
            f"{path} is no JSON ({error}): make it, rnn-export bench NAME.rnnx --json > {path}.",
            id="bench-file-not-json",
        ) from error


def _facts(
    name: str, manifest: Manifest, read: Read, digest: str | None, signature: str, timing: Timing | None = None
) -> Facts:
    evidence = report_in(read, EVIDENCE) if EVIDENCE in manifest.files else None
    return Facts(
        name=name,
        spec=manifest.spec,
        producer=manifest.producer,
        weights=manifest.weights,
        evidence=evidence,
        builds=tuple(builds_of(manifest, read, evidence)),
        files=[(row.path, row.sha256, row.bytes) for row in manifest.files.values()],
        manifest=digest,
        signature=signature,
        timing=timing,
    )


def _signature(bundle: Bundle) -> str:
    found = bundle.signature
    if found is None:
        return "Nobody signed it: the hashes find damage, and stop nobody who means to deceive."
    try:
        right = found.covers(bundle.raw)
    except TrustError as error:
        return f"It is signed with the key {found.key}, which was not checked: {error}"
    if not right:
        return f"It was changed after it was signed with the key {found.key}: nobody vouches for it as it is."
    return (
        f"It is signed with the key {found.key}, and the signature is of these very files. Whose key that is, you have "
        "to know from elsewhere."
    )


def _timing(bench: Mapping[str, Any], bundle: Bundle, manifest: str) -> Timing:
    """The timing of this bundle's bench; with a note where that was of an earlier state."""
    again = f"time this one, rnn-export bench {bundle.path} --json > bench.json"
    if not _is_bench(bench):
        raise SourceError(
            f"the bench is none, or of rnn-export 0.1.0, which did not say of which model it was: {again}.",
            id="bench-too-old",
        )
    if bench["digest"] != bundle.spec.digest:
        raise SourceError(
            f"the bench is of another model (digest {bench['digest'][:12]}, not {bundle.spec.digest[:12]}): {again}.",
            id="bench-of-other-model",
        )
    same = bench["manifest"] == manifest
    return Timing(
        bench, "" if same else "It was timed before the bundle was changed: what was built since is not in it."
    )


def _is_bench(bench: Any) -> bool:
    if not isinstance(bench, Mapping) or not all(isinstance(bench.get(key), str) for key in ("digest", "manifest")):
        return False
    engines, machine = bench.get("engines"), bench.get("machine")
    if not isinstance(engines, list) or not isinstance(machine, dict) or type(bench.get("frames_a_step")) is not int:
        return False
    return all(isinstance(row, dict) and isinstance(row.get("name"), str) and _numbers(row) for row in engines)


def _numbers(row: Mapping[str, Any]) -> bool:
    return all(isinstance(row.get(key), float | int) and row[key] >= 0 for key in NUMBERS)


def _finite(error: float | None) -> float | None:
    return error if error is not None and error < float("inf") else None
