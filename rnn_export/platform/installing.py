"""The command that installs an extra into the running Python, for the way in which this copy came.

`direct_url.json` says where pip got it (PEP 610): https://packaging.python.org/en/latest/specifications/direct-url/
"""

import json
import os
import shlex
from functools import cache
from pathlib import Path
from typing import Any

NAME = "rnn-export"


def pip_install(extras: str, again: bool = False) -> str:
    """`pip install ...` with `extras`, "cpu" or "export,cpu"; `again` where a broken one is installed."""
    options, source = _source()
    words = ["pip install", *(["--force-reinstall"] if again else []), *options]
    return " ".join([*words, _quoted(source.format(f"[{extras}]"))])


@cache
def _source() -> tuple[list[str], str]:
    """Options of pip, and this package as pip takes it, with {} where its extras stand."""
    checkout = Path(__file__).resolve().parents[2]
    project = checkout / "pyproject.toml"
    if project.is_file() and f'name = "{NAME}"' in project.read_text(encoding="utf-8"):
        return ["-e"], _literal(checkout) + "{}"
    return _installed(_direct_url())


def _installed(direct: dict[str, Any]) -> tuple[list[str], str]:
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    url = str(direct.get("url", ""))
    if vcs := direct.get("vcs_info"):
        return [], NAME + "{} @ " + _literal(f"{vcs['vcs']}+{url}@{vcs['commit_id']}")
    if url.startswith("file:"):
        path = Path(url2pathname(urlsplit(url).path))
        # What pip had may be gone since: its name says what to look for.
        return [], _literal(path if path.exists() else path.name) + "{}"
    return [], NAME + ("{} @ " + _literal(url) if url else "{}")


def _direct_url() -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found = json.loads(distribution(NAME).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _literal(text: object) -> str:
    return str(text).replace("{", "{{").replace("}", "}}")


def _quoted(text: str) -> str:
    return shlex.quote(text) if os.name == "posix" else f'"{text}"'
