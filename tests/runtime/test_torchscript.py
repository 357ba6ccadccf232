"""The TorchScript backend: the same streams as ONNX Runtime's, devices, and files that it cannot use."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from rnn_export.bundle import TargetRow, open_bundle, write_bundle
from rnn_export.cli.main import main
from rnn_export.export import export
from rnn_export.runtime import load
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.golden import FILE, Golden

from ..messages import raises  # noqa: TID252
from ..models.nets import Ids  # noqa: TID252
from ..trusting import trusted  # noqa: TID252
from ..zoo import store  # noqa: TID252
from .graphs import SUM, Model, frames, previous, state
from .torch_toys import STEP


@pytest.fixture(scope="module")
def both() -> Path:
    return store.bundle("several-on-torchscript")


def scripted(module: nn.Module, contract: str) -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(module), file, _extra_files={"rnn_export.spec": contract})
    return file.getvalue()


def written(path: Path, model: Model, module: nn.Module | bytes, name: str = STEP, contract: str | None = None) -> Path:
    """A bundle with a step written by hand."""
    raw = module if isinstance(module, bytes) else scripted(module, contract or model.spec.dumps())
    rows = [TargetRow("torchscript", "fp32", None, (name,), {})]
    return trusted(write_bundle(path, spec=model.spec, producer={}, files={name: raw}, targets=rows, force=True))


class Sum(nn.Module):
    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y = x + h
        return y, y


class Previous(nn.Module):
    """The next state is the input itself, whose buffer is used again."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return h, x


# --- conformance --------------------------------------------------------------------------------------------------


def test_auto_takes_it_where_nothing_else_can(both, tmp_path):
    assert load(both).backend == "onnxruntime"
    assert load(written(tmp_path / "m.rnnx", SUM, Sum())).backend == "torchscript"


def test_integer_inputs_of_an_exported_model(tmp_path):
    torch.manual_seed(0)
    model, ids = Ids().eval(), np.array([3, 1, 10, 0, 7])
    export(model, (torch.zeros(2, 7, dtype=torch.long),), tmp_path / "m.rnnx", targets=("torchscript",), steps=16)
    got = load(tmp_path / "m.rnnx").stream().run(ids)
    with torch.no_grad():
        np.testing.assert_allclose(got, model(torch.from_numpy(ids)[None])[0].numpy(), rtol=1e-5, atol=1e-6)


# --- what it refuses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda", "cuda:99"])
def test_a_gpu_that_is_not_there(both, device):
    if torch.cuda.is_available() and device == "cuda":
        pytest.skip("there is one")
    number = device.partition(":")[2] or "0"
    with raises("torchscript-gpu-missing", f"'{device}'", number):
        load(both, backend="torchscript", device=device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_golden_vectors_replay_on_a_gpu(both):
    bundle, engine = open_bundle(both), load(both, backend="torchscript", device="cuda")
    assert engine.device == "cuda:0"
    assert replay_golden(engine, Golden.from_arrays(bundle.arrays(FILE), bundle.spec)).ok


def test_a_bundle_without_the_target(bundle):
    with raises("target-not-in-bundle", "'torchscript'", "onnx", "torchscript"):
        load(bundle("sum"), backend="torchscript")


def test_a_damaged_file(tmp_path):
    path = written(tmp_path / "m.rnnx", SUM, Sum())
    raw = bytearray((path / STEP).read_bytes())
    raw[len(raw) // 2] ^= 1
    (path / STEP).write_bytes(raw)
    with raises("bundle-file-hash-differs", f"'{STEP}'"):
        load(path, backend="torchscript")


class Wide(nn.Module):
    """An output of one row, which would be broadcast."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return (x + h)[:1], h


class Raises(nn.Module):
    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return x @ h, h


OTHER = replace(SUM.spec, states=(state("c", 3),)).dumps()
CANNOT_LOAD = ("torchscript-cannot-load", torch.__version__, STEP)
# A step, what differs of how it is written, and the message.
HOSTILE = {
    "empty": (b"", {}, CANNOT_LOAD),
    "text": (b"no archive", {}, CANNOT_LOAD),
    "half a zip": (b"PK\3\4" + bytes(100), {}, CANNOT_LOAD),
    "no step": (b"", {"name": "weights.bin"}, ("torchscript-file-missing", "weights.bin")),
    "another contract": (Sum(), {"contract": OTHER}, ("torchscript-other-contract", "step.pt")),
    "no contract": (Sum(), {"contract": "{}"}, ("torchscript-other-contract", "step.pt")),
    "other outputs": (Wide(), {}, ("torchscript-contract-differs", "[('float32', (1, 3))")),
    "an error": (Raises(), {}, ("torchscript-cannot-run", "cpu", "mat1 and mat2")),
}


@pytest.mark.parametrize(("step", "how", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_is_none_of_a_bundle(tmp_path, step, how, message):
    with raises(*message):
        load(written(tmp_path / "m.rnnx", SUM, step, **how), backend="torchscript")


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_shows_and_uses_it(both, tmp_path):
    def invoke(*arguments: object) -> str:
        done = CliRunner().invoke(main, [*map(str, arguments)])
        assert done.exit_code == 0, done.output
        return done.stdout

    shown = invoke("inspect", both)
    for part in ("torchscript", STEP, "Parity on onnxruntime, torchscript (cpu)", "torchscript.sequence"):
        assert part in shown
    verified = invoke("verify", both, "--backend", "torchscript")
    assert "Parity on torchscript (cpu), 64 steps of 2 frames x 2 rows" in verified
    np.save(tmp_path / "x.npy", frames(4, 3))
    path = written(tmp_path / "m.rnnx", SUM, Sum())
    invoke("run", path, tmp_path / "x.npy", "-o", tmp_path / "y.npy", "--backend", "torchscript")
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), frames(4, 3).cumsum(0))


def test_a_pool_takes_frames_that_are_read_only(both):
    """As those of jax and of a memory map are; torch warns of them."""
    pool = load(both, backend="torchscript").pool()
    ids = [pool.open() for _ in range(2)]
    x = {t.name: np.zeros((2, *((2,) if pool.spec.timed(t) else ()), *t.frame), t.dtype) for t in pool.spec.inputs}
    for array in x.values():
        array.flags.writeable = False
    pool.step(ids, x)
    assert pool.frames(ids).tolist() == [2, 2]


def test_a_pool_keeps_states_that_are_one_number(tmp_path):
    pool = load(written(tmp_path / "m.rnnx", previous("float32"), Previous()), backend="torchscript").pool()
    ids = [pool.open() for _ in range(3)]
    pool.step(ids, np.array([1, 2, 3], np.float32))
    assert pool.step(ids[::-1], np.zeros(3, np.float32)).tolist() == [3, 2, 1]


def test_a_pool_sees_nan_in_a_state_and_keeps_states_on_an_error(tmp_path):
    path = written(tmp_path / "m.rnnx", SUM, Sum())
    pool = load(path, backend="torchscript").pool()
    a, b = pool.open(), pool.open()
    pool._store.write(pool._table.find([b]), {"h": np.full((1, 3), np.nan, np.float32)})
    pool.step([a, b], np.ones((2, 3), np.float32))
    assert (pool.metrics()["nan"], pool.health(b)["resets"]) == (1, 1)
    np.testing.assert_array_equal(pool.step([b, a], np.ones((2, 3), np.float32)), [[1] * 3, [2] * 3])
    assert pool.metrics()["nbytes"] > 0
