"""Every case of lifting of tests/zoo: it streams as its row says, or is refused as its row says."""

import runpy
from pathlib import Path

import pytest

from ..zoo.families import FAMILIES  # noqa: TID252

CASES = {
    f"{family}: {statement}: {name}": row
    for family, module in FAMILIES.items()
    for statement, cases in module.TABLE.items()
    for name, row in cases.items()
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("row", CASES.values(), ids=CASES)
def test_a_case_gives_what_its_row_says(row):
    row.check()


def test_the_page_has_every_case():
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts/cases.py"))
    assert script["difference"](script["PAGE"], script["page"]()) == "", "scripts/cases --write"
