"""The contract as a picture: inputs, states and outputs of a step, and the frames that give no output."""

from collections.abc import Iterator, Sequence

from rnn_export.contract.spec import StateSpec, StreamSpec, TensorSpec
from rnn_export.platform.markup import Html, element, shape_text

WIDTH, BOX, GAP = 340, 42, 8
LEFT, RIGHT = (4.0, 172.0), (200.0, 136.0)
# Boxes of a kind that are drawn; the tables have all.
MOST = 6
# Of a name, in characters of the picture's own width.
CHARACTER = 7.3
FRAMES = 14


def contract_picture(spec: StreamSpec) -> Html:
    """Inputs above the step, outputs below, states at its side, frames without output underneath: 340 wide."""
    kept = _boxes(spec.states)
    inside = 26 + len(kept) * (BOX + GAP) if kept else 0
    height = max(76, inside)
    drawn, y = [], 4.0
    for box in _boxes(spec.inputs):
        drawn.append(_tensor(box, *LEFT, y, "in"))
        y += BOX + GAP
    drawn.append(_arrow(f"M{LEFT[0] + LEFT[1] / 2} {y - GAP}V{y + 14}"))
    top = y + 16
    drawn += [*_step(spec, top, height)]
    if kept:
        drawn += [*_states(spec, kept, top, height, inside)]
    y = top + height
    drawn.append(_arrow(f"M{LEFT[0] + LEFT[1] / 2} {y}V{y + 14}"))
    y += 16
    for box in _boxes(spec.outputs):
        drawn.append(_tensor(box, *LEFT, y, "out"))
        y += BOX + GAP
    if spec.has_delay or spec.tail:
        drawn += [*_frames(spec, y + 10)]
        y += 74
    label = f"{_count(spec.inputs, 'input')}, {_count(spec.states, 'state')}, {_count(spec.outputs, 'output')}"
    marker = element("marker", element("path", d="M0 0L6 3L0 6z", class_="tip"), id="tip", viewBox="0 0 6 6",
                     refX=5, refY=3, markerWidth=7, markerHeight=7, orient="auto")  # fmt: skip
    return element(
        "svg", element("defs", marker), *drawn, viewBox=f"0 0 {WIDTH} {y:.0f}", role="img", class_="contract",
        aria_label=f"One step of the stream: {label}", width=WIDTH, height=f"{y:.0f}",
    )  # fmt: skip


def _boxes(tensors: Sequence[TensorSpec | StateSpec]) -> list[TensorSpec | StateSpec | str]:
    if len(tensors) <= MOST:
        return [*tensors]
    return [*tensors[: MOST - 1], f"and {len(tensors) - MOST + 1} more"]


def _tensor(box: TensorSpec | StateSpec | str, x: float, width: float, y: float, kind: str) -> Html:
    rect = element("rect", x=x, y=y, width=width, height=BOX, rx=6, class_=f"box {kind}")
    if isinstance(box, str):
        return element("g", rect, element("text", box, x=x + 10, y=y + 26, class_="small"))
    size = f"{box.bytes:,} bytes" if isinstance(box, StateSpec) else box.dtype
    width = int((width - 20) / CHARACTER)
    small = int((width - 20) / (CHARACTER * 0.86))
    label = f"{size} {shape_text(box.shape)}" if not isinstance(box, StateSpec) else f"{size} {shape_text(box.row)}"
    return element(
        "g", element("title", f"{box.name}: {box.dtype} {shape_text(box.shape)}"), rect,
        element("text", shortened(box.name, width), x=x + 10, y=y + 18, class_="name"),
        element("text", shortened(label, small), x=x + 10, y=y + 33, class_="small"),
    )  # fmt: skip


def _step(spec: StreamSpec, y: float, height: float) -> Iterator[Html]:
    x, width = LEFT
    middle = y + height / 2
    yield element("rect", x=x, y=y, width=width, height=height, rx=6, class_="step")
    title = "one whole sequence" if spec.sequence_only else "one step"
    frames = "a frame" if spec.chunk == 1 else f"{spec.chunk:,} frames"
    under = "no state: it cannot stream" if spec.sequence_only else f"{frames} at a time"
    yield element("text", title, x=x + width / 2, y=middle - 3, class_="title")
    yield element("text", under, x=x + width / 2, y=middle + 15, class_="small middle")


def _states(
    spec: StreamSpec, kept: Sequence[TensorSpec | StateSpec | str], top: float, height: float, inside: float
) -> Iterator[Html]:
    x, width = RIGHT
    y = top + (height - inside) / 2
    yield element("text", f"{spec.state_bytes:,} bytes a stream", x=x, y=y + 14, class_="small")
    first = y + 24
    for number, box in enumerate(kept):
        yield _tensor(box, x, width, first + number * (BOX + GAP), "state")
    edge, lower = LEFT[0] + LEFT[1], first + (len(kept) - 1) * (BOX + GAP) + BOX * 0.75
    yield _arrow(f"M{x} {first + BOX * 0.25}H{edge + 3}")
    yield _arrow(f"M{edge} {lower}H{x - 3}")


def _frames(spec: StreamSpec, y: float) -> Iterator[Html]:
    """A stream from its first frame to its last: those without output, and the outputs after the last."""
    size, width = 16, (WIDTH - 8) / (FRAMES + 2)
    silent, after = min(spec.delay, 4), min(spec.tail, 2)
    for number in range(FRAMES + after):
        kind = "silent" if number < silent else "late" if number >= FRAMES else "heard"
        yield element("rect", x=f"{4 + number * width:.1f}", y=y, width=size, height=size, rx=3, class_=f"frame {kind}")
    at = y + 34
    if spec.has_delay:
        yield element("text", f"the first {spec.delay:,} frames give no output", x=4, y=at, class_="small")
        at += 16
    if spec.tail:
        label = f"finish() gives the last {spec.tail:,} frames at most"
        yield element("text", label, x=4, y=at, class_="small")


def _arrow(path: str) -> Html:
    return element("path", d=path, class_="arrow", marker_end="url(#tip)")


def _count(things: Sequence[object], what: str) -> str:
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"


def shortened(name: str, width: int) -> str:
    """`name` with its middle left out where it is longer than `width`."""
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return f"{name[: width - 1 - tail]}…{name[-tail:] if tail else ''}"
