"""docs/runtimes.md: its tables name existing cases and targets, and agree with each other."""

import re
from pathlib import Path

from rnn_export.contract.target_table import TARGETS

from .cases import CASES

PAGE = (Path(__file__).parents[2] / "docs/runtimes.md").read_text()


def table(name: str) -> list[list[str]]:
    """The cells of a table, the line below its head left out."""
    (part,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", PAGE, re.DOTALL)
    rows = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in (rows[0], *rows[2:])]


def test_the_summary_is_that_of_the_cases():
    head, *rows = table("cases")
    targets = [cell.strip("`") for cell in head[1:]]
    assert {*targets} <= {*TARGETS}
    assert {row[0] for row in rows} <= {case.name for case in CASES}
    said = {row[0].strip("`"): row for row in table("summary")[1:]}
    assert [*said] == targets
    for column, target in enumerate(targets, 1):
        errors = {row[0]: float(row[column]) for row in rows if not row[column].startswith("refused")}
        refused = [row[0] for row in rows if row[0] not in errors]
        assert said[target][2] == f"{len(errors)} of {len(rows)}"
        assert f"{max(errors.values()):.0e}" == f"{float(said[target][3]):.0e}"
        assert re.findall(r"`([^`]+)`", said[target][4]) == refused


def test_whatever_is_refused_has_its_reason():
    numbers = {int(n) for n in re.findall(r"\| refused \((\d+)\)", PAGE)}
    reasons = re.findall(r"^(\d+)\. (.+)$", PAGE.split("<!-- cases -->")[1], re.MULTILINE)
    assert [int(n) for n, _ in reasons] == [*range(1, len(numbers) + 1)]
    assert all(len(reason) > 30 for _, reason in reasons)


def test_steps_are_in_turn_on_every_backend():
    head, *rows = table("steps")
    assert len(head) == 4
    for row in rows:
        assert all(re.fullmatch(r"[\d.]+(e\+\d+)? \([\d.]+x\)|", cell) for cell in row[1:])
    assert any(row[0].startswith("native") and row[1].endswith("(1.0x)") for row in rows)
