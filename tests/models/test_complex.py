"""Complex values: operators as pairs of real ones, two tensors at the boundary, and nothing else in ONNX and C."""

import operator

import onnx
import pytest
import torch
from torch import nn

from rnn_export.export import export
from rnn_export.export.lift.rewrite.flat_graph import flat_graph

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from ..zoo.complex_numbers import Diagonal  # noqa: TID252
from .streams import Call

C = torch.complex64
BATCH = {0: torch.export.Dim.DYNAMIC}


def boundary(s, z, h):
    """Complex frames in and out."""
    h = h * 0.5 + z @ s.w
    return h * h.abs(), h


@pytest.mark.parametrize("frame", [torch.randn(2, 4), torch.randn(2, 4, dtype=C)], ids=["state", "frame and state"])
def test_a_complex_tensor_is_two_at_the_boundary_in_onnx_and_c(tmp_path, frame):
    torch.manual_seed(0)
    split = frame.is_complex()
    model = Call(boundary, w=nn.Parameter(torch.randn(4, 4, dtype=C) / 3)) if split else Diagonal().eval()
    example, states = (frame, torch.zeros(2, 4 if split else 6, dtype=C)), {"h": 1, **({"z": None} if split else {})}
    made = export(model, example, tmp_path / "net.rnnx", targets=("onnx", "c"), steps=32, states=states, time_axis=None)
    assert [t.name for t in made.spec.inputs] == (["z.real", "z.imag"] if split else ["x"])
    assert [t.name for t in made.spec.outputs] == (["output.real", "output.imag"] if split else ["output"])
    assert [(s.name, s.input, s.output, s.shape, s.dtype) for s in made.spec.states] == [
        (f"h.{part}", f"h.{part}", f"h.{part}.next", ("batch", *example[1].shape[1:]), "float32")
        for part in ("real", "imag")
    ]
    graph = onnx.load_from_string(made.read("step.onnx")).graph
    kinds = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    assert not kinds & {onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128}


def with_parts(function):
    """A model of y, complex but given as pairs, and z, real, both (B, 4)."""
    torch.manual_seed(0)

    def forward(s, x, z):
        result = function(s, torch.view_as_complex(x), z)
        return (result.real, result.imag) if result.is_complex() else (result * 1.0,)

    weights = {"w": nn.Parameter(torch.randn(4, 4, dtype=C)), "b": nn.Parameter(torch.randn(4, dtype=C))}
    return Call(forward, **weights, linear=nn.Linear(4, 5, dtype=C), conv=nn.Conv1d(4, 6, 3, dtype=C))


def set_part(y):
    other = torch.zeros_like(y)
    other[:, 1] = y[:, 0]
    return other


OPERATORS = {
    "zeros and ones like": lambda s, y, z: torch.ones_like(y) * y + torch.zeros_like(y),
    "matmul": lambda s, y, z: y @ s.w + s.b,
    "linear": lambda s, y, z: s.linear(y),
    "addmm": lambda s, y, z: torch.addmm(s.b, y, s.w),
    "convolution": lambda s, y, z: s.conv(y[:, :, None].expand(-1, -1, 5)),
    "einsum": lambda s, y, z: torch.einsum("bi,ij->bj", y, s.w.conj()),
    "einsum of three": lambda s, y, z: torch.einsum("bi,ij,bj->bj", y, s.w, y),
    "conj": lambda s, y, z: y.conj() * torch.complex(z, 2 * z),
    "div": lambda s, y, z: y / (y + 1j),
    "number / complex": lambda s, y, z: 2 / y,
    "number - complex": lambda s, y, z: 2 - y,
    "complex number": lambda s, y, z: y * (1 + 2j) - 1j,
    "real times i": lambda s, y, z: z * 1j,
    "abs": lambda s, y, z: y.abs(),
    "angle": lambda s, y, z: y.angle(),
    "polar": lambda s, y, z: torch.polar(y.abs(), y.angle()),
    "exp": lambda s, y, z: torch.exp(y),
    "exp(iz)": lambda s, y, z: y * torch.exp(1j * z),
    "log": lambda s, y, z: torch.log(y),
    "sqrt": lambda s, y, z: torch.sqrt(y),
    "sgn": lambda s, y, z: torch.sgn(y),
    "y**2": lambda s, y, z: y**2,
    "y**0.5": lambda s, y, z: y**0.5,
    "y**-2": lambda s, y, z: y**-2,
    "powers": lambda s, y, z: y[:, :, None] ** torch.arange(3),
    "addcmul": lambda s, y, z: torch.addcmul(y, y, s.b, value=2),
    "vecdot": lambda s, y, z: torch.linalg.vecdot(y, y * 1j),
    "norm": lambda s, y, z: torch.linalg.vector_norm(y, dim=-1),
    "sum, mean, cumsum": lambda s, y, z: y.sum(-1, keepdim=True) + y.mean(-1, keepdim=True) * y.cumsum(-1),
    "cat, stack": lambda s, y, z: torch.stack([torch.cat([y, torch.complex(z, z)], 1), torch.cat([y, y], 1)], 1),
    "where": lambda s, y, z: torch.where(z > 0, y, 0 * y) + torch.where(z > 1, y, 2.0),
    "slices": lambda s, y, z: y.split(2, 1)[1] * y.unbind(1)[0][:, None] + y[:, [2, 0]] + y.roll(1, -1)[:, :2],
    "assignment": lambda s, y, z: set_part(y),
    "in place": lambda s, y, z: y.clone().mul_(1j).add_(s.b),
    "pad": lambda s, y, z: torch.nn.functional.pad(y, (1, 2)),
    "pad by a value": lambda s, y, z: torch.nn.functional.pad(y, (1, 2), value=1.5),
    "factories": lambda s, y, z: y + torch.zeros(len(s.b), dtype=C) + torch.full((4,), 1 + 2j) - torch.ones_like(y),
    "types": lambda s, y, z: (y.to(torch.complex128) * 1j).to(C) + z.to(C),
    "weights": lambda s, y, z: y * torch.exp(-torch.exp(s.w.real) + 1j * s.w.imag)[0],
    "equal": lambda s, y, z: (y == torch.complex(y.real, -y.imag)) | torch.isfinite(y),
    "mH": lambda s, y, z: (y[:, :, None] @ y[:, None, :]).mH,
    "fft": lambda s, y, z: torch.fft.fft(y, norm="ortho"),
    "fft, padded": lambda s, y, z: torch.fft.fft(y[:, None].expand(-1, 3, -1), dim=1, n=5),
    "ifft": lambda s, y, z: torch.fft.ifft(y, norm="forward"),
    "rfft": lambda s, y, z: torch.fft.rfft(z),
    **{f"irfft of {n}": lambda s, y, z, n=n: torch.fft.irfft(y, n=n) for n in (4, 5, 6, 7)},
}


@pytest.mark.parametrize("function", OPERATORS.values(), ids=OPERATORS)
def test_operators_in_pairs(function):
    module = with_parts(function)
    graph = flat_graph(module, (torch.randn(3, 4, 2), torch.randn(3, 4)), (BATCH, BATCH))
    inputs = torch.randn(5, 4, 2), torch.randn(5, 4)
    with torch.no_grad():
        for got, want in zip(graph(*inputs), module(*inputs), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    values = (node.meta["val"] for node in graph.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor))
    assert not any(map(operator.methodcaller("is_complex"), values))


@pytest.mark.parametrize("name", ["tanh", "prod"])
def test_an_operator_without_a_form_in_pairs_is_refused_by_name_and_line(name):
    module = with_parts(lambda s, y, z: getattr(torch, name)(y, *([1] if name == "prod" else [])))
    with raises("complex-operator-unknown", "the model (test_complex.py", f"): {name}"):
        flat_graph(module, (torch.randn(3, 4, 2), torch.randn(3, 4)), (BATCH, BATCH))


def test_a_complex_input_that_comes_back_in_its_shape_is_no_state():
    """Its two parts are one input."""

    def masked(s, spectrum):
        return spectrum * s.gru(torch.view_as_real(spectrum).flatten(2))[0].sigmoid()

    module, spectrum = Call(masked, gru=nn.GRU(4, 2, batch_first=True)), torch.randn(2, 6, 2, dtype=C)
    lifted = lift(module, (spectrum,))
    assert [t.name for t in lifted.spec.inputs] == [leaf.name for leaf in lifted.original.inputs]
    assert len(lifted.spec.inputs) == len(lifted.spec.outputs) == 2
    state, ys = torch.zeros(2, 2), []
    with torch.no_grad():
        for frame in spectrum.split(1, 1):
            re, im, state = lifted.module(frame.real, frame.imag, state)
            ys.append(torch.complex(re, im))
        torch.testing.assert_close(torch.cat(ys, 1), module(spectrum))
