"""The page docs/cases.md: what streams and what is refused, as the table of lifting cases has it (tests/zoo).

python scripts/cases.py           prints how the page differs from the table
python scripts/cases.py --write   writes it anew
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.messages import difference  # noqa: E402
from tests.zoo.case import Case, Refused  # noqa: E402
from tests.zoo.families import FAMILIES  # noqa: E402

PAGE = "docs/cases.md"
HEAD = """# Models that stream, and models that are refused

Each line is a statement about models, with the small models that show it. The tests lift all of them, and hold the
stream to the model's own output on whole sequences, or the refusal to its [message](messages.md). The models stand in
`tests/zoo`, one file for each heading.
"""


def line(statement: str, cases: Mapping[str, Case]) -> str:
    """A statement, its cases, and the ids with which they are refused."""
    ids = sorted({row.expected.id for row in cases.values() if isinstance(row.expected, Refused)})
    refused = f" ({', '.join(f'`{name}`' for name in ids)})" if ids else ""
    return f"- **{statement[0].upper()}{statement[1:]}**{refused}: {'; '.join(cases).replace('_', ' ')}."


def page() -> str:
    """The text of the page."""
    parts = [HEAD]
    for name, module in FAMILIES.items():
        about = (module.__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")
        lines = (line(statement, cases) for statement, cases in module.TABLE.items())
        parts.append(f"\n## {name.replace('_', ' ').capitalize()}\n\n{about}\n\n" + "\n".join(lines) + "\n")
    return "".join(parts)


def main() -> int:
    if "--write" in sys.argv[1:]:
        (ROOT / PAGE).write_text(page())
        return 0
    if found := difference(PAGE, page()):
        print(found)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
