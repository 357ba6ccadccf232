"""The results of the toolkit, on paper: run it at two commits and compare, to show that a change of structure
changed nothing else.

    python scripts/record.py nets OUT [NAME..]  artefacts of every net of the tests: ONNX, C, vectors, report, contract
    python scripts/record.py face OUT           --help of every command, keys of every --json, public names
    python scripts/record.py refusals OUT ...   the text of every error that the tests raise; the rest goes to pytest
    python scripts/record.py compare A B        each difference on a line; exit code 1 where there is one
"""

from __future__ import annotations

import ast
import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
STEPS = 16
WHOLE = ("onnx", "c", "tensorrt", "jetson-nano")
# What is written in fewer bits, for some nets.
NARROW = (("tensorrt", "fp16"), ("tensorrt", "bf16"), ("c", "bf16"), ("c", "int8"))
NARROW_NETS = ("lstm-in-c", "gru-in-c", "silero-in-c", "rnnoise", "nam")
COMMANDS = ("export", "build", "verify", "run", "bench", "inspect", "targets", "doctor", "triton")
NET = """import torch
def make():
    torch.manual_seed(0)
    return torch.nn.LSTM(4, 8, batch_first=True).eval(), (torch.zeros(1, 5, 4),)
"""


def nets(out: Path, chosen: list[str]) -> None:
    sys.path.insert(0, str(ROOT))
    import torch

    # Examples of the tests are drawn when they are imported.
    torch.manual_seed(0)
    from tests.zoo.nets import NETS

    for name, net in NETS.items():
        if chosen and name not in chosen:
            continue
        place = out / "nets" / name.replace(":", "/")
        if not _record(place, net.build, WHOLE, "fp32"):
            for target in WHOLE:
                _record(place, net.build, (target,), "fp32")
        if name in NARROW_NETS:
            for target, precision in NARROW:
                _record(place, net.build, (target,), precision)
        print(name, flush=True)


def _record(place: Path, make: Any, targets: tuple[str, ...], precision: str) -> bool:
    """Write what an export of `targets` gives below `place`; a refusal is written too, and is False."""
    import torch

    from rnn_export.errors import RnnExportError
    from rnn_export.export import export

    torch.manual_seed(0)
    model, example, options = make()
    options = {**options, "steps": STEPS, "targets": targets, "precision": precision}
    place = place / f"{'-'.join(targets)}-{precision}"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            bundle = export(model, example, Path(folder) / "net.rnnx", **options)
        except RnnExportError as error:
            (place / "refused.txt").write_text(f"{type(error).__name__}: {error}\n")
            return False
        rows = [[row.target, row.precision, row.opset, sorted(row.files)] for row in bundle.targets]
        (place / "rows.json").write_text(json.dumps(rows, indent=1))
        (place / "contract.json").write_text(json.dumps(bundle.spec.to_json(), indent=1, sort_keys=True))
        for name in bundle.files:
            if Path(name).suffix not in (".onnx", ".c", ".h", ".npz", ".bin") and name != "parity.json":
                continue
            data = bundle.read(name)
            if name == "parity.json":
                data = json.dumps(_without_times(json.loads(data)), indent=1, sort_keys=True).encode()
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
    return True


def _without_times(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: _without_times(v) for k, v in data.items() if k not in ("producer", "seconds", "time")}
    return [_without_times(item) for item in data] if isinstance(data, list) else data


def face(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    command = Path(sys.executable).with_name("rnn-export")

    def run(*arguments: str) -> str:
        done = subprocess.run([command, *arguments], capture_output=True, text=True, cwd=out, check=False)
        return done.stdout if done.returncode == 0 else f"exit {done.returncode}: {done.stderr}"

    helps = {" ".join(names): run(*names, "--help") for names in [(), *((name,) for name in COMMANDS)]}
    (out / "help.json").write_text(json.dumps(helps, indent=1))
    (out / "net.py").write_text(NET)
    (out / "x.csv").write_text("0,0,0,0\n" * 8)
    calls = {
        "export": ("export", "net.py:make", "-o", "net.rnnx", "--target", "onnx", "--target", "c", "--force"),
        "inspect": ("inspect", "net.rnnx"),
        "inspect SOURCE": ("inspect", "net.py:make"),
        "build": ("build", "net.rnnx", "--target", "c", "--rebuild"),
        "verify": ("verify", "net.rnnx"),
        "run": ("run", "net.rnnx", "x.csv", "-o", "y.npy"),
        "bench": ("bench", "net.rnnx"),
        "targets": ("targets",),
        "doctor": ("doctor",),
        "triton": ("triton", "net.rnnx", "-o", "models", "--force"),
    }
    keys = {}
    for name, arguments in calls.items():
        text = run(*arguments, "--json")
        try:
            keys[name] = sorted(set(_paths(json.loads(text))))
        except json.JSONDecodeError:
            keys[name] = [text]
    (out / "json_keys.json").write_text(json.dumps(keys, indent=1))
    (out / "names.json").write_text(json.dumps(dict(_public_names()), indent=1))
    for name in ("net.py", "x.csv", "y.npy"):
        (out / name).unlink(missing_ok=True)
    for name in ("net.rnnx", "models"):
        shutil.rmtree(out / name, ignore_errors=True)


def _paths(data: Any, at: str = "") -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _paths(value, f"{at}.{key}")
    elif isinstance(data, list):
        for item in data:
            yield from _paths(item, f"{at}[]")
    else:
        yield at


def _public_names() -> Iterator[tuple[str, list[str]]]:
    for folder in ("rnn_export", "models", "export", "runtime"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if any(parent.is_symlink() for parent in path.parents):
                continue
            names = []
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    names.append(node.name)
                elif isinstance(node, ast.Assign | ast.AnnAssign):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    names += [t.id for t in targets if isinstance(t, ast.Name)]
            yield path.relative_to(ROOT).as_posix(), sorted(n for n in names if not n.startswith("_"))


# --- refusals: this file as a plugin of pytest


def refusals(out: Path, arguments: list[str]) -> int:
    out.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}", "RECORD_TO": str(out)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "record", *arguments]
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    lines = {line for path in out.glob("refusals-*.txt") for line in path.read_text().splitlines()}
    (out / "refusals.txt").write_text("\n".join(sorted(lines)) + "\n")
    for path in out.glob("refusals-*.txt"):
        path.unlink()
    return code


def pytest_configure() -> None:
    from rnn_export.errors import RnnExportError

    to = Path(os.environ["RECORD_TO"]) / f"refusals-{os.getpid()}.txt"
    plain = RnnExportError.__init__

    def spoken(self: RnnExportError, *arguments: Any, **words: Any) -> None:
        plain(self, *arguments, **words)
        text = re.sub(r"/\S*?/(pytest-of-\S+?/pytest-\d+|tmp\w+)/", "TMP/", " ".join(map(str, arguments[:1])))
        text = re.sub(r"0x[0-9a-f]{6,}|(?<=127\.0\.0\.1:)\d+", "N", text).replace("\n", "\\n")
        with to.open("a") as file:
            file.write(f"{type(self).__name__}: {text}\n")

    RnnExportError.__init__ = spoken  # type: ignore[method-assign, assignment]


# --- compare


def compare(one: Path, other: Path) -> int:
    names = {p.relative_to(root) for root in (one, other) for p in root.rglob("*") if p.is_file()}
    differing = 0
    for name in sorted(names):
        texts = [(root / name).read_bytes() if (root / name).is_file() else None for root in (one, other)]
        if texts[0] == texts[1]:
            continue
        differing += 1
        print(f"{name}: {'only in one' if None in texts else 'differs'}")
        if name.suffix in (".json", ".txt", ".c", ".h") and None not in texts:
            before, after = (text.decode().splitlines() for text in texts if text is not None)
            print("\n".join(list(difflib.unified_diff(before, after, lineterm="", n=0))[2:60]))
    print(f"{len(names)} files, {differing} differ.")
    return differing > 0


def main() -> int:
    match sys.argv[1:]:
        case ["nets", out, *chosen]:
            nets(Path(out).resolve(), chosen)
        case ["face", out]:
            face(Path(out).resolve())
        case ["refusals", out, *arguments]:
            return refusals(Path(out).resolve(), arguments)
        case ["compare", one, other]:
            return compare(Path(one), Path(other))
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
