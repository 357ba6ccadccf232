"""README.md of a model repository: how to start it, how to call it, its limits and its tests."""

from collections.abc import Iterator

from rnn_export.contract.spec import StreamSpec
from rnn_export.export.triton.config import Serving
from rnn_export.platform.installing import pip_install
from rnn_export.runtime.backends.remote.wire import BYTES, SEED, SNAPSHOT, WireFormat, WireTensor

NEEDS = {
    "python": """
The Python of the server needs this toolkit, and a backend that runs the bundle. On the machine that wrote this page
they are installed by

    {install}

In the container, install the same package: a wheel that `pip wheel --no-deps .` makes in a checkout, with the extra
`cpu`; or, for the `native` backend, a bundle whose C was compiled for the server's machine (`rnn-export build --target
c`).

Of the code in the bundle (compiled C, engines, TorchScript) the server runs what `config.pbtxt` names under
`rnn_export.trusted`, which was trusted where this was written, and what the server's own user trusts. It passes over
the rest, and says so in its log.
""",
    "onnxruntime": """
The server needs Triton's onnxruntime backend, which NVIDIA's container has, and nothing of ours.
""",
    "tensorrt": """
**Still to do:** run `./build` on the machine with the GPU. It makes `1/model.plan` of `1/model.onnx` with trtexec;
without the plan, Triton does not load the model. The server needs Triton's tensorrt backend, and nothing of ours.
""",
}

TRIED = {
    "python": """
This form is tested by rnn-export on Triton 2.51 on a CPU. It was not run in NVIDIA's container, nor with a GPU.
""",
    "onnxruntime": """
The tests of rnn-export read the config with Triton's own definition, hold it to the graph, and run the graph in ONNX
Runtime. A Triton with its onnxruntime backend is no part of them; it was tried by hand, 2.51 on a CPU.
""",
    "tensorrt": """
The tests of rnn-export read the config with Triton's own definition and hold it to the graph. **Not run on hardware:**
neither the plan nor Triton's tensorrt backend.
""",
}

START = """
## Start it
{needs}
Where `tritonserver` is on PATH, and in NVIDIA's container:

    ./launch
    docker run --rm {gpus}--network host --shm-size 1g -v "$PWD:/repo:ro" \\
        nvcr.io/nvidia/tritonserver:YY.MM-py3 /repo/launch

It listens on 127.0.0.1. ADDRESS, GRPC_PORT (8001), HTTP_PORT (8000), METRICS_PORT (8002) and EXIT_TIMEOUT are read
from the environment, and options of tritonserver may follow. There is no password and no encryption: leave it on the
loopback or on a network of your own. SIGTERM lets open sequences go on for EXIT_TIMEOUT seconds (30) and refuses new
ones, with UNAVAILABLE.

## Call it

    from rnn_export.runtime import load                  # {remote}

    stream = load("grpc://127.0.0.1:8001/{name}").stream()
    y = stream.step(x)                                   # as with the bundle itself

Or with any client of Triton's. A sequence is an integer above 0 that nobody else uses, best a random one of 63 bits.
Its first request sets START, its last one END, and each waits for the answer to the one before. A request is one row:

| | name | dtype | shape | |
|---|---|---|---|---|
"""

BEHAVIOUR = """
- START begins from the model's initial states, in the middle of a sequence too. A request of an unknown or ended id
  without START is refused.
- END steps, answers, and then frees the sequence.
"""

ON_BYTES = f"""
- `{SEED}` is always there: empty, or with START the `{SNAPSHOT}` of another sequence, of this server, another one or a
  local `stream.snapshot()`, which goes on from there.
- `{SNAPSHOT}` is made only if the request asks for it: name the outputs that you want.
- A frame with NaN or Inf is refused (INVALID_ARGUMENT) and not fed. The sequence goes on as if it had not come, and
  others never notice. Its START and END count all the same.
"""

ON_TENSORS = f"""
- `{SEED}` and the seeds are always there: `{SEED}` is 0, or with START 1, where the seeds are the `.snap` outputs of
  another sequence, which goes on from there.
- A graph refuses no frame: **a NaN stays in its sequence's state until START.** Our client sends none. Others never
  notice.
"""

LIMITS = """
## Limits

- {streams} sequences at a time (`--streams`), at most {batch} of them in one step (`--batch`). **One more waits,
  without a word, until another ends:** give each request a deadline.
- A sequence without a request for {idle_s:g} s (`--idle`) is over; its next one "must specify the START flag".
- A frame waits up to {delay_us} µs (`--delay-us`) for others to share its step.
- Keep --grpc-infer-allocation-pool-size, as `launch` has it, above the requests in flight: with a smaller one
  Triton 2.51 crashed under load.
- An id must not be used again before its END is answered, or two sequences become one. Ids are integers.
- Unloading the model drops its sequences at once.

## What was tried
{tried}"""


def readme(spec: StreamSpec, serving: Serving, wire: WireFormat) -> str:
    """The README.md of a model served as `serving` says: how it is started and called, and its limits."""
    return "".join(_parts(spec, serving, wire))


def _parts(spec: StreamSpec, serving: Serving, wire: WireFormat) -> Iterator[str]:
    yield f"# {serving.name}, served by Triton\n\n"
    yield "Written by `rnn-export triton`: a model repository, `models/`, for NVIDIA Triton Inference Server and its "
    yield f"{serving.backend} backend.\nEach sequence of the server is a stream, whose state stays there between "
    yield f"requests. Digest {spec.digest[:12]}, {serving.precision}.\n"
    gpus = "--gpus all " if serving.backend == "tensorrt" else ""
    needs = NEEDS[serving.backend].format(install=pip_install("cpu"))
    yield START.format(needs=needs, name=serving.name, gpus=gpus, remote=pip_install("remote"))
    for tensor in wire.inputs:
        yield f"| input | `{tensor.name}` | {tensor.dtype} | {(1, *tensor.dims)} | {_input(tensor, spec, wire)} |\n"
    memory = f"the {'memory' if wire.kind == BYTES else 'state'} after this step"
    for tensor in wire.outputs:
        what = memory if tensor in wire.snapshots else ""
        yield f"| output | `{tensor.name}` | {tensor.dtype} | {(1, *tensor.dims)} | {what} |\n"
    yield BEHAVIOUR.rstrip("\n")
    yield ON_BYTES if wire.kind == BYTES else ON_TENSORS
    if spec.has_delay:
        yield f"- The outputs of a sequence's first {spec.delay} frames are of no value: the model has a delay.\n"
    for assumption in spec.assumptions:
        yield f"- The model's code takes a decision by a value at {assumption.note}.\n"
    yield LIMITS.format(tried=TRIED[serving.backend], **vars(serving))


def _input(tensor: WireTensor, spec: StreamSpec, wire: WireFormat) -> str:
    if tensor in wire.frame:
        return f"{spec.chunk} frames" if spec.chunk > 1 else "a frame"
    if tensor.name != SEED:
        return "a state to begin from"
    return "empty, or a snapshot" if wire.kind == BYTES else "above 0.5: begin from the seeds"
