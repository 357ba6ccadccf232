"""The facts of a report as values, gathered by a reader of bundles, and drawn by the sections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rnn_export.contract.spec import StreamSpec


@dataclass(frozen=True)
class Proof:
    """The proof of a build against the model: in words, and the report where there is one of its own.

    `worst` is the largest relative error of it; None where nothing was compared, or by a self-test that `passed`, whose
    errors are in the words. `missing` names the gap in the proof.
    """

    words: str
    worst: float | None = None
    ok: bool = True
    report: Mapping[str, Any] | None = None
    missing: str = ""
    passed: bool = False


@dataclass(frozen=True)
class Build:
    """One target in one precision, or its build for one machine.

    `machine` is where it runs, `more` its other needs, `ran` where the tests of rnn-export run its kind of target.
    """

    target: str
    precision: str
    part: str
    opset: int | None
    bytes: int
    files: int
    machine: str
    more: str
    proof: Proof
    ran: str

    @property
    def title(self) -> str:
        return f"{self.target} ({self.precision}){f', {self.part}' if self.part else ''}"


@dataclass(frozen=True)
class Timing:
    """Latencies of one bench: `result` as `rnn-export bench --json` gives it, `note` a remark on it."""

    result: Mapping[str, Any]
    note: str = ""


@dataclass(frozen=True)
class Facts:
    """All that a report shows.

    Attributes:
        evidence: parity.json, None where it is no report.
        files: path, sha256 and bytes of each file with a row in the manifest.
        manifest: the sha256 of the manifest; None in the copy inside of the bundle, which the manifest lists.
        signature: a sentence on manifest.sig.
    """

    name: str
    spec: StreamSpec
    producer: Mapping[str, str]
    weights: int | None
    evidence: Mapping[str, Any] | None
    builds: Sequence[Build]
    files: Sequence[tuple[str, str, int]]
    manifest: str | None
    signature: str
    timing: Timing | None = None
