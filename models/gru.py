"""The gated recurrent unit of Cho et al. (2014), arXiv:1406.1078, in its first form and in that of cuDNN."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rnn_export.errors import LiftError
from rnn_export.models import init
from rnn_export.models.init import Device, Dtype


class CustomGRUCell(init.Cell):
    """One step of a GRU (Cho et al. 2014, arXiv:1406.1078).

        r  = σ(Wr [x, h] + br)
        z  = σ(Wz [x, h] + bz)
        h~ = tanh(Wh [r∘h, x] + bh)
        h' = (1 - z)∘h + z∘h~

    With `reset_after`, as cuDNN and torch have it, Wh = [Wh_h, Wh_x] and the reset comes after the product:

        h~ = tanh(Wh_x x + bh + r∘(Wh_h h + bhh))

    Parameters: Wr, Wz (hidden, input + hidden); Wh (hidden, hidden + input), the state's columns first;
    br, bz, bh and, with `reset_after` only, bhh (hidden).

    Raises SpecError where a size is below 1.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        reset_after: bool = False,
        *,
        device: Device = None,
        dtype: Dtype = None,
    ) -> None:
        super().__init__()
        init.check_sizes(input_size=input_size, hidden_size=hidden_size)
        self.input_size, self.hidden_size, self.reset_after = input_size, hidden_size, reset_after
        self.Wr, self.br = init.gate(hidden_size, input_size + hidden_size, device, dtype)
        self.Wz, self.bz = init.gate(hidden_size, input_size + hidden_size, device, dtype)
        self.Wh, self.bh = init.gate(hidden_size, hidden_size + input_size, device, dtype)
        self.bhh: nn.Parameter | None
        self.register_parameter("bhh", init.parameter(hidden_size, device=device, dtype=dtype) if reset_after else None)
        self.reset_parameters()

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """`x` (batch, input), `h` (batch, hidden) -> `h'` (batch, hidden); or all without batch.

        Raises ValueError where the shape of `h` does not go with that of `x`.
        """
        init.check_state("h", h, x, self.hidden_size)
        xh = torch.cat([x, h], -1)
        r = torch.sigmoid(linear(xh, self.Wr, self.br))
        z = torch.sigmoid(linear(xh, self.Wz, self.bz))
        if self.bhh is None:
            candidate = torch.tanh(linear(torch.cat([r * h, x], -1), self.Wh, self.bh))
        else:
            Wh_h, Wh_x = self.Wh[:, : self.hidden_size], self.Wh[:, self.hidden_size :]
            candidate = torch.tanh(linear(x, Wh_x, self.bh) + r * linear(h, Wh_h, self.bhh))
        return (1 - z) * h + z * candidate

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, reset_after={self.reset_after}"


class CustomGRU(nn.Module):
    """Layers of `CustomGRUCell` run over time, each on the output of the one below; they lie in `cells`.

    Raises SpecError where a size is below 1.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        reset_after: bool = False,
        *,
        device: Device = None,
        dtype: Dtype = None,
    ) -> None:
        super().__init__()
        init.check_sizes(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.num_layers, self.reset_after = num_layers, reset_after
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.cells = nn.ModuleList(
            CustomGRUCell(size, hidden_size, reset_after, device=device, dtype=dtype) for size in sizes
        )

    def forward(self, x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`x` (time, batch, input), `h_0` (layers, batch, hidden) or None for zeros
        -> output (time, batch, hidden) of the last layer, `h_n` (layers, batch, hidden).

        `h_0` is not written to. Raises ValueError where `x` is not 3-D or `h_0` does not go with it.
        """
        start = init.first_state("h_0", h_0, x, self.num_layers, self.hidden_size)
        last: list[Tensor] = []
        for layer, cell in enumerate(self.cells):
            h = start[layer]
            outputs: list[Tensor] = []
            for x_t in x.unbind(0):
                h = cell(x_t, h)
                outputs.append(h)
            x = torch.stack(outputs)
            last.append(h)
        return x, torch.stack(last)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, reset_after={self.reset_after}"

    @classmethod
    def from_torch(cls, gru: nn.GRU) -> "CustomGRU":
        """Build the equal of `gru`, with `reset_after`, on its device and in its dtype.

        torch has h' = (1 - z)∘h~ + z∘h, so its update gate is taken over negated: σ(-a) = 1 - σ(a).

        Raises LiftError where `gru` is bidirectional, batch-first, or has dropout at work.
        """
        init.check_torch(gru, nn.GRU)
        W = gru.all_weights[0][0]
        ours = cls(gru.input_size, gru.hidden_size, gru.num_layers, True, device=W.device, dtype=W.dtype)
        for layer, cell in enumerate(ours.cells):
            r, z, n = init.read_gates(gru, layer)
            init.assign(cell, Wr=r.xh, br=r.b, Wz=-z.xh, bz=-z.b, Wh=n.hx, bh=n.bx, bhh=n.bh)
        return ours.train(gru.training)

    def to_torch(self) -> nn.GRU:
        """Build the torch layer that equals this one, time-major.

        Raises LiftError without `reset_after`, a form that torch does not have.
        """
        if not self.reset_after:
            raise LiftError(
                "nn.GRU resets after the product, this layer before it: no weights make them equal. "
                "Train with reset_after=True, or export this layer as it is.",
                id="gru-reset-differs",
            )
        H, W = self.hidden_size, self.cells[0].get_parameter("Wr")
        gru = nn.GRU(self.input_size, H, self.num_layers, device=W.device, dtype=W.dtype)
        for layer, cell in enumerate(self.cells):
            Wr, br, Wz, bz, Wh, bh, bhh = map(cell.get_parameter, ("Wr", "br", "Wz", "bz", "Wh", "bh", "bhh"))
            r, z = (init.torch_gate(w, b, w.shape[1] - H) for w, b in ((Wr, br), (-Wz, -bz)))
            init.write_gates(gru, layer, [r, z, init.TorchGate(Wh[:, H:], Wh[:, :H], bh, bhh)])
        return gru.train(self.training)
