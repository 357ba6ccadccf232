"""The list of targets in the README.md of a bundle, which is renewed as targets come to it."""

import re
from collections.abc import Sequence

from rnn_export.bundle.manifest import TargetRow
from rnn_export.platform.terminal_text import code

README = "README.md"
_TITLE = "## What is in it"


def targets_section(targets: Sequence[TargetRow]) -> str:
    """The section, in Markdown, from its title to its last line."""
    opsets = [f", opset {row.opset}" if row.opset else "" for row in targets]
    lines = [
        f"- {row.target} ({row.precision}{opset}): {', '.join(map(code, row.files))}"
        for row, opset in zip(targets, opsets, strict=True)
    ]
    return "\n".join((_TITLE, "", *lines))


def with_targets(page: bytes, targets: Sequence[TargetRow]) -> bytes:
    """`page` with the section of `targets` in place of its own; as it was where it has none."""
    section = f"{targets_section(targets)}\n\n".encode()
    return re.sub(rf"^{_TITLE}\n.*?(?=^## |\Z)".encode(), lambda found: section, page, count=1, flags=re.M | re.S)
