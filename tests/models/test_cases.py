"""Every case of lifting of tests/zoo: it streams as its row says, or is refused as its row says."""

import importlib
import pkgutil

import pytest

from .. import zoo  # noqa: TID252

TABLES = {
    module.name: table
    for module in pkgutil.iter_modules(zoo.__path__)
    if not module.name.startswith("test_")
    and (table := getattr(importlib.import_module(f"{zoo.__name__}.{module.name}"), "TABLE", None))
}
CASES = {
    f"{family}: {statement}: {name}": row
    for family, table in TABLES.items()
    for statement, cases in table.items()
    for name, row in cases.items()
}


@pytest.mark.parametrize("row", CASES.values(), ids=CASES)
def test_a_case_gives_what_its_row_says(row):
    row.check()
