"""Finds inputs with several frames per frame of the others, by running the model, not from sizes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rnn_export.export.lift.axes.axes import TimeAxis, requested_time
from rnn_export.export.lift.axes.axis_probe import AxisProbe
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.folded_inputs import Rated

# Frames that one input may have more than another, at both ends together.
MOST_LATE = 64
# Frames by which a sequence is made longer, to see that the model takes it.
LONGER = (1, 3)
# Ways that are tried, at most.
MOST_TRIED = 400


@dataclass(frozen=True)
class _Rates:
    """The growth of all inputs: each along an axis, by a number of frames per frame of the sequence.

    None for an input that does not grow; `sequence` is the number of frames in the example.
    """

    sequence: int
    inputs: tuple[Rated | None, ...]

    @property
    def moving(self) -> list[Rated]:
        return [rated for rated in self.inputs if rated is not None]

    @property
    def numbers(self) -> list[int]:
        return [i for i, rated in enumerate(self.inputs) if rated is not None]

    @property
    def rank(self) -> tuple[int, int, int]:
        """The sort key, likeliest lowest: no late input, all growing, fewest frames for one."""
        late = max(rated.unread for rated in self.moving)
        return late, self.inputs.count(None), -self.sequence


def rated_inputs(flat: FlatModel, time_axis: TimeAxis) -> dict[int, Rated]:
    """By number, the inputs with several frames per frame of the sequence, or late ones; empty if there are none.

    A ratio counts if the model takes inputs that are longer by it, but not each of them longer by itself.
    """
    probe = AxisProbe(flat)
    for rates in itertools.islice(_rates_to_try(flat, time_axis), MOST_TRIED):
        if _fits(probe, rates) and not all(_takes(probe, rates, [i], 1) for i in rates.numbers):
            found = next(filter(lambda lower: _fits(probe, lower), _lower_terms(flat, rates)), rates)
            rated = ((i, r) for i, r in enumerate(found.inputs) if r is not None)
            return {i: r for i, r in rated if r.frames > 1 or r.unread}
    return {}


def _fits(probe: AxisProbe, rates: _Rates) -> bool:
    return all(_takes(probe, rates, rates.numbers, n) for n in LONGER)


def _lower_terms(flat: FlatModel, rates: _Rates) -> Iterator[_Rates]:
    """The same growth in lower terms, in case windows leave frames over at the ends."""
    shared, ports = math.gcd(*(rated.frames for rated in rates.moving)), [*zip(flat.inputs, rates.inputs, strict=True)]
    for n in range(shared, 1, -1):
        if shared % n == 0:
            own = [leaf.example.shape[r.axis] // (r.frames // n) for leaf, r in ports if r is not None]
            late = (max(own) - size for size in own)
            yield _Rates(max(own), tuple(r and replace(r, frames=r.frames // n, unread=next(late)) for _, r in ports))


def _takes(probe: AxisProbe, rates: _Rates, numbers: Sequence[int], frames: int) -> bool:
    """True if the model takes the inputs `numbers` longer by `frames` of the sequence."""
    sizes = [dict[int, int]() for _ in rates.inputs]
    for i in numbers:
        if (rated := rates.inputs[i]) is not None:
            sizes[i] = {rated.axis: probe.inputs[i].example.shape[rated.axis] + frames * rated.frames}
    return probe.takes(sizes)


def _rates_to_try(flat: FlatModel, time_axis: TimeAxis) -> list[_Rates]:
    """Growths in which one input has more frames than another, the likeliest first."""
    requested, shapes = requested_time(flat, time_axis), [tuple(leaf.example.shape) for leaf in flat.inputs]
    axes = [[*range(len(shape)), None] if requested is None else [requested[i]] for i, shape in enumerate(shapes)]
    sizes = {shape[a] for shape, own in zip(shapes, axes, strict=True) for a in own if a is not None and shape[a] > 1}
    sequences = {size // n for size in sizes for n in _divisors(size)}
    found = set[_Rates]()
    for frames in sequences:
        ports = zip(shapes, axes, strict=True)
        by_input = [
            [r for a in own for r in ([None] if a is None else _rates(shape[a], a, frames))] for shape, own in ports
        ]
        combinations = (_Rates(frames, inputs) for inputs in itertools.product(*by_input))
        found.update(rates for rates in itertools.islice(combinations, MOST_TRIED) if _has_ratio(rates))
    return sorted(found, key=lambda rates: rates.rank)


def _rates(size: int, axis: int, frames: int) -> Iterator[Rated]:
    """Rates for an axis of `size` in a sequence of `frames`."""
    for rate in _divisors(size):
        if 0 <= (late := frames - size // rate) <= min(MOST_LATE, frames - 1):
            yield Rated(axis, rate, late)


def _divisors(size: int) -> list[int]:
    """The divisors up to half of `size`."""
    return [n for n in range(1, size // 2 + 1) if size % n == 0]


def _has_ratio(rates: _Rates) -> bool:
    moving = rates.moving
    return len({rated.frames for rated in moving}) > 1 and min(rated.unread for rated in moving) == 0
