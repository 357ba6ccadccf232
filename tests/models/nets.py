"""Small nets for lifting and export, as users write them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

gru, lstm = (partial(kind, batch_first=True) for kind in (nn.GRU, nn.LSTM))


def made_of(parts: Callable[[], dict[str, Any]]) -> Callable[[type], type]:
    """A decorator of a class of modules, which have these parts; tensors are buffers."""

    def init(self: nn.Module) -> None:
        nn.Module.__init__(self)
        for name, part in parts().items():
            is_buffer = part is None or type(part) is Tensor
            self.register_buffer(name, part) if is_buffer else setattr(self, name, part)

    def with_parts(kind: type) -> type:
        kind.__init__ = init
        return kind

    return with_parts


class Tagger(nn.Module):
    """A layer hidden behind linear layers and called without a state."""

    def __init__(self, kind: type[nn.RNNBase] = nn.GRU, layers: int = 1, batch_first: bool = True) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(4, 6), nn.Linear(6, 3)
        self.rnn = kind(6, 6, layers, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(torch.relu(self.inp(x)))[0])


@made_of(lambda: {"lstm": nn.LSTM(4, 5, 2, batch_first=True)})
class Explicit(nn.Module):
    """An LSTM that takes and returns its states (layers, batch, hidden)."""

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = self.lstm(x, (h, c))
        return y, h, c


@made_of(lambda: {"lstm": lstm(4, 5)})
class Tuple(nn.Module):
    """The same with one argument hx = (h, c)."""

    def forward(self, x: Tensor, hx: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, after = self.lstm(x, hx)
        return y, after


@made_of(lambda: {"first": nn.LSTMCell(4, 5), "second": nn.GRUCell(5, 5)})
class Dict(nn.Module):
    """A tree of states, and results by name; the tree comes back in another order."""

    def forward(self, x: Tensor, memory: dict[str, Tensor]) -> dict[str, object]:
        h, c = self.first(x, (memory["h"], memory["c"]))
        g = self.second(h, memory["g"])
        return {"next": {"g": g, "c": c, "h": h}, "sum": h + g, "both": torch.cat([h, g], -1)}


class Result(NamedTuple):
    y: Tensor
    h: Tensor


@made_of(lambda: {"cell": nn.GRUCell(4, 5)})
class Named(nn.Module):
    """A cell whose results have names."""

    def forward(self, x: Tensor, h: Tensor) -> Result:
        h = self.cell(x, h)
        return Result(2 * h, h)


@made_of(lambda: {"h0": nn.Parameter(torch.randn(2, 1, 5)), "gru": nn.GRU(4, 5, 2, batch_first=True)})
class LearnedStart(nn.Module):
    """A GRU whose first state is a parameter."""

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x, self.h0.expand(-1, x.shape[0], -1).contiguous())[0]


@made_of(lambda: {"a": gru(4, 5), "b": lstm(3, 5), "mix": nn.Linear(2, 5)})
class Several(nn.Module):
    """Two sequences and one held vector in; two sequences out."""

    def forward(self, left: Tensor, right: Tensor, speaker: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.a(left)[0], self.b(right)[0]
        return a + self.mix(speaker)[:, None], a * b


@made_of(lambda: {"embedding": nn.Embedding(11, 4), "gru": gru(4, 5), "head": nn.Linear(5, 11)})
class Ids(nn.Module):
    """Integer ids through an embedding."""

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.gru(self.embedding(ids))[0])


@made_of(lambda: {"cell": nn.GRUCell(4, 5)})
class Loop(nn.Module):
    """A cell in the model's own loop over time, its state taken and returned."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        outputs = []
        for frame in x.unbind(1):
            h = self.cell(frame, h)
            outputs.append(h)
        return torch.stack(outputs, 1), h


@made_of(lambda: {"gru": gru(4, 5), "head": nn.Linear(5, 3)})
class LastFrame(nn.Module):
    """A classifier that gives one answer, as of the last frame."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0][:, -1])


# --- hidden layers ------------------------------------------------------------------------------------------------


@made_of(
    lambda: {
        "conv1": nn.Conv1d(1, 3, 8, stride=4, padding=2),
        "conv2": nn.Conv1d(3, 4, 4, stride=4),
        "gru": gru(8, 5),
        "head": nn.Linear(5, 3),
    }
)
class Waves(nn.Module):
    """Pieces of sound (B, T, 32), each through strided convolutions with B and T merged, then a GRU over T."""

    def forward(self, x: Tensor) -> Tensor:
        B, T, samples = x.shape
        y = torch.relu(self.conv2(torch.relu(self.conv1(x.reshape(B * T, 1, samples)))))
        return self.head(self.gru(y.reshape(B, T, -1))[0])


class Projected(nn.Module):
    """An LSTM whose output is projected: h is smaller than c."""

    def __init__(self, layers: int = 1) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, layers, batch_first=True, proj_size=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


@made_of(lambda: {"gru": gru(4, 4)})
class Twice(nn.Module):
    """The same GRU called twice: two states, one set of weights."""

    def forward(self, x: Tensor) -> Tensor:
        first = self.gru(x)[0]
        return first + self.gru(torch.tanh(first + x))[0]


class SharedWeights(nn.Module):
    """One GRU under three numbers of a ModuleList."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([gru(4, 4)] * 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)[0]
        return x


@made_of(
    lambda: {"h0": nn.Parameter(torch.randn(1, 1, 5)), "c0": nn.Parameter(torch.randn(1, 1, 5)), "lstm": lstm(4, 5)}
)
class LearnedPair(nn.Module):
    """An LSTM that starts from a learned h and a learned c."""

    def forward(self, x: Tensor) -> Tensor:
        start = [s.repeat(1, x.shape[0], 1) for s in (self.h0, self.c0)]
        return self.lstm(x, (start[0], start[1]))[0]


@made_of(lambda: {"hidden": 5, "layers": 2, "lstm": nn.LSTM(4, 5, 2, batch_first=True), "fc": nn.Linear(5, 3)})
class ZerosPassed(nn.Module):
    """The habit of the tutorials: h0 and c0 made of zeros in forward, by the size of the input."""

    def forward(self, x: Tensor) -> Tensor:
        h0 = torch.zeros(self.layers, x.size(0), self.hidden).to(x.device)
        c0 = torch.zeros(self.layers, x.size(0), self.hidden).to(x.device)
        return self.fc(self.lstm(x, (h0, c0))[0])


@made_of(lambda: {"first": gru(4, 5), "second": nn.GRU(3, 5)})
class TwoAxes(nn.Module):
    """One input (B, T, 4), the other (T, B, 3); the output is (T, B, 5)."""

    def forward(self, by_batch: Tensor, by_time: Tensor) -> Tensor:
        return self.first(by_batch)[0].transpose(0, 1) + self.second(by_time)[0]


class Outputs(nn.Module):
    """A GRU with two heads, its results in the container `kind`: tuple, dict or Heads."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.gru, self.a, self.b = gru(4, 5), nn.Linear(5, 2), nn.Linear(5, 3)
        self.kind = kind

    def forward(self, x: Tensor) -> object:
        y = self.gru(x)[0]
        a, b = self.a(y), self.b(y)
        if self.kind is dict:
            return {"wide": b, "narrow": a}
        return Heads(a, b) if self.kind is Heads else (a, b)


class Heads(NamedTuple):
    narrow: Tensor
    wide: Tensor


@made_of(lambda: {"norm": nn.LayerNorm(4), "lstm": lstm(4, 5), "head": nn.Linear(5, 3)})
class Features(nn.Module):
    """LayerNorm and softmax over the features of each frame, around an LSTM."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.head(self.lstm(self.norm(x))[0]), dim=-1)


@made_of(
    lambda: {"intra": nn.GRU(4, 3, batch_first=True, bidirectional=True), "mix": nn.Linear(6, 4), "inter": gru(4, 4)}
)
class DualPath(nn.Module):
    """x (B, T, F, 4): a bidirectional GRU over F on B*T rows, then a GRU over T on B*F rows."""

    def forward(self, x: Tensor) -> Tensor:
        B, T, bands, C = x.shape
        x = x + self.mix(self.intra(x.reshape(B * T, bands, C))[0]).reshape(B, T, bands, C)
        rows = x.transpose(1, 2).reshape(B * bands, T, C)
        return x + self.inter(rows)[0].reshape(B, bands, T, C).transpose(1, 2)


# --- a time loop of the model's own, its states local -------------------------------------------------------------


@made_of(lambda: {"cell": nn.LSTMCell(4, 5), "head": nn.Linear(5, 3)})
class LSTMCellLoop(nn.Module):
    """An LSTMCell from zeros; the outputs in a list."""

    def forward(self, x: Tensor) -> Tensor:
        h, c, outputs = torch.zeros(x.size(0), 5), torch.zeros(x.size(0), 5), []
        for t in range(x.size(1)):
            h, c = self.cell(x[:, t], (h, c))
            outputs.append(self.head(h))
        return torch.stack(outputs, dim=1)


@made_of(lambda: {"cell": nn.GRUCell(4, 5)})
class GRUCellByIndex(nn.Module):
    """A GRUCell on (T, B, 4); the outputs are written into a tensor made before."""

    def forward(self, x: Tensor) -> Tensor:
        T, B, _ = x.shape
        h, outputs = x.new_zeros(B, 5), x.new_zeros(T, B, 5)
        for t in range(T):
            h = self.cell(x[t], h)
            outputs[t] = h
        return outputs


@made_of(lambda: {"cell": nn.RNNCell(4, 5)})
class RNNCellFromNone(nn.Module):
    """An RNNCell whose first state is None."""

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = None, []
        for frame in x.unbind(1):
            h = self.cell(frame, h)
            outputs.append(h)
        return torch.stack(outputs, 1)


@made_of(lambda: {"lower": nn.LSTMCell(4, 5), "upper": nn.GRUCell(5, 3)})
class TwoCellsLoop(nn.Module):
    """Two layers of cells in one loop: an LSTMCell under a GRUCell."""

    def forward(self, x: Tensor) -> Tensor:
        h, c, g = x.new_zeros(x.shape[0], 5), x.new_zeros(x.shape[0], 5), x.new_zeros(x.shape[0], 3)
        outputs = []
        for t in range(x.shape[1]):
            h, c = self.lower(x[:, t], (h, c))
            g = self.upper(torch.relu(h), g)
            outputs.append(g)
        return torch.stack(outputs, 1)


@made_of(lambda: {"first": nn.GRUCell(4, 5), "second": nn.RNNCell(5, 3)})
class LoopAfterLoop(nn.Module):
    """One loop over the whole sequence, and a second one over its outputs."""

    def forward(self, x: Tensor) -> Tensor:
        h, middle = x.new_zeros(x.shape[0], 5), []
        for frame in x.unbind(1):
            h = self.first(frame, h)
            middle.append(h)
        y = torch.tanh(torch.stack(middle, 1))
        g, outputs = x.new_zeros(x.shape[0], 3), []
        for frame in y.unbind(1):
            g = self.second(frame, g)
            outputs.append(g)
        return torch.stack(outputs, 1)


@made_of(lambda: {"gates": nn.Linear(9, 10), "candidate": nn.Linear(9, 5)})
class ReluGRULoop(nn.Module):
    """A GRU written by hand: a ReLU candidate, the reset before the product."""

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = torch.zeros(x.shape[0], 5), []
        for t in range(x.shape[1]):
            z, r = torch.sigmoid(self.gates(torch.cat([x[:, t], h], 1))).chunk(2, 1)
            h = z * h + (1 - z) * torch.relu(self.candidate(torch.cat([x[:, t], r * h], 1)))
            outputs.append(h)
        return torch.stack(outputs, 1)


@made_of(
    lambda: {
        f"{kind}{gate}": nn.Linear(size, 5, bias=kind == "W") for gate in "fh" for kind, size in (("W", 4), ("U", 5))
    }
)
class MinimalGatedLoop(nn.Module):
    """A minimal gated unit (Zhou et al. 2016): one gate."""

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = torch.zeros(x.shape[0], 5), []
        for frame in x.unbind(1):
            f = torch.sigmoid(self.Wf(frame) + self.Uf(h))
            h = (1 - f) * h + f * torch.tanh(self.Wh(frame) + self.Uh(f * h))
            outputs.append(h)
        return torch.stack(outputs, 1)


@made_of(lambda: {"leak": nn.Parameter(torch.randn(5)), "inp": nn.Linear(4, 5), "out": nn.Linear(5, 3)})
class LeakyLoop(nn.Module):
    """Leaky integrators, each with a learned leak; y is a read-out of the membrane."""

    def forward(self, x: Tensor) -> Tensor:
        leak = torch.sigmoid(self.leak)
        membrane, outputs = torch.zeros(x.shape[0], 5), []
        for frame in x.unbind(1):
            membrane = leak * membrane + (1 - leak) * self.inp(frame)
            outputs.append(self.out(torch.relu(membrane)))
        return torch.stack(outputs, 1)


@made_of(lambda: {"conv": nn.Conv1d(4, 5, 3), "cell": nn.GRUCell(5, 5)})
class ConvThenLoop(nn.Module):
    """A causal convolution over time, then a cell in a loop of the model's own."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(F.pad(x.transpose(1, 2), (2, 0)))).transpose(1, 2)
        h, outputs = x.new_zeros(x.shape[0], 5), []
        for frame in y.unbind(1):
            h = self.cell(frame, h)
            outputs.append(h)
        return torch.stack(outputs, 1)


# --- memory in buffers, of one stream -----------------------------------------------------------------------------


@made_of(lambda: {"cell": nn.GRUCell(4, 5), "h": torch.zeros(1, 5)})
class Reassigned(nn.Module):
    """One frame per call; the buffer is given a new tensor."""

    def forward(self, x: Tensor) -> Tensor:
        self.h = self.cell(x, self.h)
        return 2 * self.h


@made_of(lambda: {"cell": nn.LSTMCell(4, 5), "head": nn.Linear(5, 3), "h": torch.zeros(1, 5), "c": torch.zeros(1, 5)})
class CopiedInto(nn.Module):
    """One frame per call; the buffers are changed in place."""

    def forward(self, x: Tensor) -> Tensor:
        h, c = self.cell(x, (self.h, self.c))
        self.h.copy_(h)
        self.c.copy_(c)
        return self.head(h)


@made_of(lambda: {"gru": nn.GRU(4, 5, 2, batch_first=True), "hidden": torch.zeros(2, 1, 5)})
class BufferOverTime(nn.Module):
    """A piece of a sequence per call (B, T, 4); the state of the GRU waits in a buffer (layers, B, 5)."""

    def forward(self, x: Tensor) -> Tensor:
        y, self.hidden = self.gru(x, self.hidden)
        return y


@made_of(lambda: {"cell": nn.GRUCell(4, 5), "h": None})
class CreatedInTheFirstCall(nn.Module):
    """The buffer is None until the first frame has come."""

    def forward(self, x: Tensor) -> Tensor:
        if self.h is None:
            self.h = torch.zeros(x.shape[0], 5)
        self.h = self.cell(x, self.h)
        return self.h


@made_of(lambda: {"mean": torch.full((1, 4), 0.5), "peak": torch.arange(1.0, 5.0).reshape(1, 4)})
class NotFromZero(nn.Module):
    """An exponential average that starts at 0.5 and 1, 2, 3, 4."""

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x
        self.peak = torch.maximum(0.95 * self.peak, x.abs())
        return (x - self.mean) / self.peak


@made_of(lambda: {"last": torch.zeros(1, 4)})
class Smoother(nn.Module):
    """A part with a memory of its own."""

    def forward(self, x: Tensor) -> Tensor:
        self.last = 0.7 * self.last + 0.3 * x
        return self.last


@made_of(lambda: {"front": nn.Sequential(nn.Linear(4, 4), Smoother()), "back": Smoother()})
class NestedMemory(nn.Module):
    """Two such parts, below the model."""

    def forward(self, x: Tensor) -> Tensor:
        return x - self.back(torch.tanh(self.front(x)))


@made_of(lambda: {"count": torch.zeros(()), "mean": torch.zeros(1, 4)})
class RunningMean(nn.Module):
    """The mean of all frames so far; a scalar counts them."""

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + 1
        self.mean = self.mean + (x - self.mean) / self.count
        return self.mean


# --- convolutions over time ---------------------------------------------------------------------------------------


class CausalPad(nn.Module):
    """x (B, 4, T): zeros to the left by F.pad."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 3, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (2, 0)))


@made_of(lambda: {"conv": nn.Conv1d(4, 5, 3, padding=4, dilation=2)})
class CausalChomp(nn.Module):
    """Padded on both sides by the convolution itself, and the end cut off, as in Bai et al. 2018."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x)[:, :, :-4])


@made_of(lambda: {"pad": nn.ConstantPad1d((2, 0), 0.7), "conv": nn.Conv1d(4, 5, 3)})
class CausalConstant(nn.Module):
    """Pads before the first frame with 0.7, not 0."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.pad(x))


@made_of(lambda: {"convs": nn.ModuleList([nn.Conv1d(4, 4, 3, dilation=d) for d in (1, 2, 4)])})
class TCN(nn.Module):
    """Causal convolutions dilated by 1, 2, 4 with residuals."""

    def forward(self, x: Tensor) -> Tensor:
        for i, conv in enumerate(self.convs):
            x = x + torch.relu(conv(F.pad(x, (2 * 2**i, 0))))
        return x


@made_of(lambda: {"conv": nn.Conv2d(1, 3, (2, 3), stride=(1, 2)), "gru": gru(12, 5)})
class Conv2dGRU(nn.Module):
    """x (B, 1, T, 8): causal over T, strided over frequency, then a GRU over T."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(F.pad(x, (1, 0, 1, 0))))
        return self.gru(y.permute(0, 2, 1, 3).flatten(2))[0]


@made_of(lambda: {"conv": nn.Conv1d(4, 5, 3)})
class Valid(nn.Module):
    """x (B, 4, T): no padding, two frames fewer come out."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv(x))


@made_of(
    lambda: {"convs": nn.Sequential(nn.Conv1d(4, 5, 3), nn.ReLU(), nn.Conv1d(5, 5, 3), nn.ReLU()), "gru": gru(5, 5)}
)
class ValidGRU(nn.Module):
    """x (B, T, 4): two convolutions without padding, then a GRU on four frames fewer."""

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(self.convs(x.transpose(1, 2)).transpose(1, 2))[0]


@made_of(lambda: {"conv": nn.Conv1d(4, 4, 3)})
class ValidResidual(nn.Module):
    """x (B, 4, T): the input, cut to what is left, is added to a convolution without padding."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 2:] + torch.relu(self.conv(x))


@made_of(lambda: {"conv": nn.Conv1d(4, 5, 3, stride=2)})
class StridedCausal(nn.Module):
    """x (B, 4, T) -> (B, 5, T/2): one frame left of the first, a stride of 2."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv(F.pad(x, (1, 0))))


@made_of(lambda: {"conv": nn.Conv1d(4, 6, 8, stride=4), "gru": gru(6, 5)})
class StridedValidGRU(nn.Module):
    """x (B, T, 4) -> (B, T/4 - 1, 5): windows of 8 frames every 4, then a GRU over them."""

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(torch.relu(self.conv(x.transpose(1, 2)).transpose(1, 2)))[0]


@made_of(lambda: {"mix": nn.Parameter(torch.rand(4)), "key": nn.Linear(4, 5), "gru": gru(5, 5)})
class TokenShift(nn.Module):
    """Each frame mixed with the one before it, as in RWKV."""

    def forward(self, x: Tensor) -> Tensor:
        before = F.pad(x[:, :-1], (0, 0, 1, 0))
        return self.gru(torch.relu(self.key(self.mix * x + (1 - self.mix) * before)))[0]


@made_of(
    lambda: {
        "first": nn.Conv1d(4, 4, 3, padding=1),
        "second": nn.Conv1d(4, 5, 3, stride=2, padding=1),
        "gru": gru(5, 5),
    }
)
class LookAhead(nn.Module):
    """Padding at both ends, a stride, a layer that carries a state, and each frame twice: (B, 4, T) to (B, 5, T)."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.gru(self.second(torch.relu(self.first(x))).mT)[0].mT
        return nn.functional.interpolate(y, scale_factor=2)[..., : x.shape[-1]]


@made_of(lambda: {"gru": gru(9, 9), "window": torch.hann_window(16)})
class Denoiser(nn.Module):
    """A mask over a centred spectrum: samples (B, L) to samples."""

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.stft(x, 16, 4, window=self.window, return_complex=True)
        mask = torch.sigmoid(self.gru(spectrum.abs().mT)[0]).mT
        return torch.istft(spectrum * mask, 16, 4, window=self.window, length=x.shape[-1])
