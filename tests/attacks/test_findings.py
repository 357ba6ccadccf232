"""The page of findings names existing tests."""

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ROWS = re.findall(r"^\| (.+?) \| (.+) \|$", (HERE / "README.md").read_text(), re.MULTILINE)[1:]


def test_there_are_findings():
    assert len(ROWS) > 10


@pytest.mark.parametrize(("finding", "tests"), ROWS, ids=[str(n) for n in range(len(ROWS))])
def test_a_finding_has_its_tests(finding: str, tests: str) -> None:
    for part in tests.split("; "):
        named, *functions = re.findall(r"`([\w/.]+)`", part)
        file = ROOT / named if "/" in named else HERE / named
        text = file.read_text()
        assert "\ndef test_" in text or "\nasync def test_" in text, finding
        assert not [name for name in functions if f"def {name}(" not in text], finding


def test_security_links_to_the_page() -> None:
    assert "](tests/attacks/README.md)" in (ROOT / "SECURITY.md").read_text().split("\n\n")[1]
