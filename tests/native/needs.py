"""Tools that the tests of this folder need: required in CI, elsewhere they skip without them."""

import os
import shutil
from importlib.util import find_spec

import pytest


def need(*programs: str) -> None:
    """Skip where one of `programs` is missing, or fail where CI is set; `"a|b"` is met by one of them."""
    for program in programs:
        if not any(map(_is_here, program.split("|"))):
            reason = f"qemu, a compiler or a checker is missing: no {program} here; .ci/run installs them"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)


def _is_here(program: str) -> bool:
    return bool(shutil.which(program)) or (program == "zig" and find_spec("ziglang") is not None)
