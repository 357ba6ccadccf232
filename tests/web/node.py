"""Node and the tools that tests of this folder need: required in CI, elsewhere they skip."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from .chromium import find_chromium

PRELUDE = """
import { readFileSync } from "node:fs";
import { load, Model, RnnError } from "FOLDER/index.js";
const given = JSON.parse(readFileSync(0, "utf8"));
const plain = (key, value) =>
  ArrayBuffer.isView(value) ? Array.from(value, Number) : typeof value === "bigint" ? Number(value) : value;
const base64 = (bytes) => Buffer.from(bytes).toString("base64");
const refusal = async (call) => {
  try { await call(); } catch (error) { return [error.name, error.message]; }
  return null;
};
const result = await (async () => {
CODE
})();
console.log(JSON.stringify(result, plain));
"""


def need(*what: str) -> None:
    """Skip where one of "zig", "wasmtime", "node" and "chromium" is missing, or fail where CI is set."""
    for name in what:
        module = {"zig": "ziglang", "wasmtime": "wasmtime"}.get(name)
        here = find_chromium() if name == "chromium" else find_spec(module) if module else shutil.which(name)
        if not here:
            reason = f"no {name} here; .ci/run installs it"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)


def node(folder: Path, code: str, given: Any = None) -> Any:
    """The JSON result of `code`, an async function body, with the package in `folder` imported."""
    script = PRELUDE.replace("FOLDER", folder.as_uri()).replace("CODE", code)
    command = ["node", "--input-type=module", "--eval", script]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
