"""The builds of a bundle and the proof of each against the model, by its files, which may say anything."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rnn_export.bundle.manifest import Manifest, TargetRow
from rnn_export.contract.parity_json import groups_of, is_report
from rnn_export.contract.target_table import TARGETS
from rnn_export.errors import BundleError
from rnn_export.page.facts import Build, Proof
from rnn_export.platform.json_parser import parse_json

Read = Callable[[str], bytes]
PARITY, BUILD = "parity.json", "build.json"
# What is shown of a machine elsewhere than in a list of requirements.
NOT_SHOWN = ("onnx_sha256", "state_scales", "name")


def report_in(read: Read, path: str) -> dict[str, Any] | None:
    """The parity report that the file `path` holds; None where it holds anything else."""
    data = _json(read, path)
    return data if is_report(data) else None


def builds_of(manifest: Manifest, read: Read, evidence: Mapping[str, Any] | None) -> Iterator[Build]:
    """Each target and precision, and apart each machine that it is compiled for."""
    for row in manifest.targets:
        known = TARGETS.get(row.target)
        for part, files in _parts(row).items():
            words, more = _machine(read, files) if part else (_needs(row), "")
            yield Build(
                target=row.target,
                precision=row.precision,
                part=part or ("sources" if len(_parts(row)) > 1 else ""),
                opset=row.opset,
                bytes=sum(manifest.files[path].bytes for path in files),
                files=len(files),
                machine=words,
                more=more,
                proof=_proof(row, part, files, read, evidence, known.backend if known else ""),
                ran=known.ran if known else "",
            )


def _parts(row: TargetRow) -> dict[str, list[str]]:
    """The files of a row by the machine that they were compiled for, "" for all others."""
    found: dict[str, list[str]] = {"": []}
    for path in row.files:
        parts = path.split("/")
        machine = parts[3] if len(parts) > 4 and parts[2] == "build" else ""
        found.setdefault(machine, []).append(path)
    return found


def _proof(
    row: TargetRow, part: str, files: Sequence[str], read: Read, evidence: Mapping[str, Any] | None, backend: str
) -> Proof:
    """The proof by its own report; else by that of the export, where that held this very row."""
    for path in (path for path in files if path.rsplit("/", 1)[-1] == PARITY):
        if report := report_in(read, path):
            drifts = [drift for group in groups_of(report).values() for drift in group]
            where = f"held to the golden vectors where it was built, on {report['backend']} ({report['device']})"
            return _of_drifts(where, drifts, report)
    if part or not _compiled(row):
        if evidence is not None and _held_at_export(evidence, row, part):
            mine = {
                name: drifts
                for name, drifts in groups_of(evidence).items()
                if name in (backend, row.target) or name.startswith(f"{row.target} ")
            }
            if mine:
                where = f"held to the model at export, on {', '.join(mine)}"
                return _of_drifts(where, [drift for drifts in mine.values() for drift in drifts])
        if test := _selftest(read, files):
            return test
        why = "the bundle has no report on it: rnn-export verify, on the machine that runs it, makes one"
        return Proof("no report in the bundle", missing=why)
    return Proof("compiled and proved below" if _compiled(row) else "", missing="")


def _selftest(read: Read, files: Sequence[str]) -> Proof | None:
    """The self-test of a build for another machine, from its record, where it passed at the build."""
    record = _record(read, files)
    test = record.get("selftest") if isinstance(record, dict) else None
    if not isinstance(test, dict) or not isinstance(ran := test.get("ran"), str):
        return None
    lines = test.get("lines")
    texts = [line for line in lines if isinstance(line, str)] if isinstance(lines, list) else []
    errors = ", ".join(line for line in texts if "largest error" in line)
    return Proof(f"its self-test passed where it was compiled, on {ran}{f' ({errors})' if errors else ''}", passed=True)


def _of_drifts(where: str, drifts: Sequence[Mapping[str, Any]], report: Mapping[str, Any] | None = None) -> Proof:
    ok = all(drift["step"] is None for drift in drifts)
    worst = max((drift["relative"] for drift in drifts), default=0.0)
    return Proof(where, worst, ok, report, "" if ok else "it is outside the tolerance")


def _compiled(row: TargetRow) -> bool:
    """True if it is sources that were compiled for a machine at least once."""
    return len(_parts(row)) > 1


def _held_at_export(evidence: Mapping[str, Any], row: TargetRow, part: str) -> bool:
    """False for exports of releases that lack this field."""
    held = evidence.get("targets")
    wanted = (row.target, row.precision)
    return isinstance(held, list) and any(
        isinstance(one, dict)
        and (one.get("target"), one.get("precision")) == wanted
        and (not part or (isinstance(one.get("machines"), list) and part in one["machines"]))
        for one in held
    )


def held_at_export(rows: Sequence[TargetRow]) -> list[dict[str, Any]]:
    """`targets` of `parity.json`: the rows that an export held to the model."""
    return [
        {"target": row.target, "precision": row.precision, "machines": [part for part in _parts(row) if part]}
        for row in rows
    ]


def _needs(row: TargetRow) -> str:
    parts = [f"opset {row.opset}"] if row.opset else []
    for key, value in row.requires.items():
        if key not in NOT_SHOWN and value not in ("", None, [], {}):
            words = " ".join(map(str, value)) if isinstance(value, list) else str(value)
            parts.append(f"{key.replace('_', ' ')} {words}")
    return ", ".join(parts) or "any machine that has its runtime or a compiler"


def _machine(read: Read, files: Sequence[str]) -> tuple[str, str]:
    """A build's compiler, with the memory of a bare machine; and its CPU features."""
    record = _record(read, files)
    if not isinstance(record, dict):
        return "it does not say", ""
    compiler, features = record.get("compiler"), record.get("features")
    parts = [f"by {compiler}"] if isinstance(compiler, str) else []
    parts += [f"{key} {record[key]:,} bytes" for key in ("flash", "ram", "stack") if type(record.get(key)) is int]
    with_ = f"a CPU with {' '.join(map(str, features))}" if isinstance(features, list) and features else ""
    return ", ".join(parts) or "it does not say", with_


def _record(read: Read, files: Sequence[str]) -> Any:
    return next((_json(read, path) for path in files if path.endswith(f"/{BUILD}")), None)


def _json(read: Read, path: str) -> Any:
    """A file that the format leaves open, parsed; None where it is no JSON."""
    try:
        return parse_json(read(path))
    except (ValueError, KeyError, BundleError):
        return None
