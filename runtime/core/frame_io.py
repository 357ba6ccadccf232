"""Frames in and out of bound buffers, without the axes that a caller omits, checked on the way in."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rnn_export.contract.layout import canonical
from rnn_export.contract.snapshot import Snapshot, unpack
from rnn_export.contract.spec import TIME, StreamSpec, TensorSpec
from rnn_export.errors import StreamError
from rnn_export.platform.arrays import Array, Arrays, is_masked

MASKED = "is a masked array, and a model knows no mask: what lies under it would be fed. Fill it, x.filled(0)"


def frame_view(buffer: Array, spec: TensorSpec) -> Array:
    """One step's worth of `buffer`: a batch of 1 and a chunk of 1 have no axis."""
    view = canonical(buffer, spec)
    if spec.axis(TIME) is not None and view.shape[1] == 1:
        view = view[:, 0]
    return view[0, ...] if view.shape[0] == 1 else view


def unfit(values: Array, initial: Array | None = None) -> Array:
    """The mask of NaN and Inf in `values`, less any Inf that `initial` has at the same place."""
    bad: Array = ~np.isfinite(values)
    return bad if initial is None else bad & (values != initial)


def check_values(
    name: str,
    x: Any,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    finite: bool = True,
    initial: Array | None = None,
) -> Array:
    """`x` as an array of `shape` and `dtype`, of `finite` values if so asked; raises StreamError if it does not fit.

    `initial` is one row of a state's initial value: the state may have the Inf of that value at the same place, as a
    running maximum, which starts from -inf.
    """
    array = as_array(name, x, dtype)
    if array.dtype != dtype and not np.can_cast(array.dtype, dtype, "safe"):
        raise StreamError(f"{name!r} {other_dtype(array.dtype, dtype)}", id="wrong-dtype-of-input")
    if array.shape != shape:
        raise StreamError(f"{name!r} has shape {array.shape}, but must be {shape}.", id="wrong-shape-of-input")
    result = np.asarray(array, dtype)
    if finite and not np.isfinite(result).all() and (bad := unfit(result, initial)).any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        where = f"index {index}" if index else "its only value"
        raise StreamError(
            f"{name!r} holds NaN or Inf at {where}: it was not fed, the state is unchanged.", id="frame-not-finite"
        )
    return result


def other_dtype(found: np.dtype[Any], wanted: np.dtype[Any]) -> str:
    return f"is {found}, but must be {wanted}: convert it with .astype(np.{wanted}) if you mean it."


def check_states(spec: StreamSpec, batch: int, states: Any, initial: Arrays) -> dict[str, Array]:
    """Every state as (batch, ...) or as one row for all, by name; raises StreamError where they do not fit.

    `initial` are the model's initial states, one row each.
    """
    names = [s.name for s in spec.states]
    if not isinstance(states, Mapping):
        raise StreamError(
            f"states= is a {type(states).__name__}, but must be a dict with {', '.join(names)}.", id="states-not-a-dict"
        )
    missing, unknown = [n for n in names if n not in states], sorted(str(n) for n in states if n not in names)
    found = (("missing", missing), ("unknown", unknown))
    if parts := [f"{what}: {', '.join(wrong)}" for what, wrong in found if wrong]:
        raise StreamError(
            f"states= does not fit, {'; '.join(parts)}. This model's states are {', '.join(names)}.",
            id="states-do-not-fit",
        )
    checked = {}
    for state in spec.states:
        whole, dtype = (batch, *state.row), np.dtype(state.dtype)
        array = as_array(state.name, states[state.name], dtype)
        shape = state.row if array.shape == state.row else whole
        values = check_values(state.name, array, shape, dtype, initial=initial[state.name])
        checked[state.name] = np.broadcast_to(values, whole).copy()
    return checked


def check_snapshot(spec: StreamSpec, batch: int, data: bytes, initial: Arrays) -> Snapshot:
    """The snapshot in `data`, its values checked like given states and frames; raises StreamError.

    `initial` is as in `check_states`.
    """
    snapshot = unpack(spec, batch, data)
    for name, values in (*snapshot.states.items(), *snapshot.pending.items()):
        check_values(name, values, values.shape, values.dtype, initial=initial.get(name))
    return snapshot


def as_array(name: str, x: Any, dtype: np.dtype[Any]) -> Array | np.generic:
    """Arrays and numpy's scalars as they are, anything else as numpy reads it, in `dtype` if it has none of its own."""
    if is_masked(x):
        raise StreamError(f"{name!r} {MASKED}.", id="frame-masked")
    if isinstance(x, np.ndarray | np.generic):
        return x
    if isinstance(x, Mapping):
        raise StreamError(f"{name!r} is given as a {type(x).__name__}: give the array itself.", id="frame-not-an-array")
    try:
        found = np.asarray(x)
    except Exception as error:  # a foreign __array__ has its own
        raise StreamError(
            f"{name!r} is a {type(x).__name__} that numpy cannot read: {error}.", id="frame-unreadable"
        ) from None
    cast = exact_cast(found, dtype) if without_precision(x) else None
    return found if cast is None else cast


def without_precision(x: Any) -> bool:
    """True if `x` is a number or list of Python's; arrays have a precision of their own."""
    return not hasattr(x, "__array__")


def exact_cast(array: Array, dtype: np.dtype[Any]) -> Array | None:
    """`array` as `dtype`, rounded where that is a float; None where a value would become another one."""
    if array.dtype.kind not in "biuf":
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(dtype, copy=False)
    return cast if dtype.kind == "f" or np.array_equal(cast, array) else None


class FrameInput:
    """Takes frames into a bound buffer."""

    def __init__(self, spec: TensorSpec, buffer: Array) -> None:
        self.name, self.view = spec.name, frame_view(buffer, spec)
        # Of a buffer with its axes in another order `reshape` would be a copy.
        self.load = _loader(spec.name, self.view, buffer.ravel(order="K"))


def _loader(name: str, view: Array, flat: Array) -> Callable[[Any], None]:
    """A function that checks a frame and copies it in; a closure, since it runs at each step."""
    shape, dtype, ndarray, isfinite = view.shape, view.dtype, np.ndarray, math.isfinite
    # The mean is finite only if every value is, cannot overflow, and costs a fraction of looking at each.
    mean = flat.dot if dtype.char in "fd" else None
    weights = np.full_like(flat, 2.0 ** -math.ceil(math.log2(flat.size))) if mean else flat

    def load(x: Any) -> None:
        # A dtype that is equal but another object takes the long way, which knows it.
        if type(x) is not ndarray or x.dtype is not dtype or x.shape != shape:
            x = check_values(name, x, shape, dtype)
        view[...] = x
        if mean is None:
            if dtype.kind == "f":
                check_values(name, x, shape, dtype)
        elif not isfinite(mean(weights)):
            check_values(name, x, shape, dtype)

    return load


def check_out(name: str, out: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Raise StreamError if `out` cannot take such an output."""
    if type(out) is not np.ndarray or out.dtype != dtype or out.shape != shape:
        found = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise StreamError(
            f"out for {name!r} is {found}, but must be an array of {dtype} {shape}.", id="out-does-not-fit"
        )
    if not out.flags.writeable:
        raise StreamError(f"out for {name!r} is read-only.", id="out-read-only")


def check_limit(spec: StreamSpec, fed: int, frames: int, who: str = "") -> None:
    """Raise StreamError where a stream that was fed `fed` frames, named in `who`, cannot take `frames` more."""
    if (beyond := spec.beyond(fed, frames)) is not None:
        raise StreamError(f"{who}{beyond}", id="frames-beyond-limit")


def without_delay(
    spec: StreamSpec, outputs: Mapping[str, Array | None], fed: int, frames: int
) -> dict[str, Array | None]:
    """Outputs (rows, time, ...) of `frames` after `fed` others, without those that the delay leaves out.

    One without a time axis is None where no frame gave it yet.
    """
    timed = {t.name: spec.valid(t, fed, frames) for t in spec.outputs if spec.timed(t)}
    last = {name: None if spec.without_output(fed, frames) else value for name, value in outputs.items()}
    return {n: a[:, timed[n]] if n in timed and a is not None else last[n] for n, a in outputs.items()}
