"""The site of these pages: `./scripts/docs` builds it, from the root of the repository on, with warnings as errors."""

import shutil
from pathlib import Path
from typing import Any

from rnn_export import __version__

project = "rnn-export"
author = "the developers of rnn-export"
copyright = author  # noqa: A001 - what Sphinx calls it
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
root_doc = "README"
include_patterns = ["*.md", "docs/**", "examples/**", "tests/attacks/README.md", "scripts/silero_vad/README.md"]
html_theme = "furo"
html_title = f"rnn-export {version}"
# Anchors as GitHub makes them.
myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]
add_module_names = False
smartquotes = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False


def _with_contents(app: Any, name: str, source: list[str]) -> None:
    """The front page is the README, which GitHub shows without a table of contents."""
    if name == root_doc:
        source[0] += "\n" + (Path(__file__).parent / "contents.txt").read_text()


def _as_index(app: Any, error: Exception | None) -> None:
    """Servers ask for an index."""
    if error is None:
        shutil.copy(Path(app.outdir, f"{root_doc}.html"), Path(app.outdir, "index.html"))


def setup(app: Any) -> None:
    app.connect("source-read", _with_contents)
    app.connect("build-finished", _as_index)
