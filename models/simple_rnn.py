"""The simple recurrent network of Elman (1990), "Finding Structure in Time": a hidden state and a linear readout."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnn_export.errors import LiftError
from rnn_export.models import init
from rnn_export.models.init import Device, Dtype


class SimpleRNNCell(init.Cell):
    """One step of Elman's network (1990), with its readout.

        h' = φ(Wxh x + Whh h + bh)      φ = tanh, or relu
        y  = Why h' + by

    Parameters: Wxh (hidden, input), Whh (hidden, hidden), bh (hidden), Why (output, hidden), by (output).

    Raises SpecError where a size is below 1, or `nonlinearity` is neither "tanh" nor "relu".
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        nonlinearity: str = "tanh",
        *,
        device: Device = None,
        dtype: Dtype = None,
    ) -> None:
        super().__init__()
        init.check_sizes(input_size=input_size, hidden_size=hidden_size, output_size=output_size)
        init.check_choice("nonlinearity", nonlinearity, ("tanh", "relu"))
        self.input_size, self.hidden_size = input_size, hidden_size
        self.output_size, self.nonlinearity = output_size, nonlinearity
        self.Wxh, self.bh = init.gate(hidden_size, input_size, device, dtype)
        self.Whh = init.parameter(hidden_size, hidden_size, device=device, dtype=dtype)
        self.Why, self.by = init.gate(output_size, hidden_size, device, dtype)
        self.reset_parameters()

    def step(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """`x` (batch, input), `h` (batch, hidden) -> `y` (batch, output), `h'` (batch, hidden); or all without batch.

        Raises ValueError where the shape of `h` does not go with that of `x`.
        """
        init.check_state("h", h, x, self.hidden_size)
        a = linear(x, self.Wxh, self.bh) + linear(h, self.Whh)
        h = torch.tanh(a) if self.nonlinearity == "tanh" else torch.relu(a)
        return linear(h, self.Why, self.by), h

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Do the same as `step`."""
        return self.step(x, h)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, {self.output_size}, nonlinearity={self.nonlinearity!r}"


class SimpleRNN(SimpleRNNCell):
    """The cell run over time; same parameters, same constructor."""

    def forward(self, input_seq: Tensor, h_0: Tensor) -> tuple[Tensor, Tensor]:
        """`input_seq` (time, batch, input), `h_0` (batch, hidden)
        -> `output_seq` (time, batch, output), `h_n` (batch, hidden).

        All of them may come without the batch axis. `h_0` is not written to.
        Raises ValueError where the shape of `h_0` does not go with that of a frame.
        """
        h = h_0
        outputs: list[Tensor] = []
        for x in input_seq.unbind(0):
            y, h = self.step(x, h)
            outputs.append(y)
        return torch.stack(outputs), h

    @classmethod
    def from_torch(cls, rnn: nn.RNN, head: nn.Linear) -> "SimpleRNN":
        """Build the equal of `head(rnn(x, h)[0])`, on its device and in its dtype.

        Raises LiftError where the layer is bidirectional, batch-first or deeper than one, or the head does not fit it.
        """
        init.check_torch(rnn, nn.RNN)
        if rnn.num_layers > 1:
            raise LiftError(
                f"num_layers is {rnn.num_layers}, but a SimpleRNN has one layer: stack one for each.",
                id="simple-rnn-layers",
            )
        if head.in_features != rnn.hidden_size:
            raise LiftError(
                f"the head takes {head.in_features} features, but the RNN gives {rnn.hidden_size}.",
                id="simple-rnn-head-size",
            )
        W = rnn.all_weights[0][0]
        if (head.weight.dtype, head.weight.device) != (W.dtype, W.device):
            raise LiftError(
                f"the head is {head.weight.dtype} on {head.weight.device}, but the RNN {W.dtype} on {W.device}: "
                "bring both together with .to().",
                id="simple-rnn-head-dtype",
            )
        ours = cls(rnn.input_size, rnn.hidden_size, head.out_features, rnn.nonlinearity, device=W.device, dtype=W.dtype)
        (g,) = init.read_gates(rnn, 0)
        by = torch.zeros_like(ours.by) if head.bias is None else head.bias
        init.assign(ours, Wxh=g.Wx, Whh=g.Wh, bh=g.b, Why=head.weight, by=by)
        return ours.train(rnn.training)

    def to_torch(self) -> tuple[nn.RNN, nn.Linear]:
        """Build the torch layer and head that together equal this network, time-major."""
        device, dtype = self.Wxh.device, self.Wxh.dtype
        rnn = nn.RNN(self.input_size, self.hidden_size, nonlinearity=self.nonlinearity, device=device, dtype=dtype)
        head = nn.Linear(self.hidden_size, self.output_size, device=device, dtype=dtype)
        init.write_gates(rnn, 0, [init.TorchGate(self.Wxh, self.Whh, self.bh, torch.zeros_like(self.bh))])
        init.assign(head, weight=self.Why, bias=self.by)
        return rnn.train(self.training), head.train(self.training)
