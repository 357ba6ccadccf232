"""Messages by id: none without one, none twice, and the table and the page as the source has them."""

import copy
import pickle
import runpy
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from rnn_export import errors

ROOT = Path(__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts/messages.py"))


@cache
def reading():
    return SCRIPT["Reading"]()


def test_every_error_has_an_id():
    assert not reading().nameless


def test_an_id_is_two_to_four_words_and_one_message():
    texts = defaultdict(set)
    for message in reading().found:
        assert SCRIPT["ID"].fullmatch(message.id), message
        texts[message.id].add((message.kind, message.template))
    assert not {name: found for name, found in texts.items() if len(found) > 1}


@pytest.mark.parametrize("path", [SCRIPT["TABLE"], SCRIPT["PAGE"]])
def test_what_the_script_makes_is_as_the_source_has_it(path):
    text = SCRIPT["table" if path == SCRIPT["TABLE"] else "page"](reading())
    found = SCRIPT["difference"](path, text)
    assert not found, f"scripts/messages --write, after a look at\n{found}"


def test_each_id_that_no_test_raises_has_a_reason():
    rows = [line.partition("  ") for line in (ROOT / "tests/unraised.txt").read_text().splitlines()]
    names = [name for name, _, _ in rows]
    assert names == sorted(set(names))
    assert set(names) <= {message.id for message in reading().found}
    assert all(reason for _, _, reason in rows)


CODE = """
from rnn_export.errors import LiftError

def refusal(reason: str, *, id: str) -> LiftError:
    return LiftError(f"{reason}.", id=id)

def f(x):
    raise LiftError("one")
    raise LiftError(f"{x} is two", id="two-words")
    raise refusal(f"it is {x}", id="three-more-words")
    raise LiftError("four" if x else f"{f(x)}", id=x.id)
"""


def test_what_is_read(tmp_path):
    for name, text in {
        "rnn_export/errors.py": (ROOT / "rnn_export/errors.py").read_text(),
        "models/a.py": CODE,
    }.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    found = SCRIPT["Reading"](tmp_path)
    assert found.nameless == ["models/a.py:8: LiftError has no id"]
    rows = [message.row for message in found.found if message.place.startswith("models/")]
    assert rows == ["three-more-words  LiftError  it is {x}", "two-words  LiftError  {x} is two"]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize(
    "error",
    [
        errors.PoolFull("full", id="pool-capacity"),
        errors.FrozenAxis("frozen", 1, 2, id="frozen-axis"),
        errors.BoundedAxis(0, 1, 12, "it fails"),
        errors.NumberByValue("net.py", 3, "x.item()", None),
    ],
)
def test_an_error_is_copied_with_its_id(error, copied):
    found = copied(error)
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))
    assert found.id
