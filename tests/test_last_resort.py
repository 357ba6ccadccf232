"""Only errors of the project leave `export`, `lift` or `inspect`; an unforeseen exception is their cause."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rnn_export.cli.main import main
from rnn_export.errors import ExportError, LiftError
from rnn_export.export import export
from rnn_export.export.graph import step
from rnn_export.export.lift import stages
from rnn_export.platform.last_resort import last_resort
from tests.messages import raises

X = (torch.zeros(1, 5, 4),)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc = Inner()

    def forward(self, x: Tensor) -> Tensor:
        return self.enc(x)


def net() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Net().eval(), X


def _planted(*_: Any, **__: Any) -> Any:
    return (1, 2)[7]


def test_an_exception_of_a_stage_of_lifting_is_a_lift_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "digest_of", lambda *_: ().index(1))
    monkeypatch.setitem(vars(stages)["digest_of"].__globals__, "__name__", "rnn_export.export.lift.planted")
    with raises(
        "unforeseen-error",
        "lift",
        "export.lift.planted.<lambda>",
        "ValueError: tuple.index(x): x not in tuple",
        kind=LiftError,
    ) as caught:
        export(*net(), tmp_path / "net.rnnx")
    assert type(caught.value.__cause__) is ValueError
    assert list(tmp_path.iterdir()) == []


def test_an_exception_of_a_later_stage_is_an_export_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "translate", _planted)
    with raises(
        "unforeseen-in-model",
        "the model (test_last_resort.py",
        "`return (1, 2)[7]`): IndexError: tuple index out of range",
        "export",
        "export.graph.step._graph",
        kind=ExportError,
    ) as caught:
        export(*net(), tmp_path / "net.rnnx")
    assert type(caught.value.__cause__) is IndexError
    assert list(tmp_path.iterdir()) == []


def test_the_module_of_the_user_s_code_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one whose call fails unexpectedly in lifting."""

    def probed(flat: Any, *_: Any) -> Any:
        monkeypatch.setattr(Inner, "forward", _failing)
        return flat(*X)

    monkeypatch.setattr(stages, "with_states", probed)
    with raises(
        "unforeseen-in-model", "enc (test_last_resort.py", "`raise KeyError(x.dim())`): KeyError: 3", kind=LiftError
    ):
        stages.lift(*net())


def _failing(self: nn.Module, x: Tensor) -> Tensor:
    raise KeyError(x.dim())


def test_inspect_ends_in_a_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(stages, "contract", _planted)
    with pytest.raises(SystemExit) as ended:
        main(["inspect", f"{__file__}:net"])
    assert ended.value.code == 1
    assert "IndexError: tuple index out of range, when lift ran this in" in " ".join(capsys.readouterr().err.split())


def test_what_is_the_user_s_own_passes(tmp_path: Path) -> None:
    def progress(stage: str) -> None:
        raise ZeroDivisionError(stage)

    with pytest.raises(ZeroDivisionError, match=r"^libraries$"):
        export(*net(), tmp_path / "net.rnnx", progress=progress)
    with pytest.raises(TypeError, match="unexpected keyword argument 'stepz'"):
        export(*net(), tmp_path / "net.rnnx", stepz=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ExportError("ours"), ModuleNotFoundError("torch")])
def test_what_ends_the_program_and_what_is_ours_passes(error: Any) -> None:
    @last_resort(LiftError)
    def call() -> None:
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)) as caught:
        call()
    assert type(caught.value) is not LiftError
