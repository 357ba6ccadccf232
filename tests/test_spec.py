"""The contract survives JSON, and refuses contradictions in itself."""

import copy
import json
from dataclasses import FrozenInstanceError, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnn_export.contract.layout import late_rows
from rnn_export.contract.spec import ASSUMED, BATCH, DTYPES, TIME, Assumption, StateSpec, StreamSpec, TensorSpec, sized
from rnn_export.errors import SpecError

from .messages import raises

X = TensorSpec("x", "float32", ("batch", "time", 4))
Y = TensorSpec("y", "float32", ("batch", "time", 2))
H = StateSpec("rnn.h", "rnn.h", "rnn.h.next", "float32", ("batch", 3))
C = StateSpec("rnn.c", "rnn.c", "rnn.c.next", "int64", ("batch",), "stored")
SPEC = StreamSpec((X,), (Y,), (H, C), chunk=4, delay=2, sample_rate=16000, digest="0f" * 32)


@st.composite
def shapes(draw: st.DrawFn, symbols: tuple[str, ...]) -> tuple[int | str, ...]:
    dims = draw(st.lists(st.integers(1, 20), max_size=3))
    return tuple(draw(st.permutations([*symbols, *dims])))


@st.composite
def specs(draw: st.DrawFn) -> StreamSpec:
    names = iter(draw(st.lists(st.text(min_size=1), min_size=14, max_size=14, unique=True)))
    dtypes = st.sampled_from(DTYPES)
    timed = draw(st.booleans())
    axes = (BATCH, TIME) if timed else (BATCH,)
    tensors = st.builds(TensorSpec, st.builds(lambda: next(names)), dtypes, shapes(axes))
    rows = st.lists(st.integers(1, 99), max_size=3).map(lambda dims: (BATCH, *dims))
    named = st.builds(lambda: next(names))
    states = st.builds(StateSpec, named, named, named, dtypes, rows, st.sampled_from(("zeros", "stored")))
    assumptions = st.builds(Assumption, st.text(min_size=1), st.booleans(), st.sampled_from(tuple(ASSUMED)))
    whole = timed and draw(st.booleans())
    every = draw(st.integers(1, 9))
    fewer = (BATCH, TIME if every == 1 else f"{TIME}/{every}") if timed else axes
    outputs = st.builds(TensorSpec, st.builds(lambda: next(names)), dtypes, shapes(fewer))
    return StreamSpec(
        tuple(draw(st.lists(tensors, min_size=1, max_size=2))),
        tuple(draw(st.lists(outputs, min_size=1, max_size=2))),
        () if whole else tuple(draw(st.lists(states, max_size=2))),
        chunk=every * draw(st.integers(1, 99)) if timed and not whole else 1,
        delay=0 if whole else every * draw(st.integers(0, 99)),
        sequence_only=whole,
        sample_rate=draw(st.none() | st.integers(1, 192000)),
        assumptions=tuple(draw(st.lists(assumptions, max_size=2, unique_by=lambda a: a.at))),
        digest=draw(st.just("") | st.binary(min_size=32, max_size=32).map(bytes.hex)),
    )


@settings(deadline=None)
@given(specs())
def test_survives_json(spec):
    back = StreamSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert back == spec
    assert hash(back) == hash(spec)
    assert back.dumps() == spec.dumps()
    assert StreamSpec.from_json(spec.to_json()) == spec


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.data())
def test_any_other_json_is_refused_or_read(data):
    """Any value in one place gives SpecError, or a contract that survives JSON."""
    tree = json.loads(SPEC.dumps())
    holder, key = data.draw(st.sampled_from(list(places(tree))))
    holder[key] = data.draw(JSON)
    try:
        spec = StreamSpec.from_json(copy.deepcopy(tree))
    except SpecError:
        return
    assert StreamSpec.from_json(json.loads(spec.dumps())) == spec


def places(tree):
    for key in tree if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from places(tree[key])


def test_the_text_is_canonical():
    assert SPEC.dumps() == json.dumps(json.loads(SPEC.dumps()), sort_keys=True, separators=(",", ":"))


def test_what_the_shapes_say():
    assert (X.axis("batch"), X.axis("time"), X.frame) == (0, 1, (4,))
    assert TensorSpec("x", "int64", ("batch",)).axis("time") is None
    assert TensorSpec("x", "int64", (2, "time", "batch", 3)).frame == (2, 3)
    assert (H.row, C.row) == ((3,), ())
    assert SPEC.has_time
    assert not StreamSpec((TensorSpec("x", "bool", ("batch",)),), (TensorSpec("y", "bool", ("batch",)),), ()).has_time


def test_an_output_may_have_fewer_frames():
    every = replace(Y, shape=("batch", 2, "time/4"))
    assert (every.axis("time"), every.every, every.frame) == (2, 4, (2,))
    untimed = TensorSpec("y", "float32", ("batch", 2))
    assert (Y.every, untimed.every, untimed.rate, every.rate) == (1, 1, 1, Fraction(1, 4))
    spec = replace(SPEC, outputs=(every,), delay=8)
    assert spec.timed(every)
    assert StreamSpec.from_json(json.loads(spec.dumps())) == spec
    assert sized(every.shape, 3, 12) == (3, 2, 3)
    assert sized(Y.shape, 3, 12) == (3, 12, 2)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 6), st.integers(0, 40), st.integers(0, 40))
def test_which_frame_gives_an_output(every, chunk, delay, fed, frames):
    """Each method against a count of the frames one by one: frame n gives an output if n is late enough, and the last
    of `every`."""
    time = "time" if every == 1 else f"time/{every}"
    tensor = replace(Y, shape=("batch", time, 2))
    spec = replace(
        SPEC, outputs=(tensor, replace(Y, name="z", shape=("batch", 2))), chunk=chunk * every, delay=delay * every
    )
    fed, frames = fed * every, frames * every
    gives = [n for n in range(1, fed + frames + 1) if n > spec.delay and n % every == 0]
    in_piece = [n for n in gives if n > fed]
    assert spec.frames_out(tensor, fed) == len(gives) - len(in_piece)
    assert list(spec.known_after(tensor, fed, fed + frames)) == in_piece
    assert tensor.frames_of(frames) == frames // every
    assert len(range(frames // every)[spec.valid(tensor, fed, frames)]) == len(in_piece)
    assert spec.valid(spec.outputs[1], fed, frames) == slice(0, None)
    assert spec.without_output(fed, frames) == (not in_piece)
    assert spec.settled(fed) == (fed >= spec.delay)
    assert spec.late(fed, frames) == sum(n <= spec.delay for n in range(fed + 1, fed + frames + 1))
    assert spec.late(fed) == spec.late(fed, spec.chunk)
    steps = [spec.late(n * spec.chunk) for n in range(delay * every + 1)]
    assert spec.settling_steps == sum(late > 0 for late in steps)
    assert spec.has_delay == (delay > 0)
    assert spec.largest_every == every
    np.testing.assert_array_equal(late_rows(spec, np.array([0, fed, frames])), [spec.late(n) for n in (0, fed, frames)])


def test_a_sequence_only_model_has_neither_states_nor_steps():
    spec = replace(SPEC, states=(), chunk=1, delay=0, sequence_only=True)
    assert StreamSpec.from_json(json.loads(spec.dumps())) == spec
    replace(spec, outputs=(replace(Y, shape=("batch", "time/4", 2)),))  # no chunk that 4 could divide


def test_a_contract_without_assumptions_has_no_such_field():
    """As bundles of before they were there: those are read, and what is written without any is read by them."""
    assert "assumptions" not in SPEC.to_json()
    assumed = replace(SPEC, assumptions=(Assumption("net.py:7", False, "said"),))
    assert assumed.to_json()["assumptions"] == ({"at": "net.py:7", "value": False, "why": "said"},)
    assert assumed.assumptions[0].note == "net.py:7: assumed to be false in every stream, as was said"


def test_a_contract_is_frozen():
    with pytest.raises(FrozenInstanceError):
        SPEC.chunk = 1


NO_TIME = TensorSpec("x", "float32", ("batch", 4))
REFUSALS = {
    "no name": (lambda: replace(X, name=""), ("tensor-without-name", "''")),
    "name of another type": (lambda: replace(X, name=7), ("tensor-without-name", "7")),
    "dtype": (lambda: replace(X, dtype="bfloat16"), ("contract-dtype-unknown", "'x'", "'bfloat16'", ", ".join(DTYPES))),
    "symbol": (lambda: replace(X, shape=("batch", "T")), ("tensor-dimension-invalid", "'x'", "'T'")),
    "zero": (lambda: replace(X, shape=("batch", 0)), ("tensor-dimension-invalid", "'x'", "0")),
    "true": (lambda: replace(X, shape=("batch", True)), ("tensor-dimension-invalid", "'x'", "True")),
    "float": (lambda: replace(X, shape=("batch", 2.0)), ("tensor-dimension-invalid", "'x'", "2.0")),
    "two times": (lambda: replace(X, shape=("batch", "time", "time")), ("tensor-axis-twice", "'time'")),
    "two batches": (lambda: replace(X, shape=("batch", "batch")), ("tensor-axis-twice", "'batch'")),
    "state without batch": (lambda: replace(H, shape=(3,)), ("state-without-batch-axis",)),
    "state with batch elsewhere": (lambda: replace(H, shape=(3, "batch")), ("state-without-batch-axis",)),
    "state with time": (lambda: replace(H, shape=("batch", "time")), ("tensor-dimension-invalid", "'rnn.h'", "'time'")),
    "initial": (lambda: replace(H, initial="ones"), ("state-initial-unknown", "'ones'")),
    "assumed by nobody": (
        lambda: Assumption("net.py:7", True, "guessed"),
        ("assumption-reason-unknown", "'net.py:7'", "'guessed'", "said, either, raises, weights"),
    ),
    "assumed nowhere": (lambda: Assumption("", True, "said"), ("assumption-place-length",)),
    "assumed twice": (
        lambda: replace(
            SPEC, assumptions=(Assumption("net.py:7", True, "said"), Assumption("net.py:7", False, "said"))
        ),
        ("contract-contradiction", "names must be unique, but 'net.py:7' stand twice among"),
    ),
    "no inputs": (
        lambda: replace(SPEC, inputs=()),
        ("contract-contradiction", "a stream needs at least one input and one output"),
    ),
    "no outputs": (
        lambda: replace(SPEC, outputs=()),
        ("contract-contradiction", "a stream needs at least one input and one output"),
    ),
    "two inputs of one name": (
        lambda: replace(SPEC, inputs=(X, X)),
        ("contract-contradiction", "names must be unique, but 'x' stand twice among"),
    ),
    "input and state": (
        lambda: replace(SPEC, inputs=(X, replace(X, name="rnn.h"))),
        ("contract-contradiction", "names must be unique, but 'rnn.h' stand twice among"),
    ),
    "output and next state": (
        lambda: replace(SPEC, outputs=(replace(Y, name="rnn.c.next"),)),
        ("contract-contradiction", "names must be unique, but 'rnn.c.next' stand twice among"),
    ),
    "two states of one name": (
        lambda: replace(SPEC, states=(H, replace(H, input="a", output="b"))),
        ("contract-contradiction", "names must be unique, but 'rnn.h' stand twice among"),
    ),
    "input without batch": (
        lambda: replace(SPEC, inputs=(replace(X, shape=("time", 4)),)),
        ("contract-contradiction", "'x' has shape ('time', 4): it needs exactly one 'batch' axis"),
    ),
    "chunk": (
        lambda: replace(SPEC, chunk=0),
        ("contract-contradiction", "chunk is 0 and delay 2: chunk starts at 1, delay at 0"),
    ),
    "delay": (
        lambda: replace(SPEC, delay=-1),
        ("contract-contradiction", "chunk is 4 and delay -1: chunk starts at 1, delay at 0"),
    ),
    "rate": (
        lambda: replace(SPEC, sample_rate=0),
        ("contract-contradiction", "sample_rate is 0, but is in Hz, from 1 to 2147483648"),
    ),
    "short digest": (
        lambda: replace(SPEC, digest="0f"),
        ("contract-contradiction", "digest is '0f', which is not a sha256 in lower-case hex"),
    ),
    "upper-case digest": (
        lambda: replace(SPEC, digest="0F" * 32),
        ("contract-contradiction", "which is not a sha256 in lower-case hex"),
    ),
    "chunk without time": (
        lambda: replace(SPEC, inputs=(NO_TIME,), outputs=(replace(Y, shape=("batch", 2)),)),
        ("contract-contradiction", "chunk is 4, but no input has a time axis"),
    ),
    "output with time of its own": (
        lambda: replace(SPEC, inputs=(NO_TIME,), chunk=1),
        ("contract-contradiction", "'y' has shape ('batch', 'time', 2), but no input has a time axis"),
    ),
    "time/1": (
        lambda: replace(Y, shape=("batch", "time/1")),
        ("tensor-dimension-invalid", "'y'", "'time/1'"),
    ),
    "time/0": (lambda: replace(Y, shape=("batch", "time/0")), ("tensor-dimension-invalid", "'y'", "'time/0'")),
    "time/02": (lambda: replace(Y, shape=("batch", "time/02")), ("tensor-dimension-invalid", "'y'", "'time/02'")),
    "time/x": (lambda: replace(Y, shape=("batch", "time/x")), ("tensor-dimension-invalid", "'y'", "'time/x'")),
    "batch/2": (lambda: replace(Y, shape=("batch/2", "time")), ("tensor-dimension-invalid", "'y'", "'batch/2'")),
    "two times of one kind": (lambda: replace(Y, shape=("batch", "time", "time/2")), ("tensor-axis-twice", "'time'")),
    "state with fewer frames": (
        lambda: replace(H, shape=("batch", "time/2")),
        ("tensor-dimension-invalid", "'rnn.h'", "'time/2'"),
    ),
    "input with fewer frames": (
        lambda: replace(SPEC, inputs=(replace(X, shape=("batch", "time/2", 4)),)),
        ("contract-contradiction", "an input has 'time' or 'time*N', never 'time/N'"),
    ),
    "chunk between frames": (
        lambda: replace(SPEC, outputs=(replace(Y, shape=("batch", "time/3")),), delay=3),
        (
            "contract-contradiction",
            "'y' has one frame for every 3 of the input, so chunk 4 and delay 3 must be multiples of 3",
        ),
    ),
    "delay between frames": (
        lambda: replace(SPEC, outputs=(replace(Y, shape=("batch", "time/4")),)),
        (
            "contract-contradiction",
            "'y' has one frame for every 4 of the input, so chunk 4 and delay 2 must be multiples of 4",
        ),
    ),
    "fewer frames without time": (
        lambda: replace(SPEC, inputs=(NO_TIME,), outputs=(replace(Y, shape=("batch", "time/4")),), chunk=1, delay=0),
        ("contract-contradiction", "'y' has shape ('batch', 'time/4'), but no input has a time axis"),
    ),
    **{
        f"sequence-only with {what}": (
            lambda more=more: replace(SPEC, **{"states": (), "chunk": 1, "delay": 0, "sequence_only": True, **more}),
            (
                "contract-contradiction",
                "a sequence-only model has a time axis, and neither states nor delay nor chunks",
            ),
        )
        for what, more in {
            "states": {"states": (H,)},
            "delay": {"delay": 2},
            "chunks": {"chunk": 4},
            "no time": {"inputs": (NO_TIME,), "outputs": (replace(Y, shape=("batch", 2)),)},
        }.items()
    },
}


@pytest.mark.parametrize(("make", "message"), REFUSALS.values(), ids=REFUSALS)
def test_contradictions(make, message):
    with raises(*message):
        make()


def changed(path: tuple, value: object) -> object:
    """The JSON of SPEC with `value` at `path`, or without that field where `value` is ...."""
    tree = json.loads(SPEC.dumps())
    *way, last = path
    holder = tree
    for key in way:
        holder = holder[key]
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    return tree


BAD_JSON = {
    "a list": ([], ("contract-fields-differ", "the stream contract", "['chunk', 'delay'")),
    "none": (None, ("contract-fields-differ", "NoneType")),
    "missing": (changed(("delay",), ...), ("contract-fields-differ", "the stream contract")),
    "unknown": (changed(("name",), "x"), ("contract-fields-differ", "the stream contract")),
    "sequence only": (
        changed(("sequence_only",), 1),
        ("contract-field-type", "the stream contract", "'sequence_only' is 1"),
    ),
    "no sequence only": (changed(("sequence_only",), ...), ("contract-fields-differ", "the stream contract")),
    "output time": (changed(("outputs", 0, "shape", 1), "time/1"), ("tensor-dimension-invalid", "'y'", "'time/1'")),
    "chunk": (changed(("chunk",), 1.0), ("contract-field-type", "the stream contract", "'chunk' is 1.0")),
    "true chunk": (changed(("chunk",), True), ("contract-field-type", "the stream contract", "'chunk' is True")),
    "inputs": (changed(("inputs",), "x"), ("contract-field-type", "the stream contract", "'inputs' is 'x'")),
    "an input": (changed(("inputs", 0), "x"), ("contract-fields-differ", "an input", "['dtype', 'name', 'shape']")),
    "input shape": (changed(("inputs", 0, "shape"), 3), ("contract-field-type", "an input", "'shape' is 3")),
    "output dim": (changed(("outputs", 0, "shape", 2), None), ("tensor-dimension-invalid", "'y'", "None")),
    "output dtype": (changed(("outputs", 0, "dtype"), None), ("contract-field-type", "an output", "'dtype' is None")),
    "state": (changed(("states", 1, "output"), ...), ("contract-fields-differ", "a state")),
    "an assumption": (
        changed(("assumptions",), [{"at": "net.py:7", "value": 1, "why": "said"}]),
        ("contract-field-type", "an assumption", "'value' is 1"),
    ),
    "rate": (
        changed(("sample_rate",), "16k"),
        ("contract-field-type", "the stream contract", "'sample_rate' is '16k'"),
    ),
}


@pytest.mark.parametrize(("data", "message"), BAD_JSON.values(), ids=BAD_JSON)
def test_json_that_is_no_contract(data, message):
    with raises(*message):
        StreamSpec.from_json(data)
