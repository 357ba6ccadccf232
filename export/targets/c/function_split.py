"""Split a long step into functions of consecutive operators.

Compile time grows with the square of the length of a function.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rnn_export.export.targets.c.code.constants import Weights
from rnn_export.runtime.build.template import Values

# Lines of a part; a step of less than two of them is one function.
LINES = 100
_DECLARED = re.compile(r"(\w+)(\[| = )")


class Parts:
    """`statements` of a step, and `declarations` of names in them and `seen`; long runs are calls of `functions`.

    Each function has pointers of its own. `operators` has the statements of each, `call` the beginning of a function
    call. Operators that a team shares stay in the step, all of which they see.
    """

    def __init__(
        self,
        call: str,
        declarations: Sequence[str],
        operators: Iterable[Sequence[str]],
        types: Mapping[str, str],
        weights: Weights,
        seen: Iterable[str] = (),
    ) -> None:
        self._call, self._types, self._weights = call, types, weights
        self._declarations = {_declared(line): line for line in declarations}
        self.functions: list[Values] = []
        operators = list(operators)
        statements = [line for lines in operators for line in lines]
        if len(statements) >= 2 * LINES:
            statements = [line for run in _runs(operators) for line in self._called(run)]
        self.statements = statements
        self.declarations = [*self._needed({*words(statements), *seen}).values()]

    def _needed(self, used: set[str]) -> dict[str, str]:
        """The declarations of names that are used, and of names in those; `used` has these then too."""
        for name in reversed(self._declarations):
            if name in used:
                used.update(words([self._declarations[name]]))
        return {name: line for name, line in self._declarations.items() if name in used}

    def _called(self, run: Sequence[str]) -> Iterator[str]:
        """A run as the call of a function, if it is worth one."""
        if len(run) < LINES // 2 or _is_shared(run):
            yield from run
            return
        used = set(words(run))
        needed = self._needed(used)
        pointers = [line for line in needed.values() if "*const" in line]
        given = {name: f"{_type(line)} *" for name, line in needed.items() if "*const" not in line}
        given |= {name: c_type for name, c_type in self._types.items() if name in used}
        if self._weights.reads_file("\n".join(run)):
            given["weights"] = "const char *"
        if not given:  # from state to state
            yield from run
            return
        # All of a step's floats are apart from what it is given.
        parameters = [f"{c_type}{'RNN_APART ' * (name == 'scratch')}{name}" for name, c_type in given.items()]
        text = "\n".join([*(f"    {line}" for line in pointers), *run])
        yield f"    {self._call.format(len(self.functions))}{', '.join(given)});"
        self.functions.append({"number": len(self.functions), "parameters": ", ".join(parameters), "text": text})


def _runs(operators: Iterable[Sequence[str]]) -> Iterator[list[str]]:
    """Operators together, until they are long enough; each that a team shares apart."""
    run: list[str] = []
    for lines in operators:
        shared = _is_shared(lines)
        if run and (shared or len(run) >= LINES):
            yield run
            run = []
        run = [*run, *lines]
        if shared:
            yield run
            run = []
    yield run


def _is_shared(lines: Iterable[str]) -> bool:
    return any("RNN_PHASE(" in line for line in lines)


def words(lines: Iterable[str]) -> list[str]:
    return re.findall(r"[A-Za-z_]\w*", "\n".join(lines))


def _declared(line: str) -> str:
    found = _DECLARED.search(line)
    assert found is not None
    return found[1]


def _type(line: str) -> str:
    return line.removeprefix("RNN_ALIGNED ").split()[0]
