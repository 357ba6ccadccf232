"""Models that keep a flag or a count beyond the reach of `copy.deepcopy`, or in objects that give no state."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

LOUD = 1e4
FLAGS: dict[str, int] = {}
calls = 0


class Gained(nn.Module):
    """A decaying sum, louder since the first loud frame; the flag is in `flags`."""

    def __init__(self, flags: Any = None) -> None:
        super().__init__()
        self.flags = flags
        self.register_buffer("h", torch.zeros(1, 8))

    def forward(self, x: Tensor) -> Tensor:
        self.h = self.h * 0.9 + x
        if x.abs().max() > LOUD:
            self.note()
        return self.h * (1.0 + self.noted())

    def note(self) -> None:
        self.flags["loud"] = 1

    def noted(self) -> float:
        return len(self.flags)


class InSet(Gained):
    def note(self) -> None:
        self.flags.add("loud")


class InArray(Gained):
    def note(self) -> None:
        self.flags[0] = 1

    def noted(self) -> float:
        return float(self.flags[0])


class InGlobal(Gained):
    def note(self) -> None:
        FLAGS["loud"] = 1

    def noted(self) -> float:
        return len(FLAGS)


class InClass(Gained):
    shared: dict[str, int] = {}  # noqa: RUF012

    def note(self) -> None:
        self.shared["loud"] = 1

    def noted(self) -> float:
        return len(self.shared)


class InDefault(Gained):
    def note(self, flags: list[int] = []) -> list[int]:  # noqa: B006
        flags.append(1)
        return flags

    def noted(self) -> float:
        return min(1, len((type(self).note.__defaults__ or ((),))[0]))


def forget_flags() -> None:
    """Flags that an earlier lift of these models set stay in this process."""
    FLAGS.clear()
    InClass.shared.clear()
    (InDefault.note.__defaults__ or ([],))[0].clear()


class InClosure(Gained):
    def __init__(self) -> None:
        super().__init__()
        self.note, self.noted = closure()  # type: ignore[method-assign]


def closure() -> tuple[Callable[[], None], Callable[[], float]]:
    loud = False

    def note() -> None:
        nonlocal loud
        loud = True

    return note, lambda: float(loud)


class Counted(nn.Module):
    """It counts the calls of all its copies in a global number, which its output has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("h", torch.zeros(1, 8))

    def forward(self, x: Tensor) -> Tensor:
        global calls
        calls += 1
        self.h = self.h * 0.9 + x
        return self.h + (1.0 if calls > 20 else 0.0)


class Leaks(nn.Module):
    """Its output is its state, which the next call changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("h", torch.zeros(1, 8))

    def forward(self, x: Tensor) -> Tensor:
        self.h.mul_(0.9).add_(x)  # type: ignore[operator]
        return self.h  # type: ignore[return-value]
