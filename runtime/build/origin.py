"""Files that a build starts from, and the proof of its result: the same for engines and C."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from rnn_export.bundle import Bundle, TargetRow
from rnn_export.bundle.code import Code, record
from rnn_export.bundle.draft import Draft
from rnn_export.bundle.judgement import Judgement, judge
from rnn_export.errors import BuildError
from rnn_export.platform.trusted_code import Trust
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.protocols import folder
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.drift import ParityReport
from rnn_export.runtime.replay.golden import FILE, Golden

PARITY = "parity.json"


@dataclass(frozen=True)
class Origin:
    """The files of one target; `new` where they and the notes come from a draft. The result goes into `bundle`.

    `judgement` is of the bundle's files; in a draft, which was written here, there is nothing to judge.
    """

    bundle: Bundle
    row: TargetRow
    files: Mapping[str, bytes]
    new: bool
    judgement: Judgement
    notes: Sequence[str] = ()

    @property
    def c_sources(self) -> dict[str, bytes]:
        """For target "c": sources and what belongs to them, by path in the target's folder."""
        place = f"{folder('c', self.row.precision)}/"
        by_path = {path.removeprefix(place): data for path, data in self.files.items()}
        return {path: data for path, data in by_path.items() if not path.startswith("build/")}

    def draft(self, row: TargetRow, files: Mapping[str, bytes]) -> Draft:
        """The draft that replaces the row in the bundle."""
        return Draft(self.bundle.spec, files, (row,), self.bundle.initial_states(), self.bundle)


def find_row(bundle: Bundle | Draft, target: str, precision: str | None) -> TargetRow | None:
    """The row of `target`, None where there is none; without `precision` its only one, or fp32.

    Raises BuildError where there are several, and none in fp32.
    """
    rows = [row for row in bundle.targets if row.target == target and precision in (None, row.precision)]
    if len(rows) > 1:
        rows = [row for row in rows if row.precision == "fp32"] or rows
    if len(rows) > 1:
        precisions = ", ".join(row.precision for row in rows)
        raise BuildError(
            f"{on_disk(bundle).path} has {target!r} in {precisions}: say which, --precision P.",
            id="build-precision-unsaid",
        )
    return rows[0] if rows else None


def find_origin(
    bundle: Bundle | Draft, target: str, precision: str | None, trust: bool | Trust = False
) -> Origin | None:
    """The row that `find_row` finds, with the contents of its files; None where there is none."""
    row = find_row(bundle, target, precision)
    if row is None:
        return None
    notes = bundle.notes if isinstance(bundle, Draft) else ()
    files = {path: bundle.read(path) for path in row.files}
    judgement = Judgement((), ()) if isinstance(bundle, Draft) else judge(bundle, trust)
    return Origin(on_disk(bundle), row, files, isinstance(bundle, Draft), judgement, notes)


def on_disk(bundle: Bundle | Draft) -> Bundle:
    """The bundle itself, or the one that a draft is to be added to; raises BuildError where it has none."""
    found = bundle.base if isinstance(bundle, Draft) else bundle
    if found is None:
        raise BuildError(
            "this draft is to become a bundle of its own: write it first, and build what it has then.",
            id="build-of-draft",
        )
    return found


def prove(draft: Draft, backend: str, place: str, progress: Callable[[str], None]) -> tuple[Draft, ParityReport]:
    """Run `draft` on `backend` over the golden vectors of its base; with the report in `place`, or ParityError."""
    (row,), bundle = draft.targets, on_disk(draft)
    engine = Engine.of(draft, backend, row.precision)
    report = replay_golden(engine, Golden.from_arrays(bundle.arrays(FILE), bundle.spec), progress)
    report.raise_for_failure("The bundle is as it was.")
    return with_report(draft, report, place), report


def with_report(draft: Draft, report: ParityReport, place: str = "") -> Draft:
    """The draft of one target with the report on it, in the folder `place`, else in that of the target."""
    (row,), data = draft.targets, (json.dumps(report.to_json(), indent=1) + "\n").encode()
    name = f"{place or folder(row.target, row.precision)}/{PARITY}"
    return draft.with_files(row.target, row.precision, {name: data})


def record_built(bundle: Bundle, made: Sequence[Code]) -> list[str]:
    """Record `made` as trusted, and code that the old signature of `bundle` vouched for; gives notes."""
    vouched = judge(bundle).trusted if bundle.signature else ()
    notes = [f"what was built is not trusted here: {why}"] if (why := record(chain(vouched, made))) else []
    if bundle.signature:
        again = f"rnn-export sign {bundle.path} --key KEY"
        notes.append(f"the signature was of the bundle as it came, and is gone: before it goes elsewhere, {again}")
    return notes
