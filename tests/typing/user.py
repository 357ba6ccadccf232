"""Code of a user, type-checked under --strict and never run: every name here has a real type."""

import asyncio

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn, zeros

import rnn_export
from rnn_export import Batcher, export, load
from rnn_export.contract.choices import BackendName, ServerAddress
from rnn_export.errors import BackendUnavailable, StreamError
from rnn_export.runtime import Engine, Pool, Stream

Array = NDArray[np.float32]


def one_output() -> Array:
    engine = load("vad.rnnx", backend="onnxruntime", precision="fp32").with_one_output()
    stream = engine.stream()
    out = np.zeros(1, np.float32)
    for frame in np.zeros((100, 40), np.float32):
        probability = stream.step(frame)
        if probability is not None:
            print(probability.max(), engine.spec.delay)
        out = stream.step(frame, out=out)
    stream.restore(stream.snapshot())
    print(stream.states["rnn.l0.h"].shape)
    whole = stream.run(np.zeros((100, 40), np.float32))
    return out if whole is None else whole


def many_outputs() -> None:
    engine = load("tagger.rnnx").with_named_outputs()
    stream = engine.stream(batch=2, states={"h": np.zeros((2, 8))})
    outputs = stream.step({"audio": np.zeros((2, 40), np.float32), "speaker": [3, 4]})
    if outputs is not None:
        outputs = stream.step({"audio": np.zeros((2, 40), np.float32), "speaker": [3, 4]}, out=outputs)
        print(outputs["tag"].argmax())
    for name, values in stream.run({"audio": np.zeros((2, 9, 40)), "speaker": np.zeros((2, 9))}).items():
        print(name, 0 if values is None else values.shape[1])


def not_said() -> None:
    """Without a word on the outputs a step gives whatever the model has."""
    y = load("any.rnnx").stream().step(np.zeros(40))
    if isinstance(y, dict):
        print(sorted(y))
    elif y is not None:
        print(y.shape)


def of_any_model(stream: Stream, pool: Pool) -> None:
    stream.reset()
    stream.reset(rows=[True, False])
    print(stream.batch, pool.capacity)


def pools(engine: Engine[Array]) -> float:
    pool = engine.pool(capacity=64, idle_timeout=30, on_nan="close")
    ids = [pool.open() for _ in range(8)]
    y = pool.step(ids[2:], np.zeros((6, 40), np.float32))
    y = pool.step(np.array(ids[2:]), np.zeros((6, 40), np.float32), out=y)
    pool.close(ids[0])
    pool.close(ids[1:])
    metrics, health = pool.metrics(), pool.health(ids[7])
    p99 = metrics["round"]["p99_ms"]
    return float(y.max()) + metrics["frames"] + health["idle_s"] + (p99 or 0.0)


async def batched(engine: Engine[dict[str, Array]]) -> int:
    pool = engine.pool()
    async with Batcher(pool, max_delay_ms=2) as batcher:
        first = pool.open()
        outputs = await batcher.submit(first, np.zeros(40, np.float32), deadline_ms=20)
        later = batcher.submit(first, np.zeros(40, np.float32)).result(timeout=1)
        if outputs is not None and later is not None:
            print(outputs["tag"].shape, later["tag"].shape)
        return batcher.metrics()["waiting"]


def chosen(backend: BackendName) -> float:
    try:
        engine = load("vad.rnnx", backend=backend)
    except BackendUnavailable:
        engine = load("vad.rnnx", backend=ServerAddress("grpc://server:8001/vad"))
    try:
        engine.stream().step(np.zeros(40))
    except StreamError as error:
        print(error)
    print(engine.skipped_backends, engine.batches[1])
    return engine.metrics().get("moves", 0)


def exported(model: nn.Module, example: Tensor) -> None:
    print(export(model, (example,), "vad.rnnx", targets=("onnx", "c"), precision="bf16").spec.delay)
    print(rnn_export.export(model, (example,), "vad.rnnx").spec.delay, rnn_export.load("vad.rnnx").batches)
    print(rnn_export.lift(model, (example,), rnn_export.LiftOptions(chunk=4)).spec.delay)


if __name__ == "__main__":
    one_output()
    asyncio.run(batched(load("tagger.rnnx").with_named_outputs()))
    exported(nn.Linear(2, 2), zeros(1, 2))
