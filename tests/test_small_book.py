"""The small book, docs/lifting_in_400_lines.py: what it lifts is what it was made from, and what it refuses it says."""

import importlib.util
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

BOOK = Path(__file__).parents[1] / "docs" / "lifting_in_400_lines.py"
specification = importlib.util.spec_from_file_location("lifting_in_400_lines", BOOK)
assert specification is not None
assert specification.loader is not None
book = importlib.util.module_from_spec(specification)
specification.loader.exec_module(book)

CHANNELS = 4


class Drawn(nn.Module):
    """Operators in a row, drawn by a seed: (batch, time, 4) to (batch, time, 4)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        kinds = ["padded", "causal", "ahead", "valid", "shift", "linear", "lstm", "sum", "pad", "cut", "relu"]
        self.kinds = [draw.choice(kinds) for _ in range(draw.randint(2, 6))]
        self.sizes = [(draw.randint(2, 4), draw.randint(1, 2)) for _ in self.kinds]
        self.parts = nn.ModuleList(self._part(*each) for each in zip(self.kinds, self.sizes, strict=True))
        self.pointwise = nn.Conv1d(CHANNELS, CHANNELS, 1)

    def _part(self, kind: str, size: tuple[int, int]) -> nn.Module:
        if kind == "linear":
            return nn.Linear(CHANNELS, CHANNELS)
        if kind == "lstm":
            return nn.LSTM(CHANNELS, CHANNELS, 2, batch_first=True)
        padding = {"padded": 2, "causal": (size[0] - 1) * size[1], "sum": size[1]}.get(kind, 0)
        return nn.Conv1d(CHANNELS, CHANNELS, 3 if kind == "sum" else size[0], padding=padding, dilation=size[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(1, 2)
        for kind, (size, dilation), part in zip(self.kinds, self.sizes, self.parts, strict=True):
            span = (size - 1) * dilation
            if kind in ("padded", "valid"):
                x = part(x)
            elif kind == "causal":
                x = part(x)[..., :-span]
            elif kind == "ahead":
                x = part(F.pad(x, (0, span)))
            elif kind == "shift":
                x = F.pad(x, (size, 0))[..., :-size]
            elif kind == "linear":
                x = part(x.transpose(1, 2)).transpose(1, -1)
            elif kind == "lstm":
                x = part(x.transpose(1, 2))[0].transpose(1, 2)
            elif kind == "sum":
                x = part(x) + 0.5 * self.pointwise(x)
            elif kind == "pad":
                x = F.pad(x, (size, dilation))
            elif kind == "cut":
                x = x[:, :, 1:]
            else:
                x = torch.relu(x)
        return x.transpose(1, 2)


def test_the_book_has_400_lines_at_most_and_proves_its_example(capsys, recwarn):
    assert len(BOOK.read_text().splitlines()) <= 400
    book.main()
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "largest error" in line]) == 8


@pytest.mark.parametrize("seed", range(40))
@torch.no_grad()
def test_streams_of_drawn_nets_are_the_nets_at_every_length(seed):
    torch.manual_seed(seed)
    net = Drawn(seed).eval()
    step = book.lift(net, torch.zeros(2, 1, CHANNELS))
    facts = step.facts[step.output]
    assert all(value.lag + value.extra >= 0 for value in step.facts.values())
    lengths = []
    for length in (*range(1, 16), 40):
        x = torch.randn(2, length, CHANNELS)
        try:
            wanted = net(x)
        except RuntimeError:  # a window that is longer than the sequence
            continue
        lengths.append(length)
        torch.testing.assert_close(book.streamed(book.Stream(step), x), wanted, rtol=1e-4, atol=1e-5)
        assert wanted.shape[1] == length + facts.extra
    assert 40 in lengths


@pytest.mark.parametrize("seed", range(0, 40, 8))
@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
@torch.no_grad()
def test_the_step_is_one_graph_for_the_whole_stream(seed):
    torch.manual_seed(seed)
    net = Drawn(seed).eval()
    step = book.lift(net, torch.zeros(1, 1, CHANNELS))
    exported = torch.export.export(step, (torch.zeros(1, 1, CHANNELS), step.start)).module()
    x = torch.randn(1, 30, CHANNELS)
    torch.testing.assert_close(book.streamed(book.Stream(step, exported), x), net(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_no_frame_comes_later_than_it_must():
    """Frame j of the output changes with frame j + lag of the input; behind a shift it is known to exist no sooner."""
    checked = 0
    for seed in range(40):
        torch.manual_seed(seed)
        net = Drawn(seed).eval()
        step = book.lift(net, torch.zeros(1, 1, CHANNELS))
        facts, net = step.facts[step.output], net.double()
        x = torch.randn(1, 60, CHANNELS, dtype=torch.float64)
        changed = x.clone()
        changed[:, 30 + facts.lag] += 1e3
        needed = not torch.equal(net(x)[:, 30], net(changed)[:, 30])
        assert needed or "shift" in net.kinds, net.kinds
        checked += needed
    assert checked > 20


class Refused(nn.Module):
    """A model of one line, in x of (batch, time, 4)."""

    def __init__(self, forward):
        super().__init__()
        self.compute, self.both = forward, nn.LSTM(CHANNELS, CHANNELS, batch_first=True, bidirectional=True)
        self.circular = nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1, padding_mode="circular")
        self.strided, self.mixing = nn.Conv1d(CHANNELS, CHANNELS, 3, stride=2), nn.Linear(9, 9)
        self.lstm, self.plain = nn.LSTM(CHANNELS, CHANNELS, batch_first=True), nn.Conv1d(9, 9, 3)

    def forward(self, x):
        return self.compute(self, x)


REFUSED = {
    "flip": (lambda net, x: torch.flip(x, [1]), "no rule knows"),
    "mean": (lambda net, x: x - x.mean(1, keepdim=True), "no rule knows mean"),
    "backwards": (lambda net, x: net.both(x)[0], "backward direction"),
    "circular": (lambda net, x: net.circular(x.transpose(1, 2)), "padded with zeros"),
    "strided": (lambda net, x: net.strided(x.transpose(1, 2)), "stride 1"),
    "last": (lambda net, x: x[:, -1:], "x[a:-b]"),
    "head": (lambda net, x: x[:, :5], "x[a:-b]"),
    "every other": (lambda net, x: x[:, ::2], "x[a:-b]"),
    "index": (lambda net, x: x[:, 0], "no slice"),
    "last state": (lambda net, x: net.lstm(x)[1], "last state"),
    "frames mixed": (lambda net, x: net.mixing(x.transpose(1, 2)), "mixes all frames"),
    "axis of time": (lambda net, x: net.plain(x), "has it on 2"),
    "wrong axis": (lambda net, x: net.lstm(x.transpose(0, 1))[0], "Transpose it"),
    "unlike lengths": (lambda net, x: x + x[:, 1:], "unlike numbers of frames"),
    "unlike axes": (lambda net, x: x + x.transpose(1, 2), "unlike numbers of frames"),
    "filled with ones": (lambda net, x: F.pad(x, (0, 0, 1, 0), value=1.0), "with zeros"),
    "features padded": (lambda net, x: F.pad(x, (1, 0)), "over time"),
    "several": (lambda net, x: (x, x), "several outputs"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_rule_knows_is_refused_with_its_operator(name):
    forward, message = REFUSED[name]
    with pytest.raises(book.LiftError) as caught:
        book.lift(Refused(forward).eval(), torch.zeros(1, 1, CHANNELS))
    assert message in str(caught.value)


def test_the_first_frames_of_a_padded_linear_are_its_bias():
    """A history of zeros is wrong here: so the facts hold the frames before the first step."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense, self.conv = nn.Linear(4, 4), nn.Conv1d(4, 4, 3)

        def forward(self, x):
            return self.conv(self.dense(F.pad(x, (0, 0, 2, 0))).transpose(1, 2))

    torch.manual_seed(0)
    net = Net().eval()
    step = book.lift(net, torch.zeros(1, 1, 4))
    assert torch.equal(step.start["conv.history"][0, :, 0], net.dense.bias)
    with torch.no_grad():
        x = torch.randn(1, 9, 4)
        torch.testing.assert_close(book.streamed(book.Stream(step), x), net(x))
