"""The long short-term memory of Hochreiter & Schmidhuber (1997), with the forget gate of Gers et al. (2000)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnn_export.errors import LiftError
from rnn_export.models import init
from rnn_export.models.init import Device, Dtype


class CustomLSTMCell(init.Cell):
    """One step of an LSTM (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

        f  = σ(Wf [x, h] + bf)
        i  = σ(Wi [x, h] + bi)
        o  = σ(Wo [x, h] + bo)
        c~ = φ(Wc [x, h] + bc)      φ = tanh, or sigmoid for checkpoints that were trained with it
        c' = f∘c + i∘c~
        h' = o∘tanh(c')

    Parameters: Wf, Wi, Wo, Wc (hidden, input + hidden); bf, bi, bo, bc (hidden).

    Raises SpecError where a size is below 1, or `candidate` is neither "tanh" nor "sigmoid".
    """

    def __init__(
        self, input_size: int, hidden_size: int, candidate: str = "tanh", *, device: Device = None, dtype: Dtype = None
    ) -> None:
        super().__init__()
        init.check_sizes(input_size=input_size, hidden_size=hidden_size)
        init.check_choice("candidate", candidate, ("tanh", "sigmoid"))
        self.input_size, self.hidden_size, self.candidate = input_size, hidden_size, candidate
        self.Wf, self.bf = init.gate(hidden_size, input_size + hidden_size, device, dtype)
        self.Wi, self.bi = init.gate(hidden_size, input_size + hidden_size, device, dtype)
        self.Wo, self.bo = init.gate(hidden_size, input_size + hidden_size, device, dtype)
        self.Wc, self.bc = init.gate(hidden_size, input_size + hidden_size, device, dtype)
        self.reset_parameters()

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """`x` (batch, input), `h` and `c` (batch, hidden) -> `h'` and `c'` (batch, hidden); or all without batch.

        Raises ValueError where the shape of `h` or `c` does not go with that of `x`.
        """
        init.check_state("h", h, x, self.hidden_size)
        init.check_state("c", c, x, self.hidden_size)
        xh = torch.cat([x, h], -1)
        f = torch.sigmoid(linear(xh, self.Wf, self.bf))
        i = torch.sigmoid(linear(xh, self.Wi, self.bi))
        o = torch.sigmoid(linear(xh, self.Wo, self.bo))
        a = linear(xh, self.Wc, self.bc)
        candidate = torch.tanh(a) if self.candidate == "tanh" else torch.sigmoid(a)
        c = f * c + i * candidate
        return o * torch.tanh(c), c

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, candidate={self.candidate!r}"


class CustomLSTM(nn.Module):
    """Layers of `CustomLSTMCell` run over time, each on the output of the one below; they lie in `cells`.

    Raises SpecError where a size is below 1, or `candidate` is neither "tanh" nor "sigmoid".
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        candidate: str = "tanh",
        *,
        device: Device = None,
        dtype: Dtype = None,
    ) -> None:
        super().__init__()
        init.check_sizes(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.num_layers, self.candidate = num_layers, candidate
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.cells = nn.ModuleList(
            CustomLSTMCell(size, hidden_size, candidate, device=device, dtype=dtype) for size in sizes
        )

    def forward(self, x: Tensor, h_0: Tensor | None = None, c_0: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """`x` (time, batch, input), `h_0` and `c_0` (layers, batch, hidden) or None for zeros
        -> output (time, batch, hidden) of the last layer, `h_n` and `c_n` (layers, batch, hidden).

        `h_0` and `c_0` are not written to. Raises ValueError where `x` is not 3-D, a state does not go with it,
        or only one of the two states is given.
        """
        if (h_0 is None) != (c_0 is None):
            raise ValueError("only one of h_0 and c_0 is given: give both, or none for zeros.")
        h_start = init.first_state("h_0", h_0, x, self.num_layers, self.hidden_size)
        c_start = init.first_state("c_0", c_0, x, self.num_layers, self.hidden_size)
        last_h: list[Tensor] = []
        last_c: list[Tensor] = []
        for layer, cell in enumerate(self.cells):
            h, c = h_start[layer], c_start[layer]
            outputs: list[Tensor] = []
            for x_t in x.unbind(0):
                h, c = cell(x_t, h, c)
                outputs.append(h)
            x = torch.stack(outputs)
            last_h.append(h)
            last_c.append(c)
        return x, torch.stack(last_h), torch.stack(last_c)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, candidate={self.candidate!r}"

    @classmethod
    def from_torch(cls, lstm: nn.LSTM) -> "CustomLSTM":
        """Build the equal of `lstm`, on its device and in its dtype.

        Raises LiftError where `lstm` is bidirectional, batch-first, has a projection, or dropout at work.
        """
        init.check_torch(lstm, nn.LSTM)
        W = lstm.all_weights[0][0]
        ours = cls(lstm.input_size, lstm.hidden_size, lstm.num_layers, device=W.device, dtype=W.dtype)
        for layer, cell in enumerate(ours.cells):
            i, f, c, o = init.read_gates(lstm, layer)
            init.assign(cell, Wf=f.xh, bf=f.b, Wi=i.xh, bi=i.b, Wo=o.xh, bo=o.b, Wc=c.xh, bc=c.b)
        return ours.train(lstm.training)

    def to_torch(self) -> nn.LSTM:
        """Build the torch layer that equals this one, time-major.

        Raises LiftError where the candidate is a sigmoid, which torch does not have.
        """
        if self.candidate != "tanh":
            raise LiftError(
                "the candidate is a sigmoid, but nn.LSTM has tanh alone: export this layer as it is.",
                id="lstm-sigmoid-candidate",
            )
        W = self.cells[0].get_parameter("Wf")
        lstm = nn.LSTM(self.input_size, self.hidden_size, self.num_layers, device=W.device, dtype=W.dtype)
        for layer, cell in enumerate(self.cells):
            gates = [(cell.get_parameter(f"W{k}"), cell.get_parameter(f"b{k}")) for k in "ifco"]
            columns = gates[0][0].shape[1] - self.hidden_size
            init.write_gates(lstm, layer, [init.torch_gate(W, b, columns) for W, b in gates])
        return lstm.train(self.training)
