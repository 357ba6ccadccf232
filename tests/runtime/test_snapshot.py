"""Snapshots: bytes that go on exactly where they were taken, and nowhere else."""

import struct
import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest

from rnn_export.contract.snapshot import CHECK, HEADER, MAGIC, Snapshot, pack
from rnn_export.errors import StreamError
from rnn_export.runtime import load

from ..messages import raises  # noqa: TID252
from .graphs import LARGEST, MODELS, SUM, Model

DRIVE = """
import sys, numpy as np
from rnn_export.runtime import load
bundle, snapshot, pieces = sys.argv[1:]
with np.load(pieces) as file:
    xs = dict(file)
stream = load(bundle).stream(batch=2)
stream.restore(open(snapshot, "rb").read())
given = stream.run(xs)
np.savez(pieces, **(given if isinstance(given, dict) else {"y": given}))
"""


def is_timed(model: Model, name: str) -> bool:
    tensor = next(t for t in model.spec.inputs if t.name == name)
    return not model.spec.has_time or "time" in tensor.shape


def inputs_of(model: Model, frames_: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Two rows of random inputs by name."""
    random = np.random.default_rng(seed)
    shapes = {t: (2, *((frames_,) if is_timed(model, t.name) else ()), *t.frame) for t in model.spec.inputs}
    return {t.name: random.integers(0, 4, shape).astype(t.dtype) for t, shape in shapes.items()}


def cut(model: Model, inputs: dict[str, np.ndarray], piece: slice) -> dict[str, np.ndarray]:
    return {name: a[:, piece] if is_timed(model, name) else a for name, a in inputs.items()}


def check_equal(given: object, want: object) -> None:
    given = given if isinstance(given, dict) else {"": given}
    want = want if isinstance(want, dict) else {"": want}
    assert list(given) == list(want)
    for name in want:
        np.testing.assert_array_equal(given[name], want[name])


@pytest.mark.contract
@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("previous")])
@pytest.mark.parametrize("at", [0, 4, 5, 6])
def test_goes_on_exactly_in_another_stream_and_engine(engine, bundle, name, at):
    model = MODELS[name]
    inputs = inputs_of(model, 12)
    first, rest = cut(model, inputs, slice(at)), cut(model, inputs, slice(at, None))
    stream = engine(name).stream(batch=2)
    stream.run(first)
    snapshot = stream.snapshot()
    assert isinstance(snapshot, bytes)
    want = stream.run(rest)
    for other, kind in (
        (engine(name).stream(batch=2), bytes),
        (load(bundle(name)).stream(batch=2), bytearray),
        (stream, memoryview),
    ):
        start = other.states if other is not stream else None
        other.restore(kind(snapshot))
        assert other.snapshot() == snapshot
        check_equal(other.run(rest), want)
        check_equal(other.states, stream.states)
        if start is not None:
            other.reset()
            check_equal(other.states, start)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_fresh_snapshot_of_a_running_maximum_restores(engine, batch):
    stream, other = engine("largest").stream(batch), engine("largest").stream(batch, states={"h": [7, 7, 7]})
    other.restore(stream.snapshot())
    pool = engine("largest").pool()
    np.testing.assert_array_equal(other.states["h"], [[-np.inf, 2, -np.inf]] * batch)
    again = engine("largest").stream(batch, states=other.states)
    x = np.array([[-5, 1, -7], [0, 3, -1]][:batch], np.float32).squeeze()
    np.testing.assert_array_equal(other.step(x), stream.step(x))
    np.testing.assert_array_equal(again.step(x), stream.step(x))
    if batch == 1:
        first = pool.open()
        second, third = pool.open(snapshot=pool.snapshot(first)), pool.open(states=pool.states(first))
        pool.restore(third, pool.snapshot(second))
        np.testing.assert_array_equal(pool.step([second, third], [x, x]), [[-5, 2, -7]] * 2)


@pytest.mark.parametrize(
    ("h", "at"), [([np.inf, 2, 3], 0), ([1, -np.inf, 3], 1), ([1, 2, np.nan], 2), ([-np.inf, 2, np.nan], 2)]
)
def test_any_other_infinity_is_refused(engine, h, at):
    h = np.array(h, np.float32)
    stream, pool = engine("largest").stream(), engine("largest").pool()
    raw = pack(LARGEST.spec, 1, Snapshot(0, {"h": h[None]}, {}))
    given = {"h": h}
    for index, refused in (
        (f"(0, {at})", lambda: stream.restore(raw)),
        (f"(0, {at})", lambda: pool.open(snapshot=raw)),
        (f"({at},)", lambda: pool.open(states=given)),
        (f"({at},)", lambda: engine("largest").stream(states=given)),
    ):
        with raises("frame-not-finite", "'h'", f"index {index}"):
            refused()


# `mixed` at 5 has two frames that wait, in two of its three inputs.
@pytest.mark.parametrize("name", ["sum", "mixed"])
def test_goes_on_exactly_in_another_process(engine, bundle, name, tmp_path):
    model, inputs = MODELS[name], inputs_of(MODELS[name], 12)
    stream = engine(name).stream(batch=2)
    stream.run(cut(model, inputs, slice(5)))
    (tmp_path / "snapshot").write_bytes(stream.snapshot())
    pieces = tmp_path / "pieces.npz"
    np.savez(pieces, **cut(model, inputs, slice(5, None)))
    # Each process orders sets of strings in its own way.
    subprocess.run(
        [sys.executable, "-c", DRIVE, bundle(name), tmp_path / "snapshot", pieces],
        check=True,
        env={"PYTHONHASHSEED": "7"},
    )
    want = stream.run(cut(model, inputs, slice(5, None)))
    with np.load(pieces) as given:
        check_equal(dict(given), want if isinstance(want, dict) else {"y": want})


def test_what_waits_is_written_in_the_order_of_the_inputs(engine):
    stream = engine("mixed").stream()
    stream.run({"x": np.full((2, 3), 1, np.float32), "z": np.full((2, 1), 2, np.float32), "gain": [0, 0, 0]})
    values = np.frombuffer(stream.snapshot()[:-4], "<f4", offset=HEADER.size)
    np.testing.assert_array_equal(values, [0] * 3 + [1] * 6 + [2] * 2)


def test_the_layout_is_the_documented_one(engine):
    stream = engine("sum").stream(batch=2)
    stream.step(np.array([[1, 2, 3], [4, 5, 6]], np.float32))
    header = MAGIC + bytes.fromhex(SUM.spec.digest) + struct.pack("<IQI", 2, 1, 0)
    whole = header + struct.pack("<6f", 1, 2, 3, 4, 5, 6)
    assert stream.snapshot() == whole + struct.pack("<I", zlib.crc32(whole))


def header(**changes: object) -> bytes:
    fields = {"magic": MAGIC, "digest": bytes.fromhex(SUM.spec.digest), "rows": 1, "frames": 0, "waiting": 0, **changes}
    return HEADER.pack(*fields.values())


BODY, CRC = bytes(12), bytes(4)
BAD = {
    "none": (None, ("snapshot-not-bytes",)),
    "text": ("rnnxsnp1" * 20, ("snapshot-not-bytes",)),
    "array": (np.zeros(90, np.uint8), ("snapshot-not-bytes",)),
    "empty": (b"", ("snapshot-not-bytes",)),
    "short": (header()[:-1], ("snapshot-not-bytes",)),
    "magic": (header(magic=b"PNG") + BODY, ("snapshot-magic-differs", "b'PNG\\x00", "b'rnnxsnp1'")),
    "digest": (header(digest=b"\x12" * 32) + BODY, ("snapshot-of-other-model", "121212121212")),
    "rows": (header(rows=8) + BODY * 8, ("snapshot-rows-differ", "8", "1", "8")),
    "truncated": (header() + BODY + CRC[:-1], ("snapshot-truncated", "71", "72")),
    "longer": (header() + BODY + CRC + b"\0", ("snapshot-truncated", "73", "72")),
    "waiting": (header(waiting=1) + BODY + BODY + CRC, ("snapshot-truncated",)),
    "much waiting": (header(waiting=2**32 - 1) + BODY, ("snapshot-truncated",)),
}


@pytest.mark.parametrize(("snapshot", "message"), BAD.values(), ids=BAD)
def test_what_is_no_snapshot_of_this_stream(engine, snapshot, message):
    stream = engine("sum").stream()
    stream.step(np.ones(3, np.float32))
    before = stream.snapshot()
    with raises(*message):
        stream.restore(snapshot)
    assert stream.snapshot() == before


def test_every_flipped_bit_is_found(engine):
    stream = engine("sum").stream(states={"h": [1, 2, 3]})
    good = stream.snapshot()
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StreamError) as caught:
            stream.restore(bad)
        assert caught.value.id.startswith("snapshot-")
    assert stream.snapshot() == good


def test_more_frames_than_any_stream_has(engine):
    """A forger of a snapshot can forge its checksum too, and a server takes both from its callers."""
    stream = engine("sum").stream()
    whole = bytearray(stream.snapshot()[: -CHECK.size])
    for frames_fed in (2**62, 2**64 - 1):
        struct.pack_into("<Q", whole, 44, frames_fed)
        with raises("snapshot-frame-count", frames_fed):
            stream.restore(bytes(whole) + CHECK.pack(zlib.crc32(whole)))


def test_a_model_without_a_digest_gives_no_snapshot(tmp_path):
    model = replace(SUM, spec=replace(SUM.spec, digest=""))
    stream = load(model.write(tmp_path / "m.rnnx")).stream()
    with raises("snapshot-without-digest"):
        stream.snapshot()
