"""The TorchScript backend: the same streams as ONNX Runtime's, devices, and files that it cannot use."""

import io
import subprocess
import sys
import threading
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
from ..models.nets import Ids, Several  # noqa: TID252
from ..trusting import trusted  # noqa: TID252
from .graphs import CHUNKED, PAIR, SUM, TIME_MAJOR, TOKENS, Model, frames, previous, state

STEP = "targets/torchscript-fp32/step.pt"


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    """A model with two inputs and outputs, three states and chunks, for both backends."""
    torch.manual_seed(0)
    example = (torch.zeros(2, 7, 4), torch.zeros(2, 7, 3), torch.zeros(2, 2))
    path = tmp_path_factory.mktemp("torchscript") / "m.rnnx"
    export(Several().eval(), example, path, targets=("onnx", "torchscript"), chunk=2, steps=32)
    return path


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


class AlongTime(nn.Module):
    def __init__(self, axis: int):
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y = x.cumsum(self.axis) + h.unsqueeze(self.axis)
        return y, y.select(self.axis, -1)


class Pair(nn.Module):
    def forward(self, a: Tensor, b: Tensor, s: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        s, p = s + a, p + a * b
        return s, p, s, p


class Previous(nn.Module):
    """The next state is the input itself, whose buffer is used again."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return h, x


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Buffer(torch.arange(10.0).reshape(5, 2))

    def forward(self, i: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.embedding(self.table, i) + h
        return y, y


# --- conformance --------------------------------------------------------------------------------------------------


def test_the_golden_vectors_replay(both):
    bundle, engine = open_bundle(both), load(both, backend="torchscript")
    assert (engine.backend, engine.device) == ("torchscript", "cpu")
    report = replay_golden(engine, Golden.from_arrays(bundle.arrays(FILE), bundle.spec))
    assert report.ok
    assert {d.check for d in report.drifts} == {
        "step",
        "sequence",
        "chunked",
        "reset",
        "snapshot",
        "batch-invariance",
        "pool",
        "end",
        "pool end",
    }


def test_auto_takes_onnxruntime_where_it_can(both):
    assert load(both).backend == "onnxruntime"


def test_auto_takes_torchscript_where_nothing_else_can(tmp_path):
    assert load(written(tmp_path / "m.rnnx", SUM, Sum())).backend == "torchscript"


def test_layouts_and_chunks(tmp_path):
    xs = frames(2, 6, 3)
    for model, axis in ((CHUNKED, 1), (TIME_MAJOR, 0)):
        stream = load(written(tmp_path / "m.rnnx", model, AlongTime(axis))).stream(batch=2)
        np.testing.assert_array_equal(np.concatenate([stream.run(xs[:, :4]), stream.run(xs[:, 4:])], 1), xs.cumsum(1))
        np.testing.assert_array_equal(stream.states["h"], xs.sum(1))


def test_several_tensors_and_out(tmp_path):
    stream = load(written(tmp_path / "m.rnnx", PAIR, Pair())).stream()
    a, b, out = frames(3, 2), frames(3, 2, seed=1), {name: np.empty(2, np.float32) for name in ("sum", "dot")}
    for x, y in zip(a, b, strict=True):
        assert stream.step({"a": x, "b": y}, out=out) is out
    np.testing.assert_array_equal(out["sum"], a.sum(0))
    np.testing.assert_array_equal(out["dot"], (a * b).sum(0))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "uint8", "bool"])
def test_a_state_that_is_the_input_outlives_its_buffer(tmp_path, dtype):
    stream = load(written(tmp_path / "m.rnnx", previous(dtype), Previous())).stream()
    assert [stream.step(np.dtype(dtype).type(x)) for x in (1, 0, 1, 1)] == [0, 1, 0, 1]


def test_states_given_reset_and_rows(tmp_path):
    engine = load(written(tmp_path / "m.rnnx", SUM, Sum()))
    given = np.float32([1, 2, 3])
    stream = engine.stream(batch=2, states={"h": given})
    x = frames(2, 3)
    np.testing.assert_array_equal(stream.step(x), x + given)
    given[:] = 9
    stream.reset()
    np.testing.assert_array_equal(stream.states["h"], [[1, 2, 3], [1, 2, 3]])


@pytest.mark.parametrize(("first", "second"), [("onnxruntime", "torchscript"), ("torchscript", "onnxruntime")])
def test_a_snapshot_moves_to_the_other_backend(both, first, second):
    golden = open_bundle(both).arrays(FILE)
    xs = {name: golden[f"input/{name}"] for name in ("left", "right", "speaker")}

    def cut(start: int, stop: int) -> dict:
        return {name: a[:, start:stop] if name != "speaker" else a for name, a in xs.items()}

    # An odd number, so that a frame waits for its chunk.
    a, b = load(both, backend=first).stream(batch=2), load(both, backend=second).stream(batch=2)
    start = a.run(cut(0, 13))
    b.restore(a.snapshot())
    rest = b.run(cut(13, 32))
    for name in start:
        got = np.concatenate([start[name], rest[name]], 1)
        np.testing.assert_allclose(got, golden[f"output/{name}"][:, :32], rtol=1e-5, atol=1e-6)


def test_threads_share_an_engine(both):
    engine, golden = load(both, backend="torchscript"), open_bundle(both).arrays(FILE)
    xs = {name: golden[f"input/{name}"][:1] for name in ("left", "right", "speaker")}
    results: list = []
    threads = [threading.Thread(target=lambda: results.append(engine.stream().run(xs))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    name = next(iter(results[0]))
    assert all(np.array_equal(r[name], results[0][name]) for r in results)


def test_ids_out_of_range_leave_the_state(tmp_path):
    stream = load(written(tmp_path / "m.rnnx", TOKENS, Table())).stream()
    stream.step(3)
    for _ in range(2):
        with raises("torchscript-frame-refused", "torchscript", "index out of range"):
            stream.step(7)
        np.testing.assert_array_equal(stream.states["h"], [[6, 7]])
    np.testing.assert_array_equal(stream.step(0), [6, 8])


def test_integer_inputs_of_an_exported_model(tmp_path):
    torch.manual_seed(0)
    model, ids = Ids().eval(), np.array([3, 1, 10, 0, 7])
    export(model, (torch.zeros(2, 7, dtype=torch.long),), tmp_path / "m.rnnx", targets=("torchscript",), steps=16)
    got = load(tmp_path / "m.rnnx").stream().run(ids)
    with torch.no_grad():
        np.testing.assert_allclose(got, model(torch.from_numpy(ids)[None])[0].numpy(), rtol=1e-5, atol=1e-6)


# --- what it refuses ----------------------------------------------------------------------------------------------


def test_bad_options(both):
    for options, message in (
        ({"device": "tpu"}, ("torchscript-device-unknown", "'tpu'")),
        ({"device": "cpu:1"}, ("torchscript-device-unknown", "'cpu:1'")),
        ({"precision": "fp16"}, ("target-precision-missing", "'torchscript' in fp32", "fp16")),
        ({"threads": 2}, ("torchscript-threads-option", "2")),
    ):
        with raises(*message):
            load(both, backend="torchscript", **options)


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


def test_a_device_without_torch(both):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from rnn_export.runtime import load\n"
        "from rnn_export.errors import BackendUnavailable\n"
        "print(load(sys.argv[1]).backend)\n"
        "try: load(sys.argv[1], backend='torchscript')\n"
        "except BackendUnavailable as error: print(error)\n"
    )
    given = subprocess.run([sys.executable, "-c", code, both], capture_output=True, text=True, check=True)
    assert given.stdout.startswith("onnxruntime\ntorch is not here")
    assert "pip install torch" in given.stdout


def test_a_damaged_file(tmp_path):
    path = written(tmp_path / "m.rnnx", SUM, Sum())
    raw = bytearray((path / STEP).read_bytes())
    raw[len(raw) // 2] ^= 1
    (path / STEP).write_bytes(raw)
    with raises("bundle-file-hash-differs", "'targets/torchscript-fp32/step.pt'"):
        load(path, backend="torchscript")


@pytest.mark.parametrize("raw", [b"", b"no archive", b"PK\3\4" + bytes(100)], ids=["empty", "text", "half a zip"])
def test_a_file_that_cannot_be_loaded(tmp_path, raw):
    path = written(tmp_path / "m.rnnx", SUM, raw)
    with raises("torchscript-cannot-load", torch.__version__, "targets/torchscript-fp32/step.pt"):
        load(path, backend="torchscript")


def test_a_target_without_its_step(tmp_path):
    path = written(tmp_path / "m.rnnx", SUM, b"", name="weights.bin")
    with raises("torchscript-file-missing", "weights.bin"):
        load(path, backend="torchscript")


def test_a_step_of_another_contract(tmp_path):
    other = replace(SUM.spec, states=(state("c", 3),))
    for contract in (other.dumps(), "{}"):
        path = written(tmp_path / "m.rnnx", SUM, Sum(), contract=contract)
        with raises("torchscript-other-contract", "step.pt"):
            load(path, backend="torchscript")


class Wide(nn.Module):
    """An output of one row, which would be broadcast."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return (x + h)[:1], h


class Raises(nn.Module):
    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return x @ h, h


def test_a_step_that_gives_something_else(tmp_path):
    with raises("torchscript-contract-differs", "[('float32', (1, 3))"):
        load(written(tmp_path / "m.rnnx", SUM, Wide()), backend="torchscript")


def test_a_step_that_cannot_run(tmp_path):
    with raises("torchscript-cannot-run", "cpu", "mat1 and mat2"):
        load(written(tmp_path / "m.rnnx", SUM, Raises()), backend="torchscript")


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_shows_and_uses_it(both):
    shown = CliRunner().invoke(main, ["inspect", str(both)])
    assert shown.exit_code == 0, shown.output
    for part in ("torchscript", STEP, "Parity on onnxruntime, torchscript (cpu)", "torchscript.sequence"):
        assert part in shown.stdout
    verified = CliRunner().invoke(main, ["verify", str(both), "--backend", "torchscript"])
    assert verified.exit_code == 0, verified.output
    assert "Parity on torchscript (cpu), 32 steps of 2 frames x 2 rows" in verified.stdout


def test_the_command_runs_it(tmp_path):
    path = written(tmp_path / "m.rnnx", SUM, Sum())
    np.save(tmp_path / "x.npy", frames(4, 3))
    command = ["run", str(path), str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npy"), "--backend", "torchscript"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), frames(4, 3).cumsum(0))


def test_a_pool_steps_the_same_streams(both):
    engine, rng = load(both, backend="torchscript"), np.random.default_rng(0)
    pool, alone = engine.pool(capacity=120), {}
    for _ in range(6):
        alone |= {pool.open(): engine.stream() for _ in range(20)}
        ids = rng.permutation(list(alone))[: rng.integers(1, len(alone))].tolist()
        x = {
            t.name: rng.standard_normal((len(ids), *((2,) if engine.spec.timed(t) else ()), *t.frame), np.float32)
            for t in engine.spec.inputs
        }
        y = pool.step(ids, x)
        for i, stream in enumerate(ids):
            want = alone[stream].step({name: rows[i] for name, rows in x.items()})
            for name, value in want.items():
                np.testing.assert_allclose(y[name][i], value, atol=2e-6)
    kept = next(iter(alone))
    for name, value in alone[kept].states.items():
        np.testing.assert_allclose(pool.states(kept)[name], value, atol=2e-6)


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
