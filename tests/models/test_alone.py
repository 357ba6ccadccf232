"""Exports in several threads, and exports that fail, leave the process as it was."""

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.utils._sympy.functions as sizes
from click.testing import CliRunner
from threadpoolctl import threadpool_info
from torch import Tensor, nn

from rnn_export.cli.main import main
from rnn_export.export import export
from rnn_export.platform.export_lock import alone
from rnn_export.platform.threads import LARGE, one_thread

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252

THREADS, X = 3, (torch.zeros(1, 6, 4),)
# The process while a module is traced; a module is copied, and so would be a list of its own.
SEEN: list[dict[str, Any]] = []


class Pooled(nn.Module):
    """Its size is rounded, and its product is an einsum: both are looked at by torch in a way that is changed."""

    def __init__(self, breaks: bool = False) -> None:
        super().__init__()
        self.gru, self.weight, self.breaks = nn.GRU(4, 4, batch_first=True), nn.Parameter(torch.ones(4, 4)), breaks

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("btc,cd->btd", self.gru(x)[0], self.weight)
        if self.breaks and torch.compiler._is_exporting_flag:
            SEEN.append(process())
            raise RuntimeError("broken on purpose")
        return y[:, : int(math.ceil(x.shape[1] / 1))]  # noqa: RUF046


def process() -> dict[str, Any]:
    """Process-wide settings that exporting a module changes."""
    return {
        "sympy": sizes.sympy,  # type: ignore[attr-defined]
        "einsum": torch.backends.opt_einsum.enabled,
        "cache": torch._dynamo.config.fake_tensor_cache_enabled,
        "int": "int" in globals(),
        "compiling": torch.compiler._is_compiling_flag,
        "exporting": torch.compiler._is_exporting_flag,
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
    }


def test_exports_in_threads_are_one_after_the_other_and_leave_nothing() -> None:
    before = process()
    assert isinstance(before["sympy"], ModuleType)
    with ThreadPoolExecutor(THREADS) as pool:
        lifted = list(pool.map(lambda _: lift(Pooled().eval(), X), range(THREADS)))
    assert len({tuple(s.name for s in one.spec.states) for one in lifted}) == 1
    assert process() == before


def test_an_export_that_fails_leaves_nothing() -> None:
    before = process()
    with raises("trace-failed", "broken on purpose"):
        lift(Pooled(breaks=True).eval(), X)
    assert process() == before
    assert {name for name in before if SEEN[0][name] != before[name]} >= {"sympy", "cache", "int"}


def test_what_is_alone_waits_for_its_turn_and_a_call_inside_does_not() -> None:
    inside, most, lock = 0, [0], threading.Event()

    @alone
    def outer(number: int) -> int:
        nonlocal inside
        inside += 1
        most[0] = max(most[0], inside)
        lock.wait(0.02)
        inside -= 1
        return inner(number)

    @alone
    def inner(number: int) -> int:
        return number + 1

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(outer, range(8))) == list(range(1, 9))
    assert most == [1]
    with pytest.raises(TypeError):
        outer()  # type: ignore[call-arg]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(outer, 1).result(5) == 2


# --- threads

THREADS_SEEN: set[int] = set()


class Counting(nn.Module):
    """It keeps how many threads each call has, and is interrupted in its first trace."""

    def __init__(self, interrupted: bool = False, width: int = 4) -> None:
        super().__init__()
        self.gru, self.interrupted = nn.GRU(4, 4, batch_first=True), interrupted
        self.table = nn.Parameter(torch.ones(width, 4))

    def forward(self, x: Tensor) -> Tensor:
        THREADS_SEEN.update({torch.get_num_threads(), *blas_threads()})
        if self.interrupted and torch.compiler._is_exporting_flag:
            raise KeyboardInterrupt
        return self.gru(x)[0] * self.table[0]


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    THREADS_SEEN.clear()
    yield
    torch.set_num_threads(before)


def factory() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Counting().eval(), X


def interrupted(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        export(Counting(interrupted=True).eval(), X, folder / "net.rnnx")


@pytest.mark.parametrize(
    "call",
    [
        interrupted,
        lambda folder: export(*factory(), folder / "net.rnnx", steps=8),
        lambda folder: lift(*factory()),
        lambda folder: CliRunner().invoke(main, ["inspect", f"{__name__}:factory"], catch_exceptions=False),
    ],
    ids=["interrupted", "export", "lift", "inspect"],
)
def test_the_model_is_called_on_one_thread_and_gives_the_threads_back(
    call: Callable[[Path], object], three_threads: None, tmp_path: Path
) -> None:
    blas = blas_threads()
    call(tmp_path)
    assert {1} == THREADS_SEEN
    assert (torch.get_num_threads(), blas_threads()) == (3, blas)


def test_a_model_with_a_large_weight_keeps_the_threads_of_the_caller(three_threads: None) -> None:
    one_thread(lambda model: model(*X))(Counting(width=LARGE // 4))
    assert 3 in THREADS_SEEN
