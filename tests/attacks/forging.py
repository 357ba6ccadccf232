"""Edits to any file of a bundle, with all hashes made right again, as an attacker does."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rnn_export.bundle.reading import checksum


def forge(path: Path, edit: Callable[[dict[str, Any]], Any] = lambda m: None, files: Mapping[str, bytes] = {}) -> Path:
    """The bundle `path` with `files` in place of its own or beside them, its manifest rehashed and then edited."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    rows = {row["path"]: row for row in manifest["files"]}
    for name, data in files.items():
        place = path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        rows[name] = {"path": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    manifest["files"] = list(rows.values())
    edit(manifest)
    write_manifest(path, json.dumps(manifest).encode())
    return path


def write_manifest(path: Path, raw: bytes) -> None:
    """Any bytes as the manifest, with their checksum."""
    (path / "manifest.json").write_bytes(raw)
    (path / "manifest.sha256").write_bytes(checksum(raw))
